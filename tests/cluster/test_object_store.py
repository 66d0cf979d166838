"""`s2v curate` from S3 to S3, with real Ray: a store in bad weather loses and doubles nothing; a shut one is named."""

import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray
import yaml

from curation.layout import CLIPS, FAILURES, SCORES, VERDICTS, read
from dataset.errors import RunError
from dataset.stage import start_ray
from dataset.store import PUTS, put
from dataset.tables import Table, write_atomically
from tests.cluster.object_store import ObjectStore, Storm, objects
from tests.curation.test_run import PLUGINS, s2v
from tests.videos import clicks, moving_square, write_video

SOURCES = 8
ROUGH = Storm(error=0.08, slow=0.05, cut_off=0.05, lost=0.1)
KEYS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")


@pytest.fixture(scope="module")
def store() -> Iterator[ObjectStore]:
    """A server with the bucket `films`, which this process, Ray and its workers take for S3."""
    server = ObjectStore()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COLUMNS", "160")
        patch.setenv("AWS_ENDPOINT_URL", server.url)
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        patch.setenv("AWS_MAX_ATTEMPTS", "3")  # few, so that faults come through
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        for key in KEYS:
            patch.setenv(key, "x")
        forget_clients()
        fsspec.filesystem("s3").mkdir("films")
        yield server
    forget_clients()
    server.close()


def shifted(by: float, time: float) -> np.ndarray:
    return moving_square(time + by)


def forget_clients() -> None:
    """Clients of the object store that were made with another environment."""
    fsspec.get_filesystem_class("s3").clear_instance_cache()


@pytest.fixture(scope="module")
def shop(store: ObjectStore, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A recipe over videos in the store: s3://films/raw. Ray runs."""
    folder = tmp_path_factory.mktemp("shop")
    fs = fsspec.filesystem("s3")
    for i in range(SOURCES):
        video = write_video(folder / "v.mp4", 1, picture=partial(shifted, i), sound=clicks(1))
        fs.pipe_file(f"films/raw/{i:02d}.mp4", video.read_bytes())
    policy = {"name": "most", "rules": [{"score": "brightness.mean", "max": 88.8334, "source": "test"}]}
    (folder / "policy.yaml").write_text(yaml.safe_dump(policy))
    filters = ["header", f"{PLUGINS}:Brightness"]
    data = {"name": "small", "policy": str(folder / "policy.yaml"), "filters": filters, "shard_clips": 3}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(data))
    start_ray()
    yield folder / "recipe.yaml"
    ray.shutdown()


def curate(recipe: Path, dataset: str, code: int = 0) -> str:
    return s2v("curate", "s3://films/raw", "--out", dataset, "--recipe", recipe, code=code)


@pytest.fixture(scope="module")
def calm(shop: Path) -> dict[str, bytes]:
    """The dataset of an undisturbed run."""
    curate(shop, "s3://films/calm")
    return objects("s3://films/calm")


def through(recipe: Path, dataset: str) -> int:
    """The same command until nothing is left to do; how often it ended early, each time with a sentence."""
    for early in range(20):
        try:
            curate(recipe, dataset)
            return early
        except AssertionError as e:  # another exit code, after what was printed
            printed = str(e)
        assert "Error:" in printed
        assert "s3://films" in printed
        assert "Traceback" not in printed
    raise AssertionError("twenty runs were not enough")


@pytest.mark.real
@pytest.mark.parametrize("seed", range(6))
def test_bad_weather_loses_and_doubles_nothing(
    store: ObjectStore, shop: Path, calm: dict[str, bytes], seed: int
) -> None:
    dataset = f"s3://films/rough{seed}"
    store.refused = ("InternalError", "/scores/part-")  # the first run ends in the middle
    printed = curate(shop, dataset, code=1)
    assert "s3://films answers with an error again and again (" in printed
    assert "run the same command again" in printed
    assert "Traceback" not in printed
    store.refused = None
    with store.weather(ROUGH, seed) as happened:
        through(shop, dataset)
    assert min(happened[fault] for fault in ("error", "slow", "cut off", "lost")) > 0
    if read(dataset, FAILURES).num_rows:  # sources that could not be fetched then
        curate(shop, dataset)
    same_dataset(dataset, calm)


def same_dataset(dataset: str, calm: dict[str, bytes]) -> None:
    for name in (CLIPS, SCORES, VERDICTS):
        ids = read(dataset, name)["clip_id"].to_pylist()
        assert len(ids) == len(set(ids)) == SOURCES, name
    assert read(dataset, FAILURES).num_rows == 0
    rough = objects(dataset)
    assert pq.read_table(pa.BufferReader(rough["shards/index.parquet"])).num_rows > 0
    for name in calm:
        if name.startswith(("shards/", "verdicts/", "posters/")):
            assert rough[name] == calm[name], name
    assert rough.keys() == calm.keys()


# ---------------------------------------------------------------- one write


def test_a_put_that_is_lost_is_made_again(store: ObjectStore) -> None:
    table = Table("s3://films/one", "things")
    with store.weather(Storm(lost=0.5), 1) as happened:
        for i in range(8):
            table.write(pa.table({"clip_id": [str(i)]}))
    assert happened["lost"] > 0
    assert sorted(table.keys().to_pylist()) == [str(i) for i in range(8)]


def test_a_lost_put_over_an_object_of_the_same_size(store: ObjectStore) -> None:
    fs = fsspec.filesystem("s3")
    for i in range(8):
        write_atomically("s3://films/over", f"{i}", b"old")
    with store.weather(Storm(lost=0.5), 2) as happened:
        for i in range(8):
            write_atomically("s3://films/over", f"{i}", b"new")
    assert happened["lost"] > 0
    assert [fs.cat_file(f"films/over/{i}") for i in range(8)] == [b"new"] * 8
    with store.weather(Storm(lost=1), 1), pytest.raises(RunError, match="took films/over/0"):
        write_atomically("s3://films/over", "0", b"odd")


def test_a_store_whose_tags_mean_nothing_is_read() -> None:
    class Tags:
        """Others when asked than in the answer to a put."""

        puts = 0

        def pipe_file(self, target: str, data: bytes) -> dict[str, str]:
            self.puts, self.data = self.puts + 1, data
            return {"ETag": "put"}

        def info(self, target: str) -> dict[str, object]:
            return {"size": len(self.data), "ETag": "look"}

        def cat_file(self, target: str) -> bytes:
            return self.data

        def invalidate_cache(self, path: str) -> None: ...

    fs = Tags()
    put(fs, "films/x", b"data")
    assert fs.puts == 1


def test_a_store_that_loses_every_put_ends_the_run(store: ObjectStore) -> None:
    with store.weather(Storm(lost=1), 1) as happened, pytest.raises(RunError, match="took films/one/x"):
        write_atomically("s3://films/one", "x", b"data")
    assert happened["lost"] == PUTS


def test_a_large_file_whose_last_answer_is_lost(store: ObjectStore) -> None:
    data = bytes(100 << 20)  # s3fs sends it in pieces
    with store.weather(Storm(cut_off=0.3), 3) as happened:
        write_atomically("s3://films/large", "000000.tar", data)
    assert happened["cut off"] > 0
    fs = fsspec.filesystem("s3")
    assert fs.size("films/large/000000.tar") == len(data)
    fs.rm("films/large", recursive=True)


def test_parts_that_others_wrote_are_seen(store: ObjectStore) -> None:
    ours = Table("s3://films/seen", "things")
    first = ours.write(pa.table({"clip_id": ["a"]}))
    assert ours.parts() == [first]
    fsspec.filesystem("s3", skip_instance_cache=True).pipe_file("films/seen/things/part-b.parquet", b"")
    assert ours.has("part-b.parquet")
    assert len(ours.parts()) == 2


# ---------------------------------------------------------------- a store that is closed


@pytest.mark.parametrize(
    ("code", "says"), [("AccessDenied", "refuses the request"), ("AuthorizationHeaderMalformed", "another region")]
)
def test_a_store_that_refuses(
    store: ObjectStore, shop: Path, monkeypatch: pytest.MonkeyPatch, code: str, says: str
) -> None:
    monkeypatch.setattr(store, "refused", (code, ""))
    assert_one_sentence(curate(shop, "s3://films/refused", code=1), says)


def test_no_such_bucket(store: ObjectStore, shop: Path) -> None:
    assert_one_sentence(curate(shop, "s3://nowhere/data", code=1), "s3://nowhere does not exist. Make the bucket")


def test_nobody_there_and_no_credentials(store: ObjectStore, shop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    forget_clients()
    assert_one_sentence(curate(shop, "s3://films/away", code=1), "s3://films can't be reached")
    for key in KEYS:
        monkeypatch.delenv(key)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
    forget_clients()
    assert_one_sentence(curate(shop, "s3://films/away", code=1), "There are no credentials for s3://films")
    monkeypatch.undo()
    forget_clients()


def assert_one_sentence(printed: str, says: str) -> None:
    assert says in printed
    assert "Traceback" not in printed
    assert len(printed.strip().splitlines()) == 1

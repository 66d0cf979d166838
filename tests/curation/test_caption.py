"""`s2v caption` and `s2v curate --caption-server` on real videos and real Ray, against a fake of a vLLM server."""

import json
import re
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import ray
import webdataset
import yaml

from captioning import client, servers
from captioning.examples import SPEAKER
from captioning.preflight import Ready
from captioning.servers import NoServer
from captioning.settings import Captioning
from curation import caption, pack
from curation.layout import CAPTIONS, FAILURES, VERDICTS, read
from curation.run import forget_failures
from curation.stored import settings
from dataset.stage import start_ray
from tests.captioning.fake_server import FakeServer, Request, Response, default_answer
from tests.curation.test_run import s2v
from tests.curation.without_ray import without_ray
from tests.videos import clicks, moving_square, write_video

CLIPS = 6


@pytest.fixture(scope="module")
def shared_ray():
    start_ray()
    yield
    ray.shutdown()


@pytest.fixture(autouse=True)
def quick_and_wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "SETTLE", 0.05)
    monkeypatch.setattr(servers, "PROBE", 0.05)
    monkeypatch.setenv("COLUMNS", "160")


@pytest.fixture(scope="module")
def curated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset of six kept and packed clips, none of them captioned. Copy it before you change it."""
    folder = tmp_path_factory.mktemp("curated")
    (folder / "videos").mkdir()
    for i in range(CLIPS):
        video = folder / "videos" / f"clip_{i}.mp4"
        write_video(video, 2 + 0.5 * i, picture=lambda t, i=i: moving_square(t + i, 112, 168), sound=clicks(2))
    rules = [{"score": "header.duration", "min": 1, "source": "test"}]
    policy = folder / "policy.yaml"
    policy.write_text(yaml.safe_dump({"name": "test", "rules": rules}))
    recipe = folder / "recipe.yaml"
    data = {"name": "test", "policy": str(policy), "filters": ["header"], "shard_clips": 4}
    recipe.write_text(yaml.safe_dump(data))
    with without_ray():
        s2v("curate", folder / "videos", "--out", folder / "dataset", "--recipe", recipe)
    return folder


@pytest.fixture
def dataset(curated: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(curated / "dataset", tmp_path / "dataset"))


def captions(dataset: Path) -> dict[str, dict]:
    rows = read(str(dataset), CAPTIONS).to_pylist()
    found = {row["clip_id"]: row for row in rows}
    assert len(found) == len(rows)
    return found


def kept(dataset: Path) -> set[str]:
    return {row["clip_id"] for row in read(str(dataset), VERDICTS).to_pylist() if row["keep"]}


def samples(dataset: Path) -> dict[str, dict]:
    shards = sorted(str(path) for path in (dataset / "shards").glob("*.tar"))
    return {s["__key__"]: s for s in webdataset.WebDataset(shards, shardshuffle=False)}


def place(row: dict) -> str:
    return json.loads(row["structured"])["background"]["place"]


def test_captions_reach_the_shards_without_a_new_cut(shared_ray, curated, dataset):
    """A dataset that was packed before there was a server; then nothing to do; then another question."""
    before = samples(dataset)
    with FakeServer() as fake:
        printed = s2v("curate", curated / "videos", "--out", dataset, "--caption-server", fake.url)
        assert printed.index("Measure") < printed.index("Caption") < printed.index("Pack")
        assert "captioned" in printed
        rows = captions(dataset)
        assert set(rows) == kept(dataset) == set(before)
        real = [r for r in fake.requests if r.body["max_tokens"] > 1]
        assert {place(row) for row in rows.values()} == {f"a room with the number {r.clip}" for r in real}
        for row in rows.values():
            assert row["prompt_tokens"] == 100 + -(-row["frames"] // 2) * (row["height"] // 28) * (row["width"] // 28)
            assert (row["model"], row["tries"], row["flags"]) == ("fake", 1, [])
        for clip_id, sample in samples(dataset).items():
            told = json.loads(sample["json"])
            assert sample["mp4"] == before[clip_id]["mp4"]
            assert told["captions"] == {name: rows[clip_id][name] for name in ("short", "medium", "long")}
            assert told["caption"] == rows[clip_id]["long"]
            assert told["structured_caption"] == json.loads(rows[clip_id]["structured"])
            assert told["caption_by"] == {"model": "fake", "prompt": rows[clip_id]["prompt"]}
        index = pq.read_table(dataset / "shards" / "index.parquet").to_pylist()
        assert {row["clip_id"]: row["caption"] for row in index} == {i: row["content"] for i, row in rows.items()}
        assert "a room with the number" in s2v("explain", dataset, "clip_0")

        # The dataset remembers its server; nobody is asked anything again, unless for another question.
        shards = {path.name: path.read_bytes() for path in (dataset / "shards").iterdir()}
        asked = len(fake.requests)
        assert s2v("caption", dataset, "--fps", 4).count("nothing to do") == 2
        assert len(fake.requests) == asked
        assert {path.name: path.read_bytes() for path in (dataset / "shards").iterdir()} == shards
        with without_ray():
            s2v("caption", dataset, "--fps", 4, "--again")
        assert {row["rate"] for row in rows.values()} == {2.0}
        assert {row["rate"] for row in captions(dataset).values()} == {4.0}
        assert set(captions(dataset)) == set(rows)


def test_a_clip_that_ends_its_server_takes_no_other_with_it(shared_ray, dataset):
    """Two workers share the server: each sees it go down, and neither knows what the other had asked."""
    bad: set[str] = set()

    def answer(request: Request) -> str:
        if request.body["max_tokens"] > 1:
            bad.update([request.clip] if not bad else [])
        if request.clip in bad:
            fake.kill()
            fake.restart_after(0.3)
        return default_answer(request.clip)

    with FakeServer(answer=answer, latency=lambda r: 0.2) as fake:
        printed = s2v("caption", dataset, "--server", fake.url, "--concurrency", 6)
    assert "with nothing beside it" in " ".join(printed.split())
    (failure,) = read(str(dataset), FAILURES).to_pylist()
    assert re.search(
        "nothing else to do|healthy server failed on it 2 times", failure["error"]
    )  # as fast as it is back
    assert set(captions(dataset)) == kept(dataset) - {failure["clip_id"]}


# ---------------------------------------------------------------- without Ray: one worker in this process


def ask(dataset: Path, fake: FakeServer, limit: int = 4, *, again: bool = False, **changes: object) -> None:
    recipe = settings(str(dataset))[0]
    recipe = recipe.model_copy(update={"captioning": Captioning(servers=(fake.url,), patience=1.0, **changes)})
    worker = caption.CaptionWorker(str(dataset), recipe, Ready(fake.model), limit, None)
    try:
        question = caption.question(recipe.captioning, fake.model) if again else None
        for part in caption.plan(str(dataset), 1, again=question):
            worker(part)
    finally:
        worker.child.stop()
        worker.desk.close()


def test_one_poisonous_clip_fails_alone(dataset):
    broken: set[str] = set()

    def answer(request: Request) -> str | Response:
        broken.update([request.clip] if not broken else [])
        return Response(500, "division by zero") if request.clip in broken else default_answer(request.clip)

    with FakeServer(answer=answer) as fake:
        ask(dataset, fake)
        (failure,) = read(str(dataset), FAILURES).to_pylist()
        assert (failure["stage"], failure["transient"]) == ("caption", False)
        assert "500 division by zero" in failure["error"]
        assert failure["remedy"]
        assert set(captions(dataset)) == kept(dataset) - {failure["clip_id"]}
        asked = len(fake.requests)
        ask(dataset, fake)
        assert len(fake.requests) == asked
        # It is packed all the same, with its source's caption; and asked about again on demand.
        plan = pack.plan(str(dataset), settings(str(dataset))[0])
        assert not plan.remove
        assert sorted(i for shard in plan.write for i in shard.clips) == sorted(kept(dataset))
        broken = {"nothing"}
        forget_failures(str(dataset), everything=True, stage="caption")
        ask(dataset, fake)
    assert set(captions(dataset)) == kept(dataset)
    assert not read(str(dataset), FAILURES).num_rows


def test_a_source_that_was_cut_short_has_no_caption(curated, dataset):
    video = curated / "videos" / "clip_3.mp4"
    whole = video.read_bytes()
    video.write_bytes(whole[: len(whole) * 2 // 3])
    try:
        with FakeServer() as fake:
            ask(dataset, fake)
    finally:
        video.write_bytes(whole)
    (failure,) = read(str(dataset), FAILURES).to_pylist()
    assert failure["source"] == str(video)
    assert set(captions(dataset)) == kept(dataset) - {failure["clip_id"]}


def test_when_the_server_is_gone_for_good_what_was_finished_is_kept(dataset):
    def answer(request: Request) -> str:
        if len(fake.requests) == 4:
            fake.kill()
        return default_answer(request.clip)

    with FakeServer(slots=1, answer=answer) as fake:
        with pytest.raises(NoServer, match="No caption server has answered"):
            ask(dataset, fake, limit=1)
        before = captions(dataset)
        assert len(before) == 3
        assert not read(str(dataset), FAILURES).num_rows
        fake.answer = lambda request: default_answer(request.clip)
        fake.start()
        ask(dataset, fake)
        after = captions(dataset)
    assert set(after) == kept(dataset)
    assert {i: after[i] for i in before} == before  # not asked again


def test_a_redo_that_is_cut_short_or_refused_keeps_what_there_was(dataset):
    with FakeServer(slots=1) as fake:
        ask(dataset, fake, limit=6)
        old = captions(dataset)
        bad = fake.requests[0].clip

    def answer(request: Request) -> str | Response:
        if len(fake.requests) == 4:
            fake.kill()
        return Response(400, "no") if request.clip == bad else default_answer(request.clip)

    with FakeServer(slots=1, model="new", answer=answer) as fake:
        with pytest.raises(NoServer):
            ask(dataset, fake, limit=1, again=True)
        half = captions(dataset)
        assert set(half) == set(old)
        assert 0 < sum(row["model"] == "new" for row in half.values()) < CLIPS
        fake.answer = lambda r: Response(400, "no") if r.clip == bad else default_answer(r.clip)
        fake.start()
        ask(dataset, fake, limit=1, again=True)
    models = [row["model"] for row in captions(dataset).values()]
    assert sorted(models) == ["fake"] + ["new"] * (CLIPS - 1)


def test_check_counts_objections_and_shows_the_worst(dataset):
    def answer(request: Request) -> str:
        if len(fake.requests) > 2:
            return default_answer(request.clip)
        return SPEAKER.model_copy(update={"lighting": "a [b]beautiful[/b] light"}).model_dump_json()

    assert "has no captions yet" in s2v("caption", "check", dataset, code=2)
    with FakeServer(answer=answer) as fake:
        ask(dataset, fake, limit=1)
    printed = s2v("caption", "check", dataset, "--worst", 1)
    assert "6 captions (6 clips are kept), by fake" in printed
    assert "[b]beautiful[/b]" in printed  # a model's words are text, not markup
    assert "medium close-up 100 %" in printed


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        ((), 2, "No caption server"),
        (("--server", "gpu-1:8000"), 2, "is not the address of a server"),
        (("--server", "http://127.0.0.1:9"), 1, "s2v caption serve"),
    ],
)
def test_mistakes_say_what_to_do(dataset, arguments, code, words):
    with without_ray():
        assert words in " ".join(s2v("caption", dataset, *arguments, code=code).split())

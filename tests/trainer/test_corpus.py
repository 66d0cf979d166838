"""--data: datasets, shards with and without an index, and everything that can be wrong with them."""

import json
import random
import shutil
import tarfile
from collections import Counter
from pathlib import Path

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dataset.errors import UsageError
from dataset.shards import Sample, make_shard, read_samples
from tests.trainer.shards import Made, make_dataset, stage
from trainer.corpus import read_corpus, split
from trainer.sample import Clip
from trainer.stages import Validation

BOTH = {"film": 0.5, "speech": 0.5}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    clips = [Made(f"c{n}", 1 + n / 4, 128 + 64 * (n % 2)) for n in range(5)]
    return make_dataset(tmp_path_factory.mktemp("data") / "talkers", clips, per_shard=2)


@pytest.fixture
def copy(made: Path, tmp_path: Path) -> Path:
    """To be damaged."""
    return Path(shutil.copytree(made, tmp_path / "talkers"))


def rewrite(dataset: Path, change) -> None:
    index = dataset / "shards" / "index.parquet"
    pq.write_table(change(pq.read_table(index)), index)


# ---------------------------------------------------------------- where clips are found


def test_a_dataset_its_shards_and_their_files_are_the_same_clips(made: Path):
    wanted = read_corpus([str(made)], stage())
    assert [(c.clip_id, c.kind, c.seconds, c.width) for c in wanted] == [
        (f"c{n}", "speech", 1 + n / 4, 128 + 64 * (n % 2)) for n in range(5)
    ]
    for path in (f"{made}/", f"{made}/shards", f"{made}/shards/*.tar", f"speech={made}", f"file://{made}"):
        assert read_corpus([path], stage()) == wanted
    assert read_corpus([f"{made}/shards/000001.tar"], stage()) == wanted[2:4]


def test_samples_lie_where_the_clip_says(made: Path):
    for clip in read_corpus([str(made)], stage()):
        assert next(read_samples(clip.shard, clip.offset)).key == clip.clip_id


def test_shards_without_an_index_are_read_once(made: Path, copy: Path):
    (copy / "shards" / "index.parquet").unlink()
    found = read_corpus([str(copy / "shards")], stage())
    indexed = read_corpus([str(made)], stage())
    assert [(c.clip_id, c.seconds, c.width, c.height, c.offset) for c in found] == [
        (c.clip_id, c.seconds, c.width, c.height, c.offset) for c in indexed
    ]
    assert read_corpus([f"{copy}/shards/00000[01].tar"], stage()) == found[:4]


def test_without_a_json_the_header_tells_the_length(tmp_path: Path):
    video = Made("a", 2.5, 192, 128).sample().files["mp4"]
    lies = json.dumps({"seconds": 60}).encode()
    samples = [Sample("a", {"mp4": video}), Sample("b", {"mp4": video, "json": lies})]
    (tmp_path / "x.tar").write_bytes(make_shard(samples)[0])
    clips = read_corpus([str(tmp_path / "x.tar")], stage())
    assert [(c.seconds, c.width, c.height) for c in clips] == [(pytest.approx(2.5, abs=0.07), 192, 128)] * 2


def test_urls(made: Path):
    memory = fsspec.filesystem("memory")
    memory.put(str(made), "/corpus", recursive=True)
    try:
        clips = read_corpus(["memory://corpus"], stage())
        assert [c.clip_id for c in clips] == [f"c{n}" for n in range(5)]
        assert clips[0].shard == "memory:///corpus/shards/000000.tar"
        assert next(read_samples(clips[1].shard, clips[1].offset)).key == "c1"
        assert read_corpus(["memory://corpus/shards/*.tar"], stage()) == clips
    finally:
        memory.rm("/corpus", recursive=True)


def test_an_equals_sign_in_a_folder_is_no_kind(made: Path, tmp_path: Path):
    (tmp_path / "date=2026").symlink_to(made)
    assert len(read_corpus([f"{tmp_path}/date=2026"], stage())) == 5
    assert len(read_corpus([f"speech={tmp_path}/date=2026"], stage())) == 5


# ---------------------------------------------------------------- kinds


def test_a_clip_may_be_of_two_kinds(made: Path):
    clips = read_corpus([f"film={made}", f"speech={made}"], stage(mixture=BOTH))
    assert Counter(c.kind for c in clips) == {"film": 5, "speech": 5}


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (["{}"], "say of which kind it is: --data film=PATH --data speech=PATH"),
        (["film={}"], "needs speech"),
        (["film={}", "speach={}"], "Did you mean 'speech'"),
        ([], "needs film and speech"),
        (["film=", "speech={}"], "the path is missing"),
    ],
)
def test_mistakes_about_kinds(made: Path, data, said):
    with pytest.raises(UsageError, match=said):
        read_corpus([text.format(made) for text in data], stage(mixture=BOTH))


# ---------------------------------------------------------------- what is left out


def test_what_is_left_out_is_told(copy: Path):
    def change(table: pa.Table) -> pa.Table:
        rows = table.to_pylist()
        rows[0]["seconds"], rows[1]["width"], rows[2]["offset"] = 0.2, 0, None
        return pa.Table.from_pylist(rows, schema=table.schema)

    rewrite(copy, change)
    said: list[str] = []
    assert [c.clip_id for c in read_corpus([str(copy)], stage(), tell=said.append)] == ["c3", "c4"]
    assert said == [
        f"speech={copy}: 1 clips are left out, because they are rows of the index with gaps.",
        f"speech={copy}: 2 clips are left out, because they are too short, too long or without a size.",
    ]


def test_what_is_given_twice_counts_once(made: Path):
    said: list[str] = []
    assert len(read_corpus([f"{made}/shards/000000.tar", str(made)], stage(), tell=said.append)) == 5
    assert said == [f"speech={made}: 2 clips are left out, because they are there twice under one id."]


def test_broken_samples_of_shards_without_an_index_are_left_out(tmp_path: Path):
    good = Made("good").sample()
    bad = [
        Sample("a", {"mp4": b"no video", "json": b"{}"}),
        Sample("b", {"mp4": good.files["mp4"], "json": b"[1"}),
        Sample("c", {"mp4": good.files["mp4"], "json": b'{"seconds": "long"}'}),
        Sample("d", {"mp4": good.files["mp4"], "json": b'{"seconds": NaN}'}),
        Sample("e", {"mp4": good.files["mp4"], "json": b"[" * 100_000}),
        Sample("f", {"json": b"{}"}),
    ]
    (tmp_path / "x.tar").write_bytes(make_shard([*bad, good])[0])
    said: list[str] = []
    assert [c.clip_id for c in read_corpus([str(tmp_path)], stage(), tell=said.append)] == ["good"]
    assert said == [f"speech={tmp_path}: 5 clips are left out, because they are damaged or unreadable."]


def test_a_file_with_holes_is_none(tmp_path: Path):
    """A header of 512 bytes may claim a hole of terabytes."""
    hole = tarfile.TarInfo("c.mp4")
    hole.type, hole.size = tarfile.GNUTYPE_SPARSE, 0
    block = bytearray(hole.tobuf(tarfile.GNU_FORMAT))
    block[386:410], block[483:495] = b"00000000000\0" * 2, b"77777777777\0"
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    (tmp_path / "x.tar").write_bytes(bytes(block) + bytes(1024))
    with pytest.raises(UsageError, match="sparse"):
        read_corpus([str(tmp_path / "x.tar")], stage())


def test_no_usable_clip(tmp_path: Path):
    make_dataset(tmp_path / "a", [Made("c", 0.25)])
    with pytest.raises(UsageError, match=r"No clip of speech can be used.*1 are too short"):
        read_corpus([str(tmp_path / "a")], stage())


# ---------------------------------------------------------------- what is wrong


def test_places_that_are_no_data(made: Path, tmp_path: Path):
    (tmp_path / "file.txt").write_text("no tar")
    (tmp_path / "empty").mkdir()
    for path, said in (
        (tmp_path / "nowhere", "there is no .*nowhere"),
        (tmp_path / "nowhere.tar", "there is no .*nowhere.tar"),
        (tmp_path / "*.tar", r"no .tar matches .*\*.tar"),
        (tmp_path / "file.txt", "holds no shards"),
        (tmp_path / "empty", "holds no shards"),
        ("gopher://x/y", "can't be read"),
        ("memory://nowhere", "there is no memory://nowhere"),
    ):
        with pytest.raises(UsageError, match=said):
            read_corpus([str(path)], stage())


def test_a_dataset_that_is_not_packed_to_its_end(copy: Path):
    (copy / "shards" / "index.parquet").unlink()
    with pytest.raises(UsageError, match="run the same `s2v curate` again"):
        read_corpus([str(copy)], stage())


def test_a_truncated_index(copy: Path):
    index = copy / "shards" / "index.parquet"
    index.write_bytes(index.read_bytes()[:-100])
    with pytest.raises(UsageError, match=r"index.parquet is truncated or damaged.*copy it again"):
        read_corpus([str(copy)], stage())
    index.write_bytes(b"")
    with pytest.raises(UsageError, match=r"index.parquet is truncated or damaged"):
        read_corpus([str(copy)], stage())


def test_an_index_that_is_none(copy: Path):
    rewrite(copy, lambda table: table.drop(["offset", "width"]))
    with pytest.raises(UsageError, match="lacks offset, width"):
        read_corpus([str(copy)], stage())
    rewrite(copy, lambda table: pa.table({name: ["x"] for name in (*table.column_names, "offset", "width")}))
    with pytest.raises(UsageError, match=r"index.parquet is truncated or damaged"):
        read_corpus([str(copy)], stage())


def test_an_index_of_nothing(copy: Path):
    rewrite(copy, lambda table: table[:0])
    with pytest.raises(UsageError, match="lists no clip"):
        read_corpus([str(copy)], stage())


def test_shards_that_are_missing_or_truncated(copy: Path):
    shard = copy / "shards" / "000001.tar"
    whole = shard.read_bytes()
    for size in (len(whole) - 700, 512):
        shard.write_bytes(whole[:size])
        with pytest.raises(UsageError, match=r"000001.tar is truncated"):
            read_corpus([str(copy)], stage())
    shard.unlink()
    with pytest.raises(UsageError, match=r"000001.tar is missing"):
        read_corpus([str(copy)], stage())


def test_a_shard_outside_the_folder_is_not_followed(copy: Path):
    rewrite(copy, lambda t: t.set_column(1, "shard", pa.array(["../../etc/000000.tar"] * t.num_rows)))
    with pytest.raises(UsageError, match="is missing"):
        read_corpus([str(copy)], stage())


def test_shards_without_an_index_that_are_no_shards(copy: Path):
    (copy / "shards" / "index.parquet").unlink()
    shard = copy / "shards" / "000002.tar"
    whole = shard.read_bytes()
    for content, said in (
        (whole[:2000], "000002.tar is truncated or no tar"),
        (b"", "000002.tar is truncated or no tar"),
        (b"x" * 5000, "000002.tar is truncated or no tar"),
        (make_shard([])[0], "000002.tar holds no sample"),
        (make_shard([Sample("a", {"txt": b"a"})])[0], "000002.tar holds no sample"),
    ):
        shard.write_bytes(content)
        with pytest.raises(UsageError, match=said):
            read_corpus([str(copy / "shards")], stage())


# ---------------------------------------------------------------- held out


def clips(count: int, kind: str = "speech") -> list[Clip]:
    return [Clip(f"{kind}{n}", kind, "x.tar", 512 * n, 6, 640, 480) for n in range(count)]


def test_what_is_held_out_depends_on_the_ids_alone():
    settings = stage(validation=Validation(clips=7))
    train, held = split(clips(100), settings)
    assert len(held) == 7
    assert set(train) | set(held) == set(clips(100))
    assert not set(train) & set(held)
    for seed in range(3):
        shuffled = clips(100)
        random.Random(seed).shuffle(shuffled)
        again, also = split(shuffled, settings.model_copy(update={"seed": seed}))
        assert also == held
        assert set(again) == set(train)
    more = split(clips(200), settings)[1]
    assert {c.clip_id for c in held if c not in more} | {c.clip_id for c in more if c not in clips(100)}


@pytest.mark.parametrize(("count", "held"), [(1, 0), (4, 0), (5, 1), (14, 2), (35, 7), (50, 7)])
def test_at_most_a_fifth_is_held_out(count, held):
    train, validated = split(clips(count), stage(validation=Validation(clips=7)))
    assert (len(train), len(validated)) == (count - held, held)


def test_without_holding_out_all_is_trained_on():
    train, validated = split(clips(4), stage(validation=Validation(clips=3, held_out=False)))
    assert train == clips(4)
    assert len(validated) == 3
    assert validated == split(clips(4)[::-1], stage(validation=Validation(clips=3, held_out=False)))[1]


def test_a_clip_of_two_kinds_is_held_out_of_both_and_no_kind_is_emptied():
    settings = stage(mixture=BOTH, validation=Validation(clips=20))
    both = [Clip(f"c{n}", kind, "x.tar", 0, 6, 640, 480) for n in range(100) for kind in BOTH]
    train, held = split(both, settings)
    assert len(held) == len({c.clip_id for c in held}) == 20
    assert not {c.clip_id for c in train} & {c.clip_id for c in held}
    few = [*clips(1, "film"), *clips(100)]
    assert Counter(c.kind for c in split(few, settings)[0])["film"] == 1

"""`s2v encode`: every clip once or in failures/, the same bytes after a stop, and nothing of others touched."""

import io
import json
import random
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pyarrow as pa
import pytest
import ray
from rich.console import Console

from curation.pack import INDEX
from dataset.cut import cut_clip
from dataset.errors import RunError, UsageError
from dataset.isolate import Child
from dataset.shards import Sample, make_shard
from dataset.tables import to_parquet, write_atomically
from model.checkpoint import Checkpoint
from model.config import S2VConfig
from model.errors import CheckpointError
from tests.trainer.test_encoders import make_pixels
from tests.trainer.test_latents import same
from tests.videos import clicks, moving_square, write_video
from trainer import encode as module
from trainer.corpus import read_corpus
from trainer.encode import EncodeWorker, Finished, Shard, encode, finished, plan, sample_bytes, write_index
from trainer.encoders import Encoders
from trainer.latents import FACTS, LatentStore
from trainer.latents import INDEX as LATENT_INDEX
from trainer.read_ahead import Found
from trainer.reading import Unreadable, read_pixels
from trainer.sample import Pixels, Request
from trainer.schedule import Schedule
from trainer.stages import Stage

STAGE = Stage(name="test", tokens=100, frames=8, steps=1, batch=1, seed=3)


def request(name: str) -> Request:
    return make_pixels(name).request


def rows_of(names: Sequence[str]) -> pa.Table:
    return pa.table({"clip_id": pa.array(names, pa.string())})


def test_a_stopped_run_lays_out_the_same_shards() -> None:
    clips = [request(f"{i:03d}") for i in range(45)]
    calm = plan(clips, [])
    assert [len(shard.clips) for shard in calm] == [8, 8, 8, 8, 8, 5]
    dice = random.Random(0)
    for _ in range(30):
        done = dice.sample(calm, dice.randint(0, len(calm)))
        there = []
        for shard in done:
            names = [r.clip.clip_id for r in shard.clips]
            failed = dice.sample(names, dice.randint(0, len(names)))
            there.append(Finished(shard.number, rows_of([n for n in names if n not in failed]), failed))
        assert plan(clips, there) == [shard for shard in calm if shard not in done]


def test_new_clips_get_new_shards_and_those_that_left_are_not_listed(tmp_path: Path) -> None:
    old = [request(f"{i:03d}") for i in range(8)]
    rows = pa.Table.from_pylist([module.index_row(r, "000000.tar", 0) for r in old], schema=LATENT_INDEX)
    there = [Finished(0, rows, [])]
    fresh = [request("0005"), *old[2:]]
    fresh = [replace(r, clip=replace(r.clip, kind="film")) for r in fresh]
    (shard,) = plan(fresh, there)
    assert (shard.number, [r.clip.clip_id for r in shard.clips]) == (1, ["0005"])
    index = write_index(str(tmp_path), [r.clip for r in fresh], there)
    assert index["clip_id"].to_pylist() == [f"{i:03d}" for i in range(2, 8)]
    assert set(index["kind"].to_pylist()) == {"film"}


def test_a_clip_of_two_kinds_is_encoded_once_and_listed_twice(tmp_path: Path) -> None:
    clips = [replace(request("a").clip, kind=kind) for kind in ("best", "film")]
    (asked,) = module.requests_of(clips, STAGE, S2VConfig())
    assert asked.clip.kind == "best"
    rows = pa.Table.from_pylist([module.index_row(asked, "000000.tar", 512)], schema=LATENT_INDEX)
    index = write_index(str(tmp_path), clips, [Finished(0, rows, [])])
    assert index.select(["clip_id", "kind", "offset"]).to_pydict() == {
        "clip_id": ["a", "a"],
        "kind": ["best", "film"],
        "offset": [512, 512],
    }


def read_some(request: Request) -> Pixels:
    """Clips whose names hold "bad" can't be read, "worse" not in their second variant."""
    name = request.clip.clip_id
    if "bad" in name or ("worse" in name and request.epoch):
        raise Unreadable(request.clip, "no frame", "curate it again")
    return replace(make_pixels(name), request=request)


def read_here(child: Child, requests: Sequence[Request]) -> Iterator[tuple[Request, Found]]:
    """`read_ahead` without a child."""
    for request in requests:
        try:
            yield request, read_some(request)
        except Unreadable as e:
            yield request, e


@pytest.fixture
def worker(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> EncodeWorker:
    monkeypatch.setattr(module, "read_ahead", read_here)
    return EncodeWorker(str(tmp_path / "latents"), str(tiny), STAGE.seed, 2)


def test_a_bad_clip_costs_itself_in_all_its_variants(worker: EncodeWorker, tmp_path: Path) -> None:
    shard = Shard(3, [request(name) for name in ("a", "bad", "c", "worse")])
    assert worker(shard) == {"done": 4, "failed": 2}
    (there,) = finished(worker.out)
    assert there.rows["clip_id"].to_pylist() == ["a", "a", "c", "c"]
    assert there.rows["variant"].to_pylist() == [0, 1, 0, 1]
    assert (there.number, there.failed) == (3, ["bad", "worse"])
    lines = (tmp_path / "latents/failures/000003.jsonl").read_text().splitlines()
    assert json.loads(lines[0]) == {
        "clip_id": "bad",
        "shard": "000000.tar",
        "error": "no frame",
        "remedy": "curate it again",
    }
    assert plan(shard.clips, finished(worker.out)) == []


def test_a_shard_of_bad_clips_is_done_too_until_its_failures_are_deleted(worker: EncodeWorker, tmp_path: Path) -> None:
    bad = [request("bad")]
    worker(Shard(0, bad))
    assert not (tmp_path / "latents/shards/000000.tar").exists()
    assert plan(bad, finished(worker.out)) == []
    shutil.rmtree(tmp_path / "latents/failures")
    assert plan(bad, finished(worker.out)) == [Shard(1, bad)]


def test_the_same_shard_gives_the_same_bytes_and_forgets_old_failures(worker: EncodeWorker, tmp_path: Path) -> None:
    shard = Shard(0, [request("a")])
    folder = tmp_path / "latents"
    (folder / "failures").mkdir(parents=True)
    (folder / "failures/000000.jsonl").write_text('{"clip_id": "a"}\n')
    worker(shard)
    assert not (folder / "failures/000000.jsonl").exists()
    first = {path.name: path.read_bytes() for path in (folder / "shards").iterdir()}
    assert sorted(first) == ["000000.index.parquet", "000000.tar"]
    worker(shard)
    assert first == {path.name: path.read_bytes() for path in (folder / "shards").iterdir()}


def test_a_shard_is_at_most_as_large_as_foretold(worker: EncodeWorker, tmp_path: Path) -> None:
    clip = request("a")
    worker(Shard(0, [clip]))
    size = (tmp_path / "latents/shards/000000.tar").stat().st_size
    most = 2 * sample_bytes(clip.shape, worker.encoders.widths)
    assert 0.5 * most < size <= most


# ---------------------------------------------------------------- the command, with Ray


def write_dataset(folder: Path, count: int, broken: Sequence[int] = ()) -> str:
    """Shards as `s2v curate` packs them, of clips of 2 s, 128x64, with sound."""
    samples, rows = [], []
    for i in range(count):
        source = folder.parent / f"{i}.mp4"
        write_video(source, 2, picture=lambda t, i=i: moving_square(t + i, 64, 128), sound=clicks(2) * (0.2 + 0.1 * i))
        cut = cut_clip(str(source), 0, 2)
        facts = {"caption": f"a man speaks {i}", "seconds": 2.0}
        video = cut.video if i not in broken else cut.video[:200]
        samples.append(Sample(f"{i:02d}", {"mp4": video, "json": json.dumps(facts).encode()}))
        row = {"clip_id": f"{i:02d}", "shard": "000000.tar", "seconds": 2.0, "width": cut.width, "height": cut.height}
        rows.append(row | {"fps": 25.0, "tokens": 1})
    data, offsets = make_shard(samples)
    shards = folder / "shards"
    shards.mkdir(parents=True)
    (shards / "000000.tar").write_bytes(data)
    table = pa.Table.from_pylist([row | {"offset": offsets[row["clip_id"]]} for row in rows], schema=INDEX)
    (shards / "index.parquet").write_bytes(to_parquet(table))
    return str(folder)


class Runs:
    """`s2v encode` of one dataset on the tiny checkpoint; a call returns what was printed."""

    def __init__(self, folder: Path, checkpoint: Path, data: str):
        self.out, self.checkpoint, self.data = folder / "latents", checkpoint, data

    def __call__(self, stage: Stage = STAGE, variants: int = 2) -> str:
        printed = io.StringIO()
        console = Console(file=printed, width=200, highlight=False)
        encode([self.data], str(self.out), stage, str(self.checkpoint), variants, None, console)
        return printed.getvalue()

    def files(self) -> dict[str, bytes]:
        return {str(p.relative_to(self.out)): p.read_bytes() for p in self.out.rglob("*") if p.is_file()}


@pytest.fixture
def runs(tmp_path: Path, tiny: Path) -> Runs:
    return Runs(tmp_path, tiny, write_dataset(tmp_path / "data", 3, broken=[1]))


def run_here(make: Callable[[], EncodeWorker], shards: Sequence[Shard], *_: object) -> list[dict[str, int]]:
    """`run_tasks` without Ray."""
    worker = make()
    return [worker(shard) for shard in shards]


def test_a_dataset_becomes_what_training_makes_of_it_and_a_cut_run_goes_on(
    runs: Runs, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same bytes without Ray and with it."""
    monkeypatch.setattr(module, "SHARD_CLIPS", 2)
    with monkeypatch.context() as patch:
        patch.setattr(module, "run_tasks", run_here)
        printed = runs()
    assert "3 clips to encode, 2 variants each; at most" in printed
    assert "2 clips encoded" in printed
    assert "1 could not be" in printed
    whole = runs.files()
    (runs.out / "shards/000000.tar").unlink()
    (runs.out / "shards/index.parquet").unlink()
    assert "2 clips to encode" in runs()
    assert runs.files() == whole
    ray.shutdown()
    assert "nothing left to encode" in runs()
    assert not ray.is_initialized()
    assert runs.files() == whole

    (failure,) = map(json.loads, (runs.out / "failures/000000.jsonl").read_text().splitlines())
    assert failure["clip_id"] == "01"
    assert failure["remedy"]
    store, encoders = LatentStore.open(str(runs.out)), Encoders.load(Checkpoint.open(tiny), "cpu")
    raw = [clip for clip in read_corpus([runs.data], STAGE) if clip.clip_id != "01"]
    for clip, stored in zip(raw, store.clips(STAGE), strict=True):
        assert replace(stored, shard=clip.shard, offset=clip.offset) == clip
        for epoch in range(2):
            asked = Schedule([clip], STAGE, S2VConfig()).ask(clip, epoch)
            online = encoders.encode(read_pixels(asked, STAGE.seed))
            assert same(store.read(replace(asked, clip=stored)), online)


def test_other_options_are_refused(runs: Runs, tiny: Path) -> None:
    facts = module.facts_of(STAGE, Checkpoint.open(tiny), 2)
    write_atomically(str(runs.out), FACTS, facts.model_dump_json().encode())
    with pytest.raises(UsageError, match=r"variants=2 \(now: 3\)"):
        runs(variants=3)
    with pytest.raises(UsageError, match=r"tokens=100 \(now: 200\), seed=3 \(now: 4\)"):
        runs(STAGE.model_copy(update={"tokens": 200, "seed": 4}))
    changed = facts.model_copy(update={"encoders": "other"})
    write_atomically(str(runs.out), FACTS, changed.model_dump_json().encode())
    with pytest.raises(UsageError, match="encoders=other"):
        runs()
    with pytest.raises(UsageError, match="at least one"):
        runs(variants=0)


def test_what_is_not_ours_is_left_alone(runs: Runs) -> None:
    data = Path(runs.data)
    before = (data / "shards/000000.tar").read_bytes()
    runs.out = data
    with pytest.raises(UsageError, match="exists and holds no latents"):
        runs()
    assert (data / "shards/000000.tar").read_bytes() == before
    assert not (data / FACTS).exists()


def test_latents_are_not_encoded_again(runs: Runs, tiny: Path) -> None:
    facts = module.facts_of(STAGE, Checkpoint.open(tiny), 2)
    write_atomically(runs.data, FACTS, facts.model_dump_json().encode())
    with pytest.raises(UsageError, match="data holds latents already"):
        runs()


def test_too_small_a_disk_is_refused_before_anything_is_written(runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.shutil, "disk_usage", lambda folder: SimpleNamespace(free=100_000))
    with pytest.raises(UsageError, match=r"would take up to .*, and 100.0 kB are free"):
        runs()
    assert not runs.out.exists()


def test_a_missing_encoder_is_named_before_anything_is_written(runs: Runs, tiny: Path, tmp_path: Path) -> None:
    runs.checkpoint = shutil.copytree(tiny, tmp_path / "copy", ignore=shutil.ignore_patterns("Wan2.1_VAE.pth"))
    with pytest.raises(CheckpointError, match="the VAE is missing"):
        runs()
    assert not runs.out.exists()


def test_a_run_without_one_good_clip_fails(worker: EncodeWorker) -> None:
    bad = request("bad")
    worker(Shard(0, [bad]))
    with pytest.raises(RunError, match=r"No clip could be encoded: .*latents/failures says why"):
        module.conclude(worker.out, [bad.clip], Console(file=io.StringIO()))

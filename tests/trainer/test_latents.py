"""Latent shards: the same bits as encoding while training, and nothing else gets through."""

import json
import pickle
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import webdataset
from safetensors.torch import load, save
from torch import Tensor

from dataset.errors import UsageError
from dataset.shards import make_shard
from dataset.tables import to_parquet, write_atomically
from model.checkpoint import Checkpoint
from tests.trainer.test_encoders import make_pixels
from trainer.encode import index_row
from trainer.encoders import Encoders
from trainer.latents import FACTS, INDEX, TENSORS, Facts, LatentStore, is_latents, key_of, sample_of
from trainer.reading import Unreadable
from trainer.sample import Example, Pixels, Request
from trainer.stages import Stage

STAGE = Stage(name="test", tokens=400, frames=16, steps=1, seed=3)
VARIANTS = 2
NAMES = ("aa", "bbb")


def read_pixels(request: Request, seed: int) -> Pixels:
    """Another window in every epoch, as the real one draws it."""
    pixels = make_pixels(request.clip.clip_id, start=5 + request.epoch)
    return replace(pixels, request=replace(pixels.request, epoch=request.epoch), caption="the man " * request.epoch)


def requests() -> list[Request]:
    return [replace(make_pixels(name).request, epoch=variant) for name in NAMES for variant in range(VARIANTS)]


@pytest.fixture(scope="module")
def encoders(tiny: Path) -> Encoders:
    return Encoders.load(Checkpoint.open(tiny), "cpu")


@pytest.fixture(scope="module")
def encoded(encoders: Encoders) -> list[tuple[Pixels, Example]]:
    pixels = [read_pixels(request, STAGE.seed) for request in requests()]
    return [(p, encoders.encode(p)) for p in pixels]


@pytest.fixture
def write(encoders: Encoders, encoded: list[tuple[Pixels, Example]]) -> Callable[..., LatentStore]:
    """Latents of two clips. change: of the bytes of every sample's tensors; spoil: of the rows of the index."""

    def write(
        folder: str,
        change: Callable[[bytes], bytes] = lambda data: data,
        spoil: Callable[[list[dict]], None] = lambda rows: None,
    ) -> LatentStore:
        samples = [sample_of(pixels, example) for pixels, example in encoded]
        samples = [replace(s, files=s.files | {TENSORS: change(s.files[TENSORS])}) for s in samples]
        data, offsets = make_shard(samples)
        rows = [index_row(p.request, "000000.tar", offsets[key_of(p.request)]) for p, _ in encoded]
        spoil(rows)
        stage = {name: getattr(STAGE, name) for name in ("tokens", "frames", "seed")}
        facts = Facts(**stage, **asdict(encoders.widths), variants=VARIANTS, encoders="e")
        write_atomically(f"{folder}/shards", "000000.tar", data)
        write_atomically(f"{folder}/shards", "index.parquet", to_parquet(pa.Table.from_pylist(rows, schema=INDEX)))
        write_atomically(str(folder), FACTS, facts.model_dump_json().encode())
        return LatentStore.open(str(folder))

    return write


def same(a: Example, b: Example) -> bool:
    ours, theirs = a.tensors(), b.tensors()
    return replace(a, **theirs) == replace(b, **theirs) and all(ours[name].equal(theirs[name]) for name in theirs)


@pytest.mark.parametrize("scheme", ["", "file://", "memory:/"])
def test_what_is_read_is_what_encoding_gives(write, encoded, encoders, tmp_path, scheme) -> None:
    store = write(f"{scheme}{tmp_path}/latents")
    for pixels, example in encoded:
        found = store.read(pixels.request)
        assert same(found, example)
        assert same(found, encoders.encode(read_pixels(pixels.request, STAGE.seed)))
    assert [clip.clip_id for clip in store.clips(STAGE)] == list(NAMES)
    for clip, request in zip(store.clips(STAGE), requests()[::VARIANTS], strict=True):
        assert replace(clip, shard="", offset=0) == replace(request.clip, shard="", offset=0)
        assert same(store.read(replace(request, clip=clip)), store.read(request))


def test_windows_come_again_and_epochs_go_on(write, encoded, tmp_path) -> None:
    store = write(tmp_path)
    request = encoded[1][0].request
    later = store.read(replace(request, epoch=1 + 3 * VARIANTS))
    assert later.epoch == 7
    assert same(replace(later, epoch=1), store.read(request))
    assert not store.read(replace(request, epoch=2)).audio.equal(later.audio)


def test_a_store_goes_to_other_processes(write, encoded, tmp_path) -> None:
    store = write(tmp_path)
    request, example = encoded[3][0].request, encoded[3][1]
    assert same(pickle.loads(pickle.dumps(store)).read(request), example)
    assert same(store.read(request), pickle.loads(pickle.dumps(store)).read(request))  # with its caches, too


def test_what_is_read_can_be_trained_on(write, encoded, tmp_path) -> None:
    latent = write(tmp_path).read(encoded[0][0].request).latent
    weight = torch.ones((), requires_grad=True)
    (weight * latent.float()).sum().backward()
    assert latent.add_(1).is_contiguous()


def test_any_webdataset_reader_plays_latents(write, encoded, tmp_path) -> None:
    write(tmp_path)
    samples = list(webdataset.WebDataset(str(tmp_path / "shards" / "000000.tar"), shardshuffle=False))
    assert [s["__key__"] for s in samples] == ["aa-0", "aa-1", "bbb-0", "bbb-1"]
    facts = json.loads(samples[3]["json"])
    assert facts["window"] == {"start": 6, "frames": 8, "reference": 0, "caption": 0.5}
    assert facts["shape"] == {"frames": 8, "history": 5, "height": 32, "width": 32}
    assert (facts["clip_id"], facts["kind"], facts["variant"], facts["caption"]) == ("bbb", "speech", 1, "the man ")
    assert load(samples[3]["latent.safetensors"]).keys() == encoded[3][1].tensors().keys()


def edited(change: Callable[[dict[str, Tensor]], object]) -> Callable[[bytes], bytes]:
    def edit(data: bytes) -> bytes:
        tensors = load(data)
        change(tensors)
        return save(tensors)

    return edit


BAD = {
    "truncated": (lambda data: data[:-10], "can't be read"),
    "empty": (lambda data: b"", "can't be read"),
    "huge header": (lambda data: b"\xff" * 8 + data[8:], "can't be read"),
    "pickle": (lambda data: pickle.dumps({"latent": 1}), "can't be read"),
    "nan": (edited(lambda t: t["pose"].view(-1)[:1].fill_(float("nan"))), "pose has values that are no numbers"),
    "inf": (edited(lambda t: t["audio"].view(-1)[:1].fill_(float("inf"))), "audio has values that are no numbers"),
    "shape": (edited(lambda t: t.update(latent=t["latent"][:, :1].clone())), r"latent is .* instead of float16"),
    "width": (edited(lambda t: t.update(text=t["text"][:, 1:].clone())), "text is torch.float16 .* instead"),
    "no words": (edited(lambda t: t.update(no_text=t["no_text"][:0].clone())), "no_text is .* instead"),
    "long text": (edited(lambda t: t.update(text=torch.zeros(25, 32).half())), "text is .* instead"),
    "dtype": (edited(lambda t: t.update(motion=t["motion"].float())), "motion is torch.float32"),
    "missing": (edited(lambda t: t.pop("motion")), "the tensors are"),
    "unknown": (edited(lambda t: t.update(extra=torch.zeros(1))), "the tensors are"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_sample_is_refused(write, encoded, tmp_path, case) -> None:
    change, words = BAD[case]
    store = write(tmp_path, change)
    with pytest.raises(Unreadable, match=words) as raised:
        store.read(encoded[0][0].request)
    assert raised.value.clip == encoded[0][0].request.clip
    assert "s2v encode" in raised.value.remedy


def swap(rows: list[dict]) -> None:
    rows[0]["offset"], rows[2]["offset"] = rows[2]["offset"], rows[0]["offset"]


@pytest.mark.parametrize(
    "spoil", [swap, lambda rows: rows[0].update(offset=700), lambda rows: rows[0].update(offset=1 << 40)]
)
def test_an_index_that_leads_elsewhere_is_found_out(write, encoded, tmp_path, spoil) -> None:
    store = write(tmp_path, spoil=spoil)
    with pytest.raises(Unreadable, match="can't be read"):
        store.read(encoded[0][0].request)


def test_a_shard_that_is_gone_or_cut_costs_its_own_samples(write, encoded, tmp_path) -> None:
    store, shard = write(tmp_path), tmp_path / "shards" / "000000.tar"
    shard.write_bytes(shard.read_bytes()[: 3 * shard.stat().st_size // 4 + 700])
    assert same(store.read(encoded[0][0].request), encoded[0][1])
    for cut in (True, False):
        with pytest.raises(Unreadable, match="can't be read"):
            store.read(encoded[3][0].request)
        if cut:
            shard.unlink()


@pytest.mark.parametrize(
    "spoil",
    [
        lambda rows: rows.pop(),
        lambda rows: rows.append(rows[0]),
        lambda rows: rows[1].update(variant=2),
        lambda rows: rows[0].update(shard="../../other.tar"),
        lambda rows: rows[0].update(shard="s3://bucket/other.tar"),
        lambda rows: rows[0].update(shard=None),
        lambda rows: [row.update(clip_id="aa") for row in rows],
        lambda rows: rows[1].update(kind="film"),
        lambda rows: rows[0].update(seconds=None),
    ],
)
def test_a_damaged_index_is_refused(write, tmp_path, spoil) -> None:
    with pytest.raises(UsageError, match=r"index\.parquet is damaged"):
        write(tmp_path, spoil=spoil)


def test_other_files_are_refused_with_a_sentence(write, tmp_path) -> None:
    write(tmp_path)
    index, facts = tmp_path / "shards" / "index.parquet", tmp_path / FACTS
    whole = pq.read_table(index)
    index.write_bytes(b"PAR1 no")
    with pytest.raises(UsageError, match=r"index\.parquet can't be read"):
        LatentStore.open(str(tmp_path))
    pq.write_table(whole.drop_columns(["offset"]), index)
    with pytest.raises(UsageError, match=r"index\.parquet can't be read .*offset"):
        LatentStore.open(str(tmp_path))
    index.unlink()
    with pytest.raises(UsageError, match="not encoded to its end"):
        LatentStore.open(str(tmp_path))
    facts.write_text('{"format": 2}')
    with pytest.raises(UsageError, match=r"latents\.json is of another version"):
        LatentStore.open(str(tmp_path))
    facts.unlink()
    assert not is_latents(str(tmp_path))
    with pytest.raises(UsageError, match="made by `s2v encode`"):
        LatentStore.open(str(tmp_path))


def test_a_stage_that_cuts_otherwise_is_refused(write, tmp_path) -> None:
    store = write(tmp_path)
    assert is_latents(str(tmp_path))
    store.check(STAGE)
    store.check(STAGE.model_copy(update={"steps": 5, "batch": 7}))  # what doesn't matter
    with pytest.raises(UsageError, match=r"tokens=400 \(the stage: 500\).*--set tokens=400"):
        store.check(STAGE.model_copy(update={"tokens": 500}))
    with pytest.raises(UsageError, match=r"frames=16 \(the stage: 8\), seed=3 \(the stage: 4\)"):
        store.clips(STAGE.model_copy(update={"frames": 8, "seed": 4}))


def test_the_url_of_a_store_may_be_on_any_file_system(write) -> None:
    write("memory://bucket/latents")
    assert is_latents("memory://bucket/latents/")
    assert LatentStore.open("memory://bucket/latents/").index.num_rows == 4
    fsspec.filesystem("memory").rm("/bucket", recursive=True)

"""Pack: kept clips -> WebDataset shards with an index."""

import json
import tarfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq

from captioning.render import LENGTHS
from curation.layout import (
    CAPTIONS,
    CLIPS,
    FAILURES,
    SCORES,
    SHARDS,
    TRACKS,
    VERDICTS,
    homes,
    read,
    rows_of,
    save,
    stored_rows,
    table,
)
from curation.metrics import Tally
from curation.recipe import Recipe
from curation.sources import FetchError, random_access, unbroken
from dataset.cut import Cut, cut_clip
from dataset.isolate import Child, ChildDied, ChildHung
from dataset.media import MediaError
from dataset.records import Clip, Failure
from dataset.shards import Sample, make_shard, read_samples
from dataset.store import told
from dataset.tables import in_threads, parquet, part_name, to_parquet, write_atomically
from dataset.tracks import Tracks

INDEX = pa.schema(
    [
        ("clip_id", pa.string()),
        ("shard", pa.string()),  # file name beside the index
        ("offset", pa.int64()),  # byte at which the sample's first tar header lies
        ("seconds", pa.float64()),
        ("width", pa.int64()),
        ("height", pa.int64()),
        ("fps", pa.float64()),
        ("tokens", pa.int64()),
        ("caption", pa.string()),  # digest of the dense caption in it; null: none
    ]
)
MODEL_FPS, LATENT_STRIDE, PATCH = 16, 4, 16  # frames a second, frames and pixels per token of the model


def tokens(seconds: float, width: int, height: int) -> int:
    """Video tokens of a whole clip after VAE and patchify: the measure of the trainer's budget (paper section 4)."""
    frames = int(seconds * MODEL_FPS)
    return max(1, frames // LATENT_STRIDE) * (height // PATCH) * (width // PATCH)


# ---------------------------------------------------------------- the child: one clip


def cutter() -> Callable[[Clip], Iterator[Cut | str]]:
    def handle(clip: Clip) -> Iterator[Cut | str]:
        with random_access(clip.source) as file:
            yield "fetched"
            with unbroken(file):
                cut = cut_clip(file, clip.start, clip.end)
            yield cut

    return handle


# ---------------------------------------------------------------- the worker: one shard


@dataclass(frozen=True)
class Shard:
    """One task: the clips of one shard in order, and the parts that hold their rows of `clips/` and of `scores/`."""

    number: int
    clips: list[str]  # ids
    homes: list[str]  # parts of `clips/`
    parts: list[str]  # parts of `scores/` and `tracks/`
    captions: list[str]  # parts of `captions/`
    again: bool = False  # the shard is there, with the same clips and other captions

    @property
    def name(self) -> str:
        return f"{self.number:06d}.tar"


@dataclass
class PackWorker:
    """Writes one shard, then its index: the index is the mark that the shard is whole."""

    dataset: str
    recipe: Recipe
    child: Child = field(init=False)
    tally: Tally = field(init=False)

    def __post_init__(self) -> None:
        self.tally = Tally(self.dataset, "pack")
        self.child = Child("curation.pack:cutter")

    def __call__(self, shard: Shard) -> dict[str, int]:
        began = time.monotonic()
        rows = stored_rows(self.dataset, CLIPS, shard.homes, shard.clips)
        clips = {i: Clip.model_validate(rows[i]) for i in shard.clips}
        scores, tracks = (stored_rows(self.dataset, name, shard.parts, shard.clips) for name in (SCORES, TRACKS))
        captions = stored_rows(self.dataset, CAPTIONS, shard.captions, shard.clips)
        there = self.packed(shard) if shard.again else {}
        samples, packed, failures = [], [], []
        for clip in clips.values():
            cut = there.get(clip.clip_id) or self.cut(clip)
            if isinstance(cut, Failure):
                failures.append(cut)
                continue
            caption = captions.get(clip.clip_id)
            packed.append((clip, cut, caption))
            samples.append(sample_of(clip, cut.video, scores[clip.clip_id], tracks.get(clip.clip_id), caption))
        name = part_name(["pack", *shard.clips])
        save(table(self.dataset, FAILURES), rows_of(FAILURES, failures), name)
        if samples:
            data, offsets = make_shard(samples)
            folder = f"{self.dataset}/{SHARDS}"
            write_atomically(folder, shard.name, data)
            index = [index_row(clip, cut, shard.name, offsets[clip.clip_id], caption) for clip, cut, caption in packed]
            write_atomically(folder, index_name(shard.name), to_parquet(pa.Table.from_pylist(index, schema=INDEX)))
        else:
            drop(self.dataset, shard.name)
        self.tally.clips("done", [clip for clip, _, _ in packed])
        self.tally.failures(failures, clips)
        self.tally.part(shard.name, len(packed), began)
        return {"done": len(shard.clips), "failed": len(failures)}

    def packed(self, shard: Shard) -> dict[str, Cut]:
        """The clips of a shard as they were cut, so that only the words beside them change; damaged: those before."""
        folder, cuts = f"{self.dataset}/{SHARDS}", {}
        with told(folder), fsspec.open(f"{folder}/{index_name(shard.name)}", "rb") as f:
            sizes = {row["clip_id"]: (row["width"], row["height"]) for row in pq.read_table(f).to_pylist()}
        try:
            for sample in read_samples(f"{folder}/{shard.name}"):
                if "mp4" in sample.files and sample.key in sizes:
                    cuts[sample.key] = Cut(sample.files["mp4"], *sizes[sample.key])
        except (OSError, tarfile.TarError):
            pass
        return cuts

    def cut(self, clip: Clip) -> Cut | Failure:
        try:
            return self.child.answer(clip, **self.recipe.limits(clip.source))
        except MediaError as e:
            return Failure.of_clip(clip, "pack", str(e), e.remedy, transient=isinstance(e, FetchError))
        except ChildHung:
            error, remedy = "cutting it did not end in time", "re-encode the source; look after the network"
            return Failure.of_clip(clip, "pack", error, remedy, transient="://" in clip.source)
        except ChildDied as e:
            error = f"cutting it ended its worker ({e})"
            return Failure.of_clip(clip, "pack", error, "re-encode the source", transient=e.from_outside)
        except Exception as e:  # libav raises many kinds for damaged files
            return Failure.of_clip(clip, "pack", f"cutting it failed ({type(e).__name__}: {e})", "re-encode the source")


def sample_of(
    clip: Clip,
    video: bytes,
    row: dict[str, Any],
    tracks: dict[str, Any] | None,
    caption: dict[str, Any] | None,
) -> Sample:
    """`caption` is the text to train on where only one is wanted: the long dense caption, else the source's own."""
    measured = {name: value for name, value in row.items() if isinstance(value, dict)}
    facts = {
        "clip_id": clip.clip_id,
        "caption": caption["long"] if caption else clip.caption,
        "source_caption": clip.caption,
        "seconds": clip.seconds,
        "source": clip.source,
        "source_id": clip.source_id,
        "start": clip.start,
        "end": clip.end,
        "media": clip.media.model_dump(),
        "scores": measured,
        "versions": dict(row["versions"]),
    }
    if caption:
        facts["captions"] = {length: caption[length] for length in LENGTHS}
        facts["structured_caption"] = json.loads(caption["structured"])
        facts["caption_flags"] = caption["flags"]
        facts["caption_by"] = {"model": caption["model"], "prompt": caption["prompt"]}
    files = {"mp4": video, "json": json.dumps(facts, ensure_ascii=False, sort_keys=True).encode()}
    if tracks:
        files["pose.npz"] = Tracks.from_row(tracks).to_npz_bytes()
    return Sample(clip.clip_id, files)


def index_row(clip: Clip, cut: Cut, shard: str, offset: int, caption: dict[str, Any] | None) -> dict[str, Any]:
    return {
        "clip_id": clip.clip_id,
        "shard": shard,
        "offset": offset,
        "seconds": clip.seconds,
        "width": cut.width,
        "height": cut.height,
        "fps": clip.media.fps,
        "tokens": tokens(clip.seconds, cut.width, cut.height),
        "caption": caption["content"] if caption else None,
    }


def index_name(shard: str) -> str:
    return f"{shard.removesuffix('.tar')}.index.parquet"


# ---------------------------------------------------------------- the driver


@dataclass(frozen=True)
class Plan:
    """What packing shall do: shards to write, and shards to remove because they hold clips no longer kept."""

    write: list[Shard]
    remove: list[str]


def plan(dataset: str, recipe: Recipe) -> Plan:
    """Kept clips in the order of their ids (which mixes the sources), `shard_clips` to a shard.

    Shards whose clips are all still kept stay as they are. The rest is laid out as if from the start over the free
    numbers, so a run that was killed and goes on ends with the same files as one that was not.
    """
    verdicts = read(dataset, VERDICTS, ["clip_id", "keep"])
    kept = set(verdicts.filter(verdicts["keep"])["clip_id"].to_pylist())
    wanted = kept - failed(dataset)
    packed = read_shards(dataset)
    good = {name: held for name, held in packed.items() if held.keys() <= wanted}
    todo = sorted(wanted - set().union(*good.values()))
    words = contents(dataset)
    other = {name: sorted(held) for name, held in good.items() if any(words.get(i) != has for i, has in held.items())}
    free = (n for n in range(len(good) + len(todo) + 1) if f"{n:06d}.tar" not in good)
    new = [todo[start : start + recipe.shard_clips] for start in range(0, len(todo), recipe.shard_clips)]
    laid = [(next(free), ids, False) for ids in new] + [(shard_number(name), ids, True) for name, ids in other.items()]
    where, scored, told = (homes(dataset, name) if laid else {} for name in (CLIPS, SCORES, CAPTIONS))

    def task(number: int, ids: list[str], *, again: bool) -> Shard:
        captions = sorted({told[i] for i in ids if i in told})
        return Shard(number, ids, sorted({where[i] for i in ids}), sorted({scored[i] for i in ids}), captions, again)

    shards = [task(number, ids, again=again) for number, ids, again in laid]
    return Plan(shards, sorted(set(packed) - set(good) - {s.name for s in shards}))


def failed(dataset: str) -> set[str]:
    """Clips that can't be packed. One that only has no caption can."""
    rows = read(dataset, FAILURES, ["key", "stage"])
    return {row["key"] for row in rows.to_pylist() if row["stage"] != "caption"}


def contents(dataset: str) -> dict[str, str]:
    """Clip id -> digest of its dense caption."""
    rows = read(dataset, CAPTIONS, ["clip_id", "content"])
    return dict(zip(rows["clip_id"].to_pylist(), rows["content"].to_pylist(), strict=True))


def shard_number(name: str) -> int:
    return int(name.removesuffix(".tar"))


def read_shards(dataset: str) -> dict[str, dict[str, str | None]]:
    """Shard name -> its clips and the digests of their captions, for the shards that are whole."""
    found = {}
    for rows in shard_indexes(dataset):
        captions = rows["caption"].to_pylist() if "caption" in rows.column_names else [None] * len(rows)
        found[rows["shard"][0].as_py()] = dict(zip(rows["clip_id"].to_pylist(), captions, strict=True))
    return found


def shard_indexes(dataset: str) -> list[pa.Table]:
    fs, path = fsspec.core.url_to_fs(f"{dataset}/{SHARDS}")
    fs.invalidate_cache()  # workers write them

    def read_index(name: str) -> pa.Table:
        with parquet(fs, name) as file:
            return file.read()

    with told(dataset):
        return in_threads(read_index, sorted(fs.glob(f"{path}/*.index.parquet")))


def finish(dataset: str, remove: list[str]) -> int:
    """Remove outdated shards, and write the one index of all. Returns the number of packed clips."""
    for shard in remove:
        drop(dataset, shard)
    index = pa.concat_tables([INDEX.empty_table(), *shard_indexes(dataset)], promote_options="default").sort_by(
        "clip_id"
    )
    write_atomically(f"{dataset}/{SHARDS}", "index.parquet", to_parquet(index))
    return index.num_rows


def drop(dataset: str, shard: str) -> None:
    """Remove a shard, if it is there: first the mark that it is whole."""
    fs, path = fsspec.core.url_to_fs(f"{dataset}/{SHARDS}")
    for name in (index_name(shard), shard):
        with told(dataset), suppress(FileNotFoundError):
            fs.rm_file(f"{path}/{name}")

"""`s2v encode`: datasets -> latent shards, on as many machines as Ray has."""

import json
import math
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property, partial
from itertools import count, groupby
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import ray
import torch
from rich.console import Console
from rich.filesize import decimal
from rich.markup import escape

from dataset.errors import RunError, UsageError
from dataset.isolate import Child
from dataset.progress import progress
from dataset.shards import Sample, make_shard
from dataset.stage import Resources, run_tasks, start_ray
from dataset.tables import in_threads, to_parquet, write_atomically
from model.checkpoint import Checkpoint
from model.config import S2VConfig
from trainer.budget import fit
from trainer.corpus import places, read_corpus
from trainer.encoders import Encoders, Widths, config_of, digest
from trainer.latents import FACTS, FAILURES, INDEX, SHARDS, Facts, in_order, is_latents, key_of, read_facts, sample_of
from trainer.read_ahead import Found, read_ahead
from trainer.reading import Unreadable
from trainer.sample import Clip, Request, Shape
from trainer.stages import Stage

SHARD_CLIPS = 8  # each in all its variants: up to about 1 GB, which a worker holds in memory twice
INDEX_END = ".index.parquet"
SAMPLE_EXTRA = 16 << 10  # bytes of a sample that are no tensors: headers of tar and safetensors, the json, padding


# ---------------------------------------------------------------- the worker: one shard


@dataclass(frozen=True)
class Shard:
    """One task: the clips of a shard in order, each as the request of its first variant."""

    number: int
    clips: list[Request]

    @property
    def stem(self) -> str:
        return f"{self.number:06d}"


@dataclass
class EncodeWorker:
    """Writes one shard, then its failures, then its index: the index is the mark that the others are whole."""

    out: str
    checkpoint: str
    seed: int
    variants: int

    @cached_property
    def encoders(self) -> Encoders:
        return Encoders.load(Checkpoint.open(self.checkpoint), "cuda" if torch.cuda.is_available() else "cpu")

    @cached_property
    def child(self) -> Child:
        return Child("trainer.read_ahead:reader", self.seed)

    def __call__(self, shard: Shard) -> dict[str, int]:
        failures: list[Unreadable] = []
        data, offsets = make_shard(self.samples(shard, failures))
        folder, tar = f"{self.out}/{SHARDS}", f"{shard.stem}.tar"
        if offsets:
            write_atomically(folder, tar, data)
        write_failures(self.out, shard.stem, failures)
        rows = [index_row(r, tar, offsets[k]) for r in self.requests(shard) if (k := key_of(r)) in offsets]
        write_atomically(folder, shard.stem + INDEX_END, to_parquet(pa.Table.from_pylist(rows, schema=INDEX)))
        return {"done": len(shard.clips), "failed": len(failures)}

    def requests(self, shard: Shard) -> list[Request]:
        return [replace(clip, epoch=variant) for clip in shard.clips for variant in range(self.variants)]

    def samples(self, shard: Shard, failures: list[Unreadable]) -> Iterator[Sample]:
        """All variants of each clip, or none of a clip of which one can't be read or encoded."""
        reads = read_ahead(self.child, self.requests(shard))
        for _, variants in groupby(reads, key=lambda read: read[0].clip.clip_id):
            try:
                samples = [self.sample(found) for _, found in variants]
            except Unreadable as e:
                failures.append(e)
            else:
                yield from samples

    def sample(self, found: Found) -> Sample:
        if isinstance(found, Unreadable):
            raise found
        return sample_of(found, self.encoders.encode(found))


def index_row(request: Request, shard: str, offset: int) -> dict[str, Any]:
    clip, shape = request.clip, request.shape
    return asdict(clip) | {
        "shard": shard,
        "offset": offset,
        "variant": request.epoch,
        "frames": shape.frames,
        "history": shape.history,
    }


# ---------------------------------------------------------------- what is there


def write_failures(out: str, stem: str, failures: Sequence[Unreadable]) -> None:
    """The clips of a shard that could not be encoded; takes away what an earlier attempt may have said."""
    if failures:
        keys = ("clip_id", "shard", "error", "remedy")
        rows = [dict(zip(keys, (f.clip.clip_id, f.clip.shard, f.error, f.remedy), strict=True)) for f in failures]
        lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
        write_atomically(f"{out}/{FAILURES}", f"{stem}.jsonl", "".join(lines).encode())
        return
    fs, path = fsspec.core.url_to_fs(f"{out}/{FAILURES}/{stem}.jsonl")
    if fs.exists(path):
        fs.rm_file(path)


def read_failures(out: str, stem: str) -> list[str]:
    """Ids of the clips of a shard that could not be encoded."""
    fs, path = fsspec.core.url_to_fs(f"{out}/{FAILURES}/{stem}.jsonl")
    if not fs.exists(path):
        return []
    return [json.loads(line)["clip_id"] for line in fs.cat_file(path).decode().splitlines()]


@dataclass(frozen=True)
class Finished:
    """A shard that is there: the rows of its samples, and the ids of the clips that failed."""

    number: int
    rows: pa.Table
    failed: list[str]

    @property
    def clips(self) -> set[str]:
        return {*self.rows["clip_id"].to_pylist(), *self.failed}


def finished(out: str) -> list[Finished]:
    fs, path = fsspec.core.url_to_fs(f"{out}/{SHARDS}")
    fs.invalidate_cache()  # workers write, too
    there = {os.path.basename(name) for name in fs.ls(path, detail=False)} if fs.isdir(path) else set()

    def read(name: str) -> Finished | None:
        stem = name.removesuffix(INDEX_END)
        with fs.open(f"{path}/{name}", "rb") as f:
            rows = pq.read_table(f)
        whole = f"{stem}.tar" in there or not rows.num_rows
        return Finished(int(stem), rows, read_failures(out, stem)) if whole else None

    found = in_threads(read, sorted(name for name in there if name.endswith(INDEX_END)))
    return [shard for shard in found if shard]


def plan(clips: Sequence[Request], shards: Sequence[Finished]) -> list[Shard]:
    """What is left to do: `SHARD_CLIPS` clips to a shard in the order of their ids, over the numbers that are free.

    A run that was killed and goes on lays out the same shards as one that was not: each of those that are there takes
    exactly its own clips out of the order, failed ones included.
    """
    done = set[str]().union(*(shard.clips for shard in shards))
    todo = [request for request in clips if request.clip.clip_id not in done]
    numbers = {shard.number for shard in shards}
    free = (number for number in count() if number not in numbers)
    return [Shard(next(free), todo[i : i + SHARD_CLIPS]) for i in range(0, len(todo), SHARD_CLIPS)]


def write_index(out: str, clips: Sequence[Clip], shards: Sequence[Finished]) -> pa.Table:
    """One index of the samples of all these clips; a clip that is of several kinds of data is listed under each."""
    there = pa.concat_tables([INDEX.empty_table(), *(shard.rows for shard in shards)])
    rows = [INDEX.empty_table()]
    for kind in sorted({clip.kind for clip in clips}):
        ids = pa.array([clip.clip_id for clip in clips if clip.kind == kind], pa.string())
        of_kind = there.filter(pc.is_in(there["clip_id"], ids))
        column = pa.array([kind] * of_kind.num_rows, pa.string())
        rows.append(of_kind.set_column(INDEX.get_field_index("kind"), INDEX.field("kind"), column))
    index = in_order(pa.concat_tables(rows))
    write_atomically(f"{out}/{SHARDS}", "index.parquet", to_parquet(index))
    return index


# ---------------------------------------------------------------- the driver


def encode(
    data: Sequence[str],
    out: str,
    stage: Stage,
    checkpoint: str,
    variants: int,
    address: str | None,
    console: Console,
) -> None:
    """Encode all clips that the stage trains on, `variants` times each. A run that was stopped goes on where it was."""
    out = out.rstrip("/") if "://" in out else os.path.abspath(out)  # workers may stand in another folder
    parts = Checkpoint.open(os.path.abspath(checkpoint))
    if latents := [path for _, path in places(data, stage) if is_latents(path)]:
        raise UsageError(f"{latents[0]} holds latents already: give the dataset that they were made of.")
    facts = facts_of(stage, parts, variants)
    check_facts(out, facts)
    config = config_of(parts)
    clips = read_corpus(data, stage, config, lambda text: console.print(escape(text), soft_wrap=True))
    shards = plan(requests_of(clips, stage, config), finished(out))
    todo = [request for shard in shards for request in shard.clips]
    describe(out, todo, facts, console)
    write_atomically(out, FACTS, (facts.model_dump_json(indent=2) + "\n").encode())
    if shards:
        start_ray(address)
        gpus = 1.0 if ray.cluster_resources().get("GPU") else 0.0
        make = partial(EncodeWorker, out, str(parts.folder), stage.seed, variants)
        with progress(console) as bar:
            line = bar.add_task("[bold]Encode[/]", total=len(todo), unit="clips", failed="")
            failed = 0
            for result in run_tasks(make, shards, Resources(gpus=gpus), "Encode"):
                failed += result["failed"]
                bar.update(line, advance=result["done"], failed=f"[yellow]{failed} failed[/]" if failed else "")
    conclude(out, clips, console)


def facts_of(stage: Stage, checkpoint: Checkpoint, variants: int) -> Facts:
    """Also finds out early whether the encoders are whole: on a CPU, most of their weights are mapped and not read."""
    if variants < 1:
        raise UsageError(f"--variants {variants}: at least one is needed.")
    widths = asdict(Encoders.load(checkpoint, "cpu").widths)
    chosen = {name: getattr(stage, name) for name in ("tokens", "frames", "seed")}
    return Facts(**chosen, **widths, variants=variants, encoders=digest(checkpoint))


def check_facts(out: str, facts: Facts) -> None:
    """Refuse to mix with other latents, or with anything else."""
    there = read_facts(out)
    if there is None:
        fs, path = fsspec.core.url_to_fs(out)
        if fs.exists(path) and (not fs.isdir(path) or fs.ls(path, detail=False)):
            raise UsageError(f"{out} exists and holds no latents: give a new --out.")
        return
    ours, theirs = facts.model_dump(), there.model_dump()
    if unlike := [f"{name}={theirs[name]} (now: {ours[name]})" for name in ours if ours[name] != theirs[name]]:
        raise UsageError(f"{out} holds latents with {', '.join(unlike)}: give another --out, or the same options.")


def requests_of(clips: Sequence[Clip], stage: Stage, config: S2VConfig) -> list[Request]:
    """Of the first variant of each clip, in the order of their ids. One that is of several kinds is encoded once."""
    unique = {clip.clip_id: clip for clip in reversed(clips)}
    shaped = [(clip, fit(clip.seconds, clip.width, clip.height, stage, config)) for _, clip in sorted(unique.items())]
    return [Request(clip, shape, 0) for clip, shape in shaped if shape]


def describe(out: str, todo: Sequence[Request], facts: Facts, console: Console) -> None:
    """How much disk it will take; refuses where a disk of this machine has less."""
    need = facts.variants * sum(sample_bytes(request.shape, facts.widths) for request in todo)
    work = f"{len(todo):,} clips to encode, {facts.variants} variants each; at most {decimal(need)}"
    console.print(escape(f"{out}: {work if todo else 'nothing left to encode'}."), soft_wrap=True)
    if "://" not in out:
        folder = next(p for p in (Path(out), *Path(out).parents) if p.exists())
        if need > (free := shutil.disk_usage(folder).free):
            less = "free space, give another --out, or fewer --variants"
            raise UsageError(f"{out} would take up to {decimal(need)}, and {decimal(free)} are free: {less}.")


def sample_bytes(shape: Shape, widths: Widths) -> int:
    """The most that a sample takes: with a caption of full length."""
    return 2 * sum(map(math.prod, widths.shapes(shape).values())) + SAMPLE_EXTRA


def conclude(out: str, clips: Sequence[Clip], console: Console) -> None:
    shards = finished(out)
    rows = write_index(out, clips, shards)
    wanted = {clip.clip_id for clip in clips}
    failed = len(wanted.intersection(clip for shard in shards for clip in shard.failed))
    encoded = len(rows["clip_id"].unique())
    fs, path = fsspec.core.url_to_fs(f"{out}/{SHARDS}")
    why = f"{out}/{FAILURES} says why; delete it and run again to try them again"
    failures = f"{failed:,} could not be: {why}" if failed else "none failed"
    if not encoded:
        raise RunError(f"No clip could be encoded: {why}.")
    console.print(escape(f"{out}: {encoded:,} clips encoded, {decimal(fs.du(path))}; {failures}."), soft_wrap=True)

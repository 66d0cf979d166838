"""Latent shards: samples encoded ahead by `s2v encode`, so that training runs no encoder.

    LATENTS/latents.json                        what they were encoded for and with: `Facts`
    LATENTS/shards/000000.tar ... index.parquet WebDataset: {clip_id}-{variant}.latent.safetensors .json
    LATENTS/failures/000000.jsonl               clips that could not be encoded: clip_id, shard, error, remedy

Variant v of a clip is the sample that training from pixels makes of it in epoch v: the same window, the same crop.
Later epochs begin again with variant 0, with other noise and other conditions withheld.
"""

import json
import re
from collections.abc import Mapping
from contextlib import closing
from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property
from typing import Literal

import fsspec
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from dataset.errors import UsageError
from dataset.shards import Sample, read_samples
from trainer.encoders import Widths
from trainer.reading import Unreadable
from trainer.sample import Clip, Example, Pixels, Request, Shape
from trainer.stages import Stage

FACTS, SHARDS, FAILURES = "latents.json", "shards", "failures"
INDEX = pa.schema(
    [
        ("clip_id", pa.string()),
        ("kind", pa.string()),
        ("shard", pa.string()),  # file name beside the index
        ("offset", pa.int64()),  # byte at which the sample's first tar header lies
        ("variant", pa.int64()),
        ("seconds", pa.float64()),  # of the clip
        ("width", pa.int64()),  # pixels of the clip, before it is scaled
        ("height", pa.int64()),
        ("frames", pa.int64()),  # video frames of the sample, 16 a second
        ("history", pa.int64()),  # real frames before them, at least
    ]
)
SHARD_NAME = re.compile(r"[\w-]+\.tar")
TENSORS, FACTS_OF_SAMPLE = "latent.safetensors", "json"  # extensions


class Facts(BaseModel):
    """What latents depend on. tokens, frames, seed: of the stage. encoders: `trainer.encoders.digest`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal[1] = 1
    tokens: int
    frames: int
    seed: int
    variants: int = Field(ge=1)
    channels: int
    audio_dim: int
    text_dim: int
    text_len: int
    encoders: str

    @property
    def widths(self) -> Widths:
        return Widths(self.channels, self.audio_dim, self.text_dim, self.text_len)


@dataclass(frozen=True)
class LatentStore:
    """Latent shards, to be read by any number of processes. index: of all samples, `in_order`."""

    path: str
    facts: Facts
    index: pa.Table

    @classmethod
    def open(cls, path: str) -> "LatentStore":
        path = path.rstrip("/")
        facts = read_facts(path)
        if facts is None:
            raise UsageError(f"{path} holds no {FACTS}: latent shards are made by `s2v encode`.")
        return cls(path, facts, read_index(path, facts))

    def check(self, stage: Stage) -> None:
        """Refuse a stage that would cut the clips otherwise, or draw other windows."""
        facts = self.facts
        both = {name: (getattr(facts, name), getattr(stage, name)) for name in ("tokens", "frames", "seed")}
        if unlike := {name: values for name, values in both.items() if values[0] != values[1]}:
            said = ", ".join(f"{name}={encoded} (the stage: {wanted})" for name, (encoded, wanted) in unlike.items())
            given = " ".join(f"--set {name}={encoded}" for name, (encoded, _) in unlike.items())
            raise UsageError(f"{self.path} was encoded for {said}. Encode for this stage, or train with {given}.")

    def clips(self, stage: Stage) -> list[Clip]:
        """All clips, by kind and id. A clip that is of several kinds is there once for each."""
        self.check(stage)
        rows = self.index.filter(pc.equal(self.index["variant"], 0))
        found = [{f.name: row[f.name] for f in fields(Clip)} for row in rows.to_pylist()]
        return [Clip(**row | {"shard": self.shard(row["shard"])}) for row in found]

    def read(self, request: Request) -> Example:
        """On the CPU. What is not just as `s2v encode` writes it is refused: the files may come from anywhere."""
        try:
            tensors = load_tensors(self.sample(request).files[TENSORS])
        except Exception as e:  # damaged or hostile bytes raise whatever the libraries raise
            raise Unreadable(request.clip, f"its latents can't be read ({type(e).__name__}: {e})", self.remedy()) from e
        if complaint := self.complaint(tensors, request.shape):
            raise Unreadable(request.clip, f"its latents are not as they were written: {complaint}", self.remedy())
        return Example(request.clip.clip_id, request.clip.kind, request.epoch, **tensors)

    def sample(self, request: Request) -> Sample:
        variant = replace(request, epoch=request.epoch % self.facts.variants)
        row = self.rows[request.clip.kind, request.clip.clip_id] + variant.epoch
        shard, offset = self.index["shard"][row].as_py(), self.index["offset"][row].as_py()
        with closing(read_samples(self.shard(shard), offset)) as samples:  # type: ignore[type-var]
            sample = next(samples)
        if sample.key != key_of(variant):
            raise ValueError(f"{sample.key} lies in its place")
        return sample

    def complaint(self, tensors: Mapping[str, Tensor], shape: Shape) -> str:
        """What is wrong with the tensors of a sample; '' where nothing is."""
        wanted = self.facts.widths.shapes(shape)
        if tensors.keys() != wanted.keys():
            return f"the tensors are {sorted(tensors)}"
        for name, tensor in tensors.items():
            found, most = tuple(tensor.shape), wanted[name]
            if name in ("text", "no_text") and len(found) == 2 and 1 <= found[0] <= most[0]:
                most = (found[0], most[1])
            if tensor.dtype != torch.float16 or found != most:
                return f"{name} is {tensor.dtype} {found} instead of float16 {most}"
            if not tensor.isfinite().all():
                return f"{name} has values that are no numbers"
        return ""

    def remedy(self) -> str:
        return f"delete its shard in {self.path}/{SHARDS} and run the same `s2v encode` again"

    def shard(self, name: str) -> str:
        return f"{self.path}/{SHARDS}/{name}"

    @cached_property
    def rows(self) -> dict[tuple[str, str], int]:
        """(kind, clip id) -> row of the clip's first variant."""
        clips = zip(self.index["kind"].to_pylist(), self.index["clip_id"].to_pylist(), strict=True)
        return {clip: row for row, clip in enumerate(clips) if row % self.facts.variants == 0}


def is_latents(path: str) -> bool:
    try:
        fs, place = fsspec.core.url_to_fs(path)
        return bool(fs.exists(f"{place.rstrip('/')}/{FACTS}"))
    except (ValueError, ImportError, OSError):  # of an unknown protocol, a missing package, a store that refuses
        return False


def read_facts(path: str) -> Facts | None:
    """None: there are no latents."""
    if not is_latents(path):
        return None
    try:
        with fsspec.open(f"{path}/{FACTS}", "rb") as f:
            return Facts.model_validate_json(f.read())
    except ValidationError as e:
        raise UsageError(f"{path}/{FACTS} is of another version, or damaged: encode again into another folder.") from e


def read_index(path: str, facts: Facts) -> pa.Table:
    """The index of all samples: every clip in all its variants."""
    name, again = f"{path}/{SHARDS}/index.parquet", "Run the same `s2v encode` again."
    try:
        with fsspec.open(name, "rb") as f:
            index = pq.read_table(f).select(INDEX.names).cast(INDEX)
    except FileNotFoundError:
        raise UsageError(f"{path} is not encoded to its end. {again}") from None
    except (pa.ArrowException, KeyError, OSError) as e:
        raise UsageError(f"{name} can't be read ({e}). {again}") from e
    index = in_order(index)
    if not is_whole(index, facts.variants):
        raise UsageError(f"{name} is damaged: it doesn't hold each clip in {facts.variants} variants. {again}")
    return index


def is_whole(index: pa.Table, variants: int) -> bool:
    """Whether each clip is there in all its variants, in shards beside the index."""
    found = list(zip(*(index[name].to_pylist() for name in ("kind", "clip_id", "variant")), strict=True))
    clips = [(kind, clip_id) for kind, clip_id, _ in found[::variants]]
    if len(found) != variants * len(clips) or len(set(clips)) < len(clips):
        return False
    gaps = any(column.null_count for column in index.columns)
    beside = all(SHARD_NAME.fullmatch(name or "") for name in index["shard"].unique().to_pylist())
    return not gaps and beside and found == [(*clip, variant) for clip in clips for variant in range(variants)]


def in_order(index: pa.Table) -> pa.Table:
    return index.sort_by([(name, "ascending") for name in ("kind", "clip_id", "variant")])


def key_of(request: Request) -> str:
    return f"{request.clip.clip_id}-{request.epoch}"


def sample_of(pixels: Pixels, example: Example) -> Sample:
    """A sample as latent shards hold it."""
    request = pixels.request
    facts = {
        "clip_id": example.clip_id,
        "kind": example.kind,
        "variant": request.epoch,
        "window": asdict(pixels.window),
        "caption": pixels.caption,
        "shape": asdict(request.shape),
    }
    tensors = {name: tensor.cpu() for name, tensor in example.tensors().items()}
    content = {
        TENSORS: save_tensors(tensors),
        FACTS_OF_SAMPLE: json.dumps(facts, ensure_ascii=False, sort_keys=True).encode(),
    }
    return Sample(key_of(request), content)

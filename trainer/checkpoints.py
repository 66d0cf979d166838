"""Checkpoints of a run: every rank writes its part of weights and optimiser states; any number of ranks reads them.

RUN/step-000250/ holds `checkpoint.json`, written last, and safetensors files of each rank: flat pieces of every
parameter, named `kind/parameter`. A folder gets its name when all of it is on disk, so a torn one is never taken for a
whole one. Nothing in it is a pickle.
"""

import json
import os
import re
import shutil
from collections import defaultdict
from collections.abc import Iterator
from contextlib import suppress
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from rich.filesize import decimal
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from model.config import S2VConfig
from model.errors import CheckpointError
from model.network import S2VModel
from model.tensor_files import Shape, compare, damage, on_meta, read_json, shapes_of, some

FORMAT, MANIFEST = "s2v-training-2", "checkpoint.json"
MASTER, WEIGHT = "master", "weight"  # of parameters that are trained (float32), and of those that are not
FILE_BYTES = 1 << 30  # about so much at a time is in memory beside what is on the GPU


Count = Annotated[int, Field(ge=0)]


class Saved(BaseModel):
    """What `checkpoint.json` says. updates: those of `step` that were applied, as the optimiser counts. parts: the
    checkpoint folder that has VAE and encoders. trained: names. files: name -> bytes. data: a digest of the clips."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    step: Count
    updates: Count
    world: int = Field(ge=1)
    config: S2VConfig
    stage: dict[str, Any]
    parts: str
    parameters: dict[str, tuple[Count, ...]]
    trained: list[str]
    files: dict[Annotated[str, Field(pattern=r"^rank-[0-9]{5}-[0-9]{3}\.safetensors$")], Count]
    data: str = ""

    def complaint(self) -> str:
        """What can't be true of it, as far as it tells without the network; empty if nothing."""
        ranks = {rank_of(name) for name in self.files}
        if len(ranks) != self.world or max(ranks) >= self.world:
            return f"its files are not those of {self.world} ranks"
        if self.updates > self.step:
            return f"{self.updates} updates in {self.step} steps"
        if unknown := sorted(set(self.trained) - self.parameters.keys()):
            return f"it trained {some(unknown)}, which it does not have"
        if self.config.num_layers > len(self.parameters):  # a network of that size may take for ever to be made
            return f"{len(self.parameters)} parameters are too few for {self.config.num_layers} blocks"
        return ""


def rank_of(file: str) -> int:
    return int(file.split("-")[1])


# ---------------------------------------------------------------- writing


def write_part(folder: Path, rank: int, tensors: Iterator[tuple[str, Tensor]]) -> dict[str, int]:
    """This rank's files -> {name: bytes}. They are on the disk, not only in its cache, when this returns."""
    files: dict[str, int] = {}
    batch: dict[str, Tensor] = {}

    def write() -> None:
        file = folder / f"rank-{rank:05d}-{len(files):03d}.safetensors"
        save_file(batch, file)
        with file.open("rb") as written:
            os.fsync(written.fileno())
        files[file.name] = file.stat().st_size
        batch.clear()

    for name, tensor in tensors:
        batch[name] = tensor.detach().to("cpu", copy=True).contiguous()
        if sum(t.nbytes for t in batch.values()) >= FILE_BYTES:
            write()
    if batch:
        write()
    return files


def finish(folder: Path, final: Path, saved: Saved) -> None:
    """The last two steps: the manifest, and the name."""
    file = folder / MANIFEST
    file.write_text(json.dumps({"format": FORMAT} | saved.model_dump(), indent=1))
    sync(file)
    sync(folder)
    if final.exists():
        discard(final)
    folder.rename(final)
    sync(final.parent)


def sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def room(folder: Path, need: int) -> str:
    """Why `need` bytes can't be written there; empty if they can."""
    try:
        free = shutil.disk_usage(folder).free
    except OSError as error:
        return f"{folder} can't be reached: {error}"
    return "" if free > need else f"{folder} has {decimal(free)} free and a checkpoint takes {decimal(need)}"


def thin_out(run: Path, keep: int, written: Path) -> None:
    """Only the newest `keep` whole checkpoints stay, and the one just written. Damaged ones don't count, and are left
    to their owner. What can't be removed stays: the checkpoint that was written is no worse for it."""
    with suppress(OSError):
        whole = [folder for _, folder in all_of(run) if is_whole(folder)]
        for folder in whole[:-keep]:
            if folder != written:
                discard(folder)


def discard(folder: Path) -> None:
    gone = folder.with_name(f".{folder.name}.gone")  # first, so that half of it is never seen under its name
    shutil.rmtree(gone, ignore_errors=True)
    folder.rename(gone)
    shutil.rmtree(gone, ignore_errors=True)


def sweep(run: Path) -> None:
    """Remove what interrupted saves left behind. Only while no rank writes."""
    for kind in ("partial", "gone"):
        for folder in run.glob(f".step-*.{kind}"):
            shutil.rmtree(folder, ignore_errors=True)


# ---------------------------------------------------------------- reading


def all_of(run: Path) -> list[tuple[int, Path]]:
    """(step, folder) of everything that has a checkpoint's name, oldest first."""
    found = [(re.fullmatch(r"step-(\d+)", path.name), path) for path in run.iterdir() if path.is_dir()]
    return sorted((int(match[1]), path) for match, path in found if match)


def is_checkpoint(folder: Path | str) -> bool:
    return (Path(folder) / MANIFEST).is_file()


def read_saved(folder: Path) -> Saved:
    """The manifest of a checkpoint that fits its network, all of whose files are there; CheckpointError otherwise."""
    file = folder / MANIFEST
    if not file.is_file():
        raise CheckpointError(f"{folder} holds no {MANIFEST}: it is no checkpoint of a run, or was not finished.")
    saved = parse(file)
    if complaint := saved.complaint():
        raise CheckpointError(f"{file} makes no sense ({complaint}).")
    compare(network_shapes(saved.config, file), saved.parameters, file)
    if missing := [name for name in saved.files if not (folder / name).is_file()]:
        raise CheckpointError(f"{folder} is not whole: {some(missing)} is missing.")
    if wrong := [name for name, size in saved.files.items() if (folder / name).stat().st_size != size]:
        raise CheckpointError(f"{folder} is not whole: {some(wrong)} should have another length.")
    return saved


def parse(file: Path) -> Saved:
    try:
        content = read_json(file)
        if content.pop("format", None) != FORMAT:
            raise CheckpointError(f"{file} is of another version: export it with the version that wrote it.")
        return Saved.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise CheckpointError(f"{file} makes no sense ({where}: {first['msg']}).") from error
    except (ArithmeticError, RecursionError) as error:  # a network of no heads; brackets within brackets
        raise CheckpointError(f"{file} makes no sense ({error}).") from error


@lru_cache(maxsize=4)
def network_shapes(config: S2VConfig, source: Path) -> dict[str, Shape]:
    return shapes_of(dict(on_meta(lambda: S2VModel(config), source).named_parameters()))


def is_whole(folder: Path) -> bool:
    try:
        read_saved(folder)
    except CheckpointError:
        return False
    return True


def newest(run: Path) -> tuple[Path | None, list[str]]:
    """The newest whole checkpoint of a run, and what is wrong with newer ones."""
    complaints: list[str] = []
    for _, folder in reversed(all_of(run)):
        try:
            read_saved(folder)
            return folder, complaints
        except CheckpointError as error:
            complaints.append(str(error))
    return None, complaints


class Parts:
    """The pieces of a checkpoint, put together to whatever piece is wanted."""

    def __init__(self, folder: Path):
        self.folder, self.saved = folder, read_saved(folder)

    @cached_property
    def files(self) -> list[dict[str, Any]]:
        """For each rank that wrote, {kind/parameter: the open file that has it}."""
        where: list[dict[str, Any]] = [{} for _ in range(self.saved.world)]
        for name in self.saved.files:
            file = self.folder / name
            try:
                opened: Any = safe_open(file, framework="pt").__enter__()
            except (SafetensorError, OSError) as error:
                raise CheckpointError(f"{file} is {damage(file)} ({error}).") from error
            where[rank_of(name)] |= dict.fromkeys(opened.keys(), opened)
        return where

    @cached_property
    def kinds_by_parameter(self) -> dict[str, list[str]]:
        found = defaultdict(list)
        for key in self.files[0]:
            kind, _, name = key.partition("/")
            found[name].append(kind)
        return dict(found)

    def kinds(self, name: str) -> list[str]:
        return self.kinds_by_parameter.get(name, [])

    def read(self, kind: str, name: str, first: int, last: int) -> Tensor:
        """Numbers `first` to `last` of the flattened parameter, or of one of its optimiser states."""
        whole = self.numel(name)
        size = -(-whole // self.saved.world) or 1
        pieces = []
        for rank in range(first // size, -(-last // size)):
            key, start = f"{kind}/{name}", rank * size
            if key not in self.files[rank]:
                raise CheckpointError(f"{self.folder} lacks {key} of rank {rank}.")
            piece = self.files[rank][key].get_slice(key)
            if piece.get_shape() != [min(size, whole - start)]:
                raise CheckpointError(f"{self.folder} has {key} of rank {rank} in another size: it is damaged.")
            pieces.append(piece[max(first - start, 0) : min(last - start, size)])
        return torch.cat(pieces) if pieces else torch.empty(0)

    def numel(self, name: str) -> int:
        return torch.Size(self.saved.parameters[name]).numel()

    def weights(self, name: str) -> str:
        """The kind that holds the parameter's weights."""
        return MASTER if name in self.saved.trained else WEIGHT

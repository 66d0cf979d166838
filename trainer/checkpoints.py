"""Checkpoints of a run: every rank writes its part of weights and optimiser states; any number of ranks reads them.

RUN/step-000250/ holds `checkpoint.json`, written last, and safetensors files of each rank: flat pieces of every
parameter, named `kind/parameter`. A folder gets its name when all of it is on disk, so a torn one is never taken for a
whole one. Nothing in it is a pickle.
"""

import json
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from rich.filesize import decimal
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from model.config import S2VConfig
from model.errors import CheckpointError
from model.tensor_files import damage, read_json, some

FORMAT, MANIFEST = "s2v-training-1", "checkpoint.json"
MASTER, WEIGHT = "master", "weight"  # of parameters that are trained (float32), and of those that are not
FILE_BYTES = 1 << 30  # about so much at a time is in memory beside what is on the GPU


@dataclass(frozen=True)
class Saved:
    """What `checkpoint.json` says. parameters: name -> shape. trained: names. files: name -> bytes. parts: the
    checkpoint folder that has VAE and encoders."""

    step: int
    world: int
    config: dict[str, Any]
    stage: dict[str, Any]
    parts: str
    parameters: dict[str, list[int]]
    trained: list[str]
    files: dict[str, int]

    def network_config(self) -> S2VConfig:
        return S2VConfig(**self.config | {"audio_inject_layers": tuple(self.config["audio_inject_layers"])})


def name_of(step: int) -> str:
    return f"step-{step:06d}"


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
    file.write_text(json.dumps({"format": FORMAT} | asdict(saved), indent=1))
    for path in (file, folder):
        descriptor = os.open(path, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)
    if final.exists():
        shutil.rmtree(final)
    folder.rename(final)


def room(folder: Path, need: int) -> str:
    """Why `need` bytes can't be written there; empty if they can."""
    free = shutil.disk_usage(folder).free
    return "" if free > need else f"{folder} has {decimal(free)} free and a checkpoint takes {decimal(need)}"


def thin_out(run: Path, keep: int) -> None:
    """Only the newest `keep` whole checkpoints stay."""
    for _, folder in all_of(run)[:-keep]:
        gone = folder.with_name(f".{folder.name}.gone")  # first, so that half of it is never seen under its name
        folder.rename(gone)
        shutil.rmtree(gone, ignore_errors=True)


# ---------------------------------------------------------------- reading


def all_of(run: Path) -> list[tuple[int, Path]]:
    """(step, folder) of everything that has a checkpoint's name, oldest first."""
    found = [(re.fullmatch(r"step-(\d+)", path.name), path) for path in run.iterdir() if path.is_dir()]
    return sorted((int(match[1]), path) for match, path in found if match)


def is_checkpoint(folder: Path | str) -> bool:
    return (Path(folder) / MANIFEST).is_file()


def read_saved(folder: Path) -> Saved:
    """The manifest of a checkpoint, all of whose files are there; CheckpointError otherwise."""
    if not (folder / MANIFEST).is_file():
        raise CheckpointError(f"{folder} holds no {MANIFEST}: it is no checkpoint of a run, or was not finished.")
    content = read_json(folder / MANIFEST)
    if content.pop("format", None) != FORMAT:
        raise CheckpointError(f"{folder / MANIFEST} is of another version: export it with the version that wrote it.")
    try:
        saved = Saved(**content)
        sizes = {name: (folder / Path(name).name).stat().st_size for name in saved.files}
    except (TypeError, AttributeError) as error:
        raise CheckpointError(f"{folder / MANIFEST} makes no sense ({error}).") from error
    except FileNotFoundError as error:
        raise CheckpointError(f"{folder} is not whole: {error.filename} is missing.") from error
    if wrong := [name for name, size in saved.files.items() if sizes[name] != size]:
        raise CheckpointError(f"{folder} is not whole: {some(wrong)} should be longer.")
    return saved


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
            where[int(name.split("-")[1])] |= dict.fromkeys(opened.keys(), opened)
        return where

    def kinds(self, name: str) -> list[str]:
        return [key.partition("/")[0] for key in self.files[0] if key.partition("/")[2] == name]

    def read(self, kind: str, name: str, first: int, last: int) -> Tensor:
        """Numbers `first` to `last` of the flattened parameter, or of one of its optimiser states."""
        size = -(-self.numel(name) // self.saved.world)
        pieces = []
        for rank in range(first // size, -(-last // size)):
            key, start = f"{kind}/{name}", rank * size
            if key not in self.files[rank]:
                raise CheckpointError(f"{self.folder} lacks {key} of rank {rank}.")
            piece = self.files[rank][key].get_slice(key)
            pieces.append(piece[max(first - start, 0) : min(last - start, size)])
        return torch.cat(pieces) if pieces else torch.empty(0)

    def numel(self, name: str) -> int:
        return torch.Size(self.saved.parameters[name]).numel()

    def weights(self, name: str) -> str:
        """The kind that holds the parameter's weights."""
        return MASTER if name in self.saved.trained else WEIGHT

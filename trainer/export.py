"""A run's checkpoint in the official layout: what `s2v generate` and others load."""

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from dataset.errors import UsageError
from model.checkpoint import NETWORK, PARTS, Checkpoint
from model.convert import write_json
from model.errors import WorkError
from model.names import to_official
from trainer.checkpoints import Parts
from trainer.job import start_from
from trainer.optimiser import AVERAGE

SHARD_BYTES = 5 << 30


def export(source: str, target: str, weights: str, progress: Callable[[str], None]) -> list[str]:
    """weights: "average", or "trained" as they are. bfloat16. VAE and encoders are linked or copied from where the run
    began; returns the parts that were not there. Nothing stands under the target's name until all of it does."""
    start, final = start_from(Path(source)), Path(target).absolute()
    if not start.of_a_run:
        raise UsageError(f"{source} is no checkpoint of a run: give RUN, or RUN/step-N.")
    if final.exists() and (not final.is_dir() or any(final.iterdir())):
        raise UsageError(f"{target} exists: give a new folder, or remove it first.")
    parts = Parts(start.weights)
    if weights == AVERAGE and not any(AVERAGE in parts.kinds(name) for name in parts.saved.trained):
        raise UsageError(f"{start.weights} has no average of its weights (optimiser.ema): --weights trained.")
    partial = final.with_name(f".{final.name}.{os.getpid()}.partial")
    try:
        partial.mkdir(parents=True)
        write_network(parts, partial, weights, progress)
        absent = copy_parts(start.parts, partial, progress)
        partial.rename(final)
    except (OSError, SafetensorError) as error:
        raise WorkError(f"{target} can't be written: {error}. Nothing of it is kept.") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return absent


def write_network(parts: Parts, folder: Path, weights: str, progress: Callable[[str], None]) -> None:
    config = parts.saved.config
    groups = list(grouped(parts))
    where: dict[str, str] = {}
    for number, names in enumerate(groups, 1):
        file = f"{NETWORK}-{number:05d}-of-{len(groups):05d}.safetensors"
        progress(file)
        tensors = {to_official(name, config): whole(parts, name, weights) for name in names}
        save_file(tensors, folder / file, metadata={"format": "pt"})
        (folder / file).chmod(folder.stat().st_mode & 0o666)
        where |= dict.fromkeys(tensors, file)
    size = 2 * sum(map(parts.numel, parts.saved.parameters))
    write_json(folder / f"{NETWORK}.safetensors.index.json", {"metadata": {"total_size": size}, "weight_map": where})
    write_json(folder / "config.json", config.to_official())


def grouped(parts: Parts) -> Iterator[list[str]]:
    """Names of parameters, about SHARD_BYTES of bfloat16 at a time."""
    names: list[str] = []
    for name in parts.saved.parameters:
        names.append(name)
        if 2 * sum(map(parts.numel, names)) >= SHARD_BYTES:
            yield names
            names = []
    if names:
        yield names


def whole(parts: Parts, name: str, weights: str) -> Tensor:
    kind = AVERAGE if weights == AVERAGE and AVERAGE in parts.kinds(name) else parts.weights(name)
    tensor = parts.read(kind, name, 0, parts.numel(name))
    return tensor.view(parts.saved.parameters[name]).to(torch.bfloat16)


def copy_parts(source: Path, target: Path, progress: Callable[[str], None]) -> list[str]:
    """Everything but the network, in the official layout; as hard links where the disk allows."""
    given, written = Checkpoint.open(source), Checkpoint(target, official=True)
    absent = [part for part in PARTS if part != "network" and (given.lacks(part) or not given.official)]
    for part in (part for part in PARTS if part != "network" and part not in absent):
        progress(PARTS[part].title.removeprefix("the "))
        place = given.path(part)
        if place.is_dir():
            shutil.copytree(place, written.path(part), copy_function=link_or_copy)
        else:
            link_or_copy(str(place), str(written.path(part)))
    return absent


def link_or_copy(source: str, target: str) -> None:
    try:
        os.link(os.path.realpath(source), target)
    except OSError:
        shutil.copy2(source, target)

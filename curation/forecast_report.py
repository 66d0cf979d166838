"""What `s2v plan curate` prints: yield, stages, cost, the filters that cost most and the reasons that drop most."""

import math

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.padding import Padding
from rich.table import Table as Grid

from curation.extrapolate import Range
from curation.forecast import Forecast

SHOWN = 8  # filters, reasons
WIDTH = 24  # characters of the longest bar
FEW = 20  # sources: fewer say little of heavy-tailed collections


def show(found: Forecast, console: Console) -> None:
    console.print(headline(found), soft_wrap=True)
    console.print()
    console.print(yield_grid(found))
    console.print(stages_grid(found))
    console.print(time_and_cost(found), soft_wrap=True)
    console.print()
    console.print(shares_grid("measuring goes to", "filter", found.filters))
    if found.reasons:
        lost = {why: clips / max(found.clips.value, 1e-9) for why, clips in ranked(found.reasons).items()}
        console.print(shares_grid("clips are lost to (share of all clips)", "first reason", lost))
    console.print(Padding(assumptions(found), (1, 0, 0, 0)), style="bright_black")


def headline(found: Forecast) -> str:
    kept = f"[bold green]{number(found.kept_hours.value)}[/] hours in {number(round(found.kept.value))} clips"
    spread = "" if found.drawn == found.count else f" ({span(found.kept_hours)} hours, nine times in ten)"
    return (
        f"{found.count:,} sources hold about [bold]{number(found.hours.value)}[/] hours of video; {kept} "
        f"would be kept{spread}."
    )


def yield_grid(found: Forecast) -> Grid:
    how = "goes by its bytes" if found.by_bytes else "goes by number: sizes can't be listed"
    title = f"{found.drawn:,} of {found.count:,} sources tried"
    if found.drawn < found.count:
        title += f"\nthe rest {how}"
    grid = Grid(title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False, min_width=40)
    grid.add_column("")
    grid.add_column("all sources", justify="right")
    grid.add_column("90 % range", justify="right")
    rows = {
        "video, hours": found.hours,
        "clips": found.clips.rounded(),
        "kept clips": found.kept.rounded(),
        "kept hours": found.kept_hours,
    }
    if found.unreadable.value:
        rows["unreadable sources"] = found.unreadable.rounded()
    for name, total in rows.items():
        grid.add_row(name, number(total.value), span(total), style="bold" if name.startswith("kept") else "")
    return grid


def stages_grid(found: Forecast) -> Grid:
    title = f"stages, with {found.machines.workers:,} workers"
    if found.held_gpus:
        title += f" and {found.held_gpus:g} GPUs"
    grid = Grid(title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    grid.add_column("")
    for name in ("core-hours", "90 % range", "GPU-hours", "time", "read MB/s"):
        grid.add_column(name, justify="right")
    grid.add_column("")
    longest = found.bottleneck.wall or 1.0
    for stage in found.stages:
        rate = stage.read / stage.wall / 1e6 if stage.read is not None and stage.wall else None
        grid.add_row(
            stage.name,
            number(stage.core_hours),
            span(stage.seconds.times(stage.cpus / 3600)),
            number(stage.gpu_hours) if stage.gpus else "-",
            duration(stage.wall),
            "-" if rate is None else number(rate),
            bar(stage.wall / longest, "magenta" if stage is found.bottleneck else "cyan"),
        )
    return grid


def time_and_cost(found: Forecast) -> str:
    worst = found.bottleneck
    share = worst.wall / found.wall if found.wall else 0.0
    text = f"[bold]{duration(found.wall)}[/] in all; {share:.0%} of it is [magenta]{worst.name}[/]"
    if worst.workers < found.machines.workers:
        text += f", which the GPUs hold to {worst.workers} workers"
    prices = f"{found.machines.core_price:g} a core-hour"
    if found.held_gpus:
        prices += f" and {found.machines.gpu_price:g} a GPU-hour"
    return (
        f"{text}. At {prices}, the work costs [bold]{money(found.cost_of_work)}[/], and "
        f"[bold]{money(found.cost_when_held)}[/] when everything is held from start to end."
    )


def ranked(amounts: dict[str, float]) -> dict[str, float]:
    return dict(sorted(amounts.items(), key=lambda entry: -entry[1]))


def shares_grid(title: str, what: str, shares: dict[str, float]) -> Grid:
    grid = Grid(title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    grid.add_column(what, min_width=24)
    grid.add_column("share", justify="right")
    grid.add_column("")
    longest = max(shares.values(), default=0.0) or 1.0
    for name, share in list(shares.items())[:SHOWN]:
        grid.add_row(escape(name), f"{share:.1%}", bar(share / longest, "cyan"))
    return grid


def assumptions(found: Forecast) -> str:
    told = (
        "Measured here, on one source a task; times are those of machines like this one whose workers are all busy to "
        "the end. Ranges say what the draw leaves open, not other machines. Left out: loading networks, Ray, captions "
        "(`s2v caption serve --print`), and what the store charges for requests and traffic."
    )
    if found.remote:
        told += (
            " Sources from elsewhere are copied whole by ingest. Later, small ones are copied for each measuring pass "
            "and each kept clip; of large ones in a store, only the clips are read."
        )
    if found.drawn < min(FEW, found.count):
        told += f" {found.drawn} sources are few: the ranges may be too narrow. Try --sample 50."
    return told


# ---------------------------------------------------------------- numbers


def number(amount: float) -> str:
    """Three digits that count."""
    if not math.isfinite(amount):
        return "?"
    if amount < 100:
        return f"{amount:.3g}"
    return f"{round(amount, 2 - math.floor(math.log10(amount))):,.0f}"


def span(total: Range) -> str:
    return "exact" if total.low == total.high else f"{number(total.low)} to {number(total.high)}"


def money(amount: float) -> str:
    return f"{amount:,.0f}" if amount >= 10 else f"{amount:.2f}"


def duration(seconds: float) -> str:
    hours = seconds / 3600
    if hours >= 48:
        return f"{hours / 24:.1f} days"
    if hours >= 1:
        return f"{hours:.1f} h"
    return f"{seconds / 60:.0f} min" if seconds >= 60 else f"{seconds:.1f} s"


def bar(share: float, colour: str) -> str:
    return f"[{colour}]{'█' * max(1, round(WIDTH * share))}[/]"

"""RUN/gap.svg: the losses and the audio-shuffle gap over the steps, for whoever would rather look than read."""

import math
from collections.abc import Sequence
from html import escape
from pathlib import Path

from trainer.run_files import read_rows
from trainer.validation import FULL, SHUFFLED

WIDTH, HEIGHT, LEFT, TOP, GAP = 720, 220, 70, 40, 60  # of one of the two plots; between them
COLOURS = ("#1f6feb", "#d1242f", "#8250df")
Line = tuple[str, Sequence[float], Sequence[float]]  # name, values, their errors


def write_gap_plot(run: Path) -> Path | None:
    """From RUN/validation.jsonl; None where there is nothing to show."""
    file = run / "validation.jsonl"
    rows = list(read_rows(file)) if file.exists() else []
    rows = [row for row in rows if row["gap"] is not None and None not in row["loss"].values()]
    if not rows:
        return None
    steps = [row["step"] for row in rows]
    no_error = [0.0] * len(rows)
    losses: list[Line] = [(c, [row["loss"][c] for row in rows], no_error) for c in (FULL, SHUFFLED, "no-audio")]
    gap: Line = ("shuffled-audio - full", [row["gap"] for row in rows], [row["gap_error"] or 0.0 for row in rows])
    plots = [plot("Loss on held-out clips", steps, losses), plot("Audio-shuffle gap", steps, [gap], zero=True)]
    tall = HEIGHT + GAP
    body = "".join(f'<g transform="translate({LEFT},{TOP + i * tall})">{p}</g>' for i, p in enumerate(plots))
    size = WIDTH + LEFT + 30, TOP + 2 * tall
    path = run / "gap.svg"
    path.write_text(
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {size[0]} {size[1]}" width="{size[0]}" '
        f'height="{size[1]}" font-family="sans-serif" font-size="12" fill="none">'
        f'<rect width="100%" height="100%" fill="white"/>{body}</svg>\n',
        encoding="utf-8",
    )
    return path


def plot(title: str, steps: Sequence[int], lines: Sequence[Line], *, zero: bool = False) -> str:
    ends = [
        v + side * e for _, values, errors in lines for v, e in zip(values, errors, strict=True) for side in (-1, 1)
    ]
    low, high = min(ends + [0.0] * zero), max(ends + [0.0] * zero)
    room = 0.05 * (high - low) or 0.5 * abs(high) or 1.0
    low, high = low - room, high + room
    first, last = steps[0], max(steps[-1], steps[0] + 1)

    def x(step: float) -> str:
        return f"{(step - first) / (last - first) * WIDTH:.1f}"

    def y(value: float) -> str:
        return f"{(high - value) / (high - low) * HEIGHT:.1f}"

    parts = [text(0, -14, title, bold=True)]
    for value in ticks(low, high):
        parts.append(f'<path d="M0,{y(value)}H{WIDTH}" stroke="#d0d7de"/>')
        parts.append(text(-8, f"{float(y(value)) + 4:.1f}", f"{value:.4g}", "end"))
    if zero:
        parts.append(f'<path d="M0,{y(0)}H{WIDTH}" stroke="#57606a"/>')
    for step in sorted({first, (first + last) // 2, last}):
        parts.append(text(x(step), HEIGHT + 18, f"{step:,}", "middle"))
    for number, ((name, values, errors), colour) in enumerate(zip(lines, COLOURS, strict=False)):
        for step, value, error in zip(steps, values, errors, strict=True):
            parts.append(f'<path d="M{x(step)},{y(value - error)}V{y(value + error)}" stroke="{colour}"/>')
            parts.append(f'<circle cx="{x(step)}" cy="{y(value)}" r="2.5" fill="{colour}"/>')
        places = " ".join(f"{x(s)},{y(v)}" for s, v in zip(steps, values, strict=True))
        parts.append(f'<polyline points="{places}" stroke="{colour}" stroke-width="1.5"/>')
        parts.append(text(200 + 150 * number, -14, f"— {name}", colour=colour))
    return "".join(parts)


def ticks(low: float, high: float) -> list[float]:
    """Two to five round numbers between them."""
    power = 10.0 ** math.floor(math.log10((high - low) / 4))
    unit = next(n * power for n in (1, 2, 5, 10) if n * power >= (high - low) / 4)
    return [unit * i for i in range(math.ceil(low / unit), math.floor(high / unit) + 1)]


def text(
    x: object, y: object, words: str, anchor: str = "start", *, bold: bool = False, colour: str = "#24292f"
) -> str:
    weight = ' font-weight="bold"' if bold else ""
    return f'<text x="{x}" y="{y}" text-anchor="{anchor}" fill="{colour}"{weight}>{escape(words)}</text>'

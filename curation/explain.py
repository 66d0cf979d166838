"""`s2v explain`: one clip's score card."""

from collections.abc import Iterator
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table as Grid

from curation.layout import CAPTIONS, FAILURES, SCORES, VERDICTS
from curation.policy import Policy, Rule
from curation.stored import find_clip, row_of, settings
from filters import weights
from filters.base import Filter


def explain(dataset: str, name: str, console: Console) -> None:
    """Print a clip's score card: every score, its unit, threshold, margin, and what measured it."""
    recipe, policy = settings(dataset)
    clip = find_clip(dataset, name)
    row = row_of(dataset, SCORES, clip)
    media = clip.media
    where = escape(f"{clip.source}  {clip.start:.2f}-{clip.end:.2f} s")
    console.print(f"[bold]{clip.clip_id}[/]  {where}", soft_wrap=True)
    console.print(
        f"{media.width}x{media.height}, {media.fps:.2f} fps, {media.video_codec}, audio {media.audio_codec or 'none'}"
    )
    if clip.caption:
        console.print("source caption:", clip.caption, markup=False, soft_wrap=True)
    if row is None:
        failure = row_of(dataset, FAILURES, clip)
        why = f"it failed: {failure['error']}. {failure['remedy']}" if failure else "run `s2v curate` to go on"
        console.print(f"Not measured: {why}", markup=False)
        return
    chain = recipe.build()
    console.print(score_card(chain, policy, row, wide=console.width >= 130))
    verdict = row_of(dataset, VERDICTS, clip)
    reasons = verdict["reasons"] if verdict else []
    if verdict and verdict["keep"]:
        console.print("[bold green]kept[/]")
    for reason in reasons:
        console.print(f"[bold red]dropped[/] {in_words(reason)}")
    print_caption(row_of(dataset, CAPTIONS, clip), console)


def print_caption(row: dict[str, Any] | None, console: Console) -> None:
    """The dense caption, what made it, and what the lint objects to."""
    if row is None:
        return
    by = f"{row['model']}, prompt {row['prompt'][:8]}, {row['frames']} pictures of {row['width']}x{row['height']}"
    console.print(f"\n[bold]caption[/]  {escape(by)}", soft_wrap=True)
    console.print(row["long"], markup=False, soft_wrap=True)
    for flag in row["flags"]:
        console.print(f"[yellow]{escape(flag['kind'])}[/] {escape(flag['found'])} ({escape(flag['field'])})")


def score_card(chain: list[Filter], policy: Policy, row: dict[str, Any], *, wide: bool) -> Grid:
    """A section a filter. wide: with the source of every threshold."""
    versions, ms, looked = dict(row["versions"]), dict(row["ms"]), dict(row.get("looked") or [])
    grid = Grid()
    for name in ("score", "value", "unit", "threshold", "margin", *(["threshold from"] if wide else [])):
        right = name in ("value", "threshold", "margin")
        grid.add_column(name, justify="right" if right else "left", no_wrap=right, overflow="fold")
    for f in chain:
        name, measured = f.name(), row.get(f.name())
        by = f"v{f.version} {versions.get(name, '')[:8]}, {ms.get(name, 0):.0f} ms"
        grid.add_row(f"[bold]{name}[/]", "", by if measured is not None else "not measured: the chain ended before")
        if measured is not None:
            for about in origins(f, looked.get(name)):
                grid.add_row("", "", f"[dim]{escape(about)}[/]")
        for field, value in (measured or {}).items():
            rules = [rule for rule in policy.rules if rule.score == f"{name}.{field}"]
            for cells in card_lines(f, field, value, rules):
                grid.add_row(*cells[: len(grid.columns)])
        grid.add_section()
    return grid


def origins(f: Filter, looked: dict[str, Any] | None) -> Iterator[str]:
    """What a filter looked at, where it said so, and the weights that it used."""
    if looked:
        size, span = "{width}x{height}".format(**looked), "{first:.2f}-{last:.2f} s".format(**looked)
        yield f"{looked['frames']} frames of {size}, {span}"
    for name in f.chosen_weights():
        try:
            yield f"{name} {weights.digest(name)[:16]}"
        except weights.MissingWeights:
            yield f"{name} (not on this machine)"


def card_lines(f: Filter, field: str, value: float | None, rules: list[Rule]) -> Iterator[tuple[str, ...]]:
    """One line for a score, and one more for every further rule on it."""
    info = f.Scores.model_fields[field].json_schema_extra
    unit = str(info.get("unit", "")) if isinstance(info, dict) else ""
    score = f"  {field}", "-" if value is None else f"{value:.4g}", unit
    if not rules:
        yield *score, "", "", ""
    for rule in rules:
        yield *score, *bound(rule, value)
        score = "", "", ""


def bound(rule: Rule, value: float | None) -> tuple[str, str, str]:
    """Threshold, margin (negative: broken) and source of a rule."""
    threshold = f"{'>=' if rule.min is not None else '<='} {rule.threshold:g}"
    if value is None:
        return threshold, "n/a", escape(rule.source)
    inside = value - rule.threshold if rule.min is not None else rule.threshold - value
    return threshold, f"[{'green' if inside >= 0 else 'red'}]{inside:+.4g}[/]", escape(rule.source)


def in_words(reason: dict[str, Any]) -> str:
    if reason["threshold"] is None:
        return f"{reason['filter']} is not measured yet: run `s2v curate` again"
    return (
        f"{reason['score']} is {reason['value']:.4g}, {reason['margin']:.4g} past the threshold {reason['threshold']:g}"
    )

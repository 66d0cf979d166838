"""`s2v explain`: one clip's score card."""

from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table as Grid

from curation.layout import FAILURES, SCORES, VERDICTS
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
        console.print("caption:", clip.caption, markup=False, soft_wrap=True)
    if row is None:
        failure = row_of(dataset, FAILURES, clip)
        why = f"it failed: {failure['error']}. {failure['remedy']}" if failure else "run `s2v curate` to go on"
        console.print(f"Not measured: {why}", markup=False)
        return
    chain = recipe.build()
    console.print(score_card(chain, policy, row))
    for name in sorted({name for f in chain if row.get(f.name()) is not None for name in f.weights}):
        console.print(f"weights {name}  sha256 {weights.digest(name)[:16]}", soft_wrap=True)
    verdict = row_of(dataset, VERDICTS, clip)
    reasons = verdict["reasons"] if verdict else []
    if verdict and verdict["keep"]:
        console.print("[bold green]kept[/]")
    for reason in reasons:
        console.print(f"[bold red]dropped[/] {in_words(reason)}")


def score_card(chain: list[Filter], policy: Policy, row: dict[str, Any]) -> Grid:
    versions, ms = dict(row["versions"]), dict(row["ms"])
    rules = {rule.score: rule for rule in policy.rules}
    grid = Grid()
    for name in ("score", "value", "unit", "threshold", "margin", "from", "measured by"):
        grid.add_column(name, justify="right" if name in ("value", "threshold", "margin") else "left", overflow="fold")
    for f in chain:
        measured = row.get(f.name())
        by = f"{f.name()} v{f.version} {versions.get(f.name(), '')[:8]} {ms.get(f.name(), 0):.0f} ms"
        if measured is None:
            grid.add_row(f.name(), "-", "not measured: the chain stopped before", "", "", "", "")
            continue
        for i, (field, value) in enumerate(measured.items()):
            grid.add_row(*card_line(f, field, value, rules.get(f"{f.name()}.{field}")), by if i == 0 else "")
        grid.add_section()
    return grid


def card_line(f: Filter, field: str, value: float | None, rule: Rule | None) -> tuple[str, ...]:
    info = f.Scores.model_fields[field].json_schema_extra
    unit = str(info.get("unit", "")) if isinstance(info, dict) else ""
    shown = "-" if value is None else f"{value:.4g}"
    if rule is None:
        return f"{f.name()}.{field}", shown, unit, "", "", ""
    bound = f"{'>=' if rule.min is not None else '<='} {rule.threshold:g}"
    if value is None:
        return rule.score, shown, unit, bound, "does not apply", rule.source
    inside = value - rule.threshold if rule.min is not None else rule.threshold - value
    colour = "green" if inside >= 0 else "red"
    return rule.score, shown, unit, bound, f"[{colour}]{inside:+.4g}[/]", rule.source


def in_words(reason: dict[str, Any]) -> str:
    if reason["threshold"] is None:
        return f"{reason['filter']} is not measured yet: run `s2v curate` again"
    return (
        f"{reason['score']} is {reason['value']:.4g}, {reason['margin']:.4g} past the threshold {reason['threshold']:g}"
    )

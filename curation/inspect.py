"""Look into a dataset from the terminal: the funnel, one clip's score card, one clip's pose video."""

import io
import re
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import fsspec
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import yaml
from rich.console import Console
from rich.markup import escape
from rich.table import Table as Grid

from curation.config import Model, RunError, UsageError, parse
from curation.layout import CLIPS, FAILURES, SCORES, TRACKS, VERDICTS, clips_of, read, table
from curation.pack import SHARDS
from curation.policy import Policy, Rule
from curation.recipe import Recipe
from dataset.draw import draw_pose
from dataset.records import Clip
from dataset.tables import write_atomically
from dataset.tracks import Tracks
from filters.base import Filter


class NotADataset(UsageError):
    """There is nothing at this place that `s2v curate` wrote."""


def settings(dataset: str) -> tuple[Recipe, Policy]:
    """The recipe and policy that lie in a dataset."""
    return stored(dataset, "recipe.yaml", Recipe), stored(dataset, "policy.yaml", Policy)


def stored(dataset: str, name: str, model: type[Model]) -> Model:
    try:
        with fsspec.open(f"{dataset}/{name}", "rt", encoding="utf-8") as f:
            return parse(model, yaml.safe_load(f), f"{dataset}/{name}")
    except (FileNotFoundError, NotADirectoryError):
        raise NotADataset(f"{dataset} is not a dataset: it has no {name}. Make one with `s2v curate`.") from None


# ---------------------------------------------------------------- status


def status(dataset: str, console: Console) -> None:
    """Print the funnel, what reading cost, and the failures."""
    _, policy = settings(dataset)
    clips = read(dataset, CLIPS, ["clip_id", "source", "start", "end"])
    seconds = pc.subtract(clips["end"], clips["start"])
    verdicts = read(dataset, VERDICTS, ["clip_id", "keep", "reasons", "policy"])
    joined = verdicts.select(["clip_id", "keep"]).append_column("why", first_filter(verdicts))
    rows = pa.table({"clip_id": clips["clip_id"], "seconds": seconds}).join(joined, "clip_id", join_type="inner")
    grid = Grid(title=f"{dataset}   policy {policy.name}", title_justify="left")
    grid.add_column("")
    for name in ("clips", "hours", "share"):
        grid.add_column(name, justify="right")
    total = max(1, clips.num_rows)

    def line(name: str, count: int, time: float, style: str = "") -> None:
        grid.add_row(name, f"{count:,}", f"{time / 3600:,.2f}", f"{100 * count / total:.1f} %", style=style)

    line("cut from sources", clips.num_rows, pc.sum(seconds).as_py() or 0.0)
    dropped = rows.filter(pc.invert(rows["keep"])).group_by("why").aggregate([("seconds", "sum"), ("seconds", "count")])
    order = {rule.filter: i for i, rule in enumerate(policy.rules)}
    for row in sorted(dropped.to_pylist(), key=lambda r: order.get(r["why"], len(order))):
        line(f"  dropped by {row['why']}", row["seconds_count"], row["seconds_sum"])
    unjudged = clips.num_rows - rows.num_rows
    if unjudged:
        line("  not measured", unjudged, (pc.sum(seconds).as_py() or 0.0) - (pc.sum(rows["seconds"]).as_py() or 0.0))
    kept = rows.filter(rows["keep"])
    line("kept", kept.num_rows, pc.sum(kept["seconds"]).as_py() or 0.0, "bold green")
    line("packed", *packed(dataset), "green")
    console.print(grid)
    print_cost(dataset, console)
    print_failures(dataset, console)


def first_filter(verdicts: pa.Table) -> pa.ChunkedArray | pa.Array:
    """The filter of each verdict's first reason; null for kept clips."""
    reasons = verdicts["reasons"].combine_chunks()
    padded = pc.if_else(pc.greater(pc.list_value_length(reasons), 0), reasons, None)
    first = pc.list_slice(padded, 0, 1, return_fixed_size_list=False)
    flat = pc.list_flatten(first)
    names = pc.struct_field(flat, "filter")
    where = pc.list_parent_indices(first)
    return names.take(pc.index_in(pa.array(range(len(reasons)), pa.int64()), value_set=where.cast(pa.int64())))


def packed(dataset: str) -> tuple[int, float]:
    try:
        with fsspec.open(f"{dataset}/{SHARDS}/index.parquet", "rb") as f:
            index = pq.read_table(f, columns=["seconds"])
    except FileNotFoundError:
        return 0, 0.0
    return index.num_rows, pc.sum(index["seconds"]).as_py() or 0.0


def print_cost(dataset: str, console: Console) -> None:
    cost = read(dataset, SCORES, ["frames", "decoded", "opens"])
    if not cost.num_columns:
        return
    decoded = cost.filter(pc.greater(cost["decoded"], 0))
    frames, out = (pc.sum(decoded[name]).as_py() or 0 for name in ("frames", "decoded"))
    if frames:
        console.print(
            f"Measuring decoded {out:,} frames for {frames:,} frames of {decoded.num_rows:,} clips: "
            f"{out / frames:.3f} a frame; {pc.sum(cost['opens']).as_py():,} files opened.",
            soft_wrap=True,
        )


def print_failures(dataset: str, console: Console) -> None:
    failures = read(dataset, FAILURES)
    if not failures.num_rows:
        return
    groups: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    for row in failures.to_pylist():  # the same error with other numbers or names is one line
        kind = re.sub(r"\d+(\.\d+)?|/\S+", "", row["error"])
        groups.setdefault((row["stage"], kind, row["remedy"]), []).append(row)
    grid = Grid(title=f"{failures.num_rows:,} failures", title_justify="left")
    for name in ("", "stage", "error", "what to do", "for example"):
        grid.add_column(name, overflow="fold")
    for rows in sorted(groups.values(), key=len, reverse=True)[:20]:
        first = rows[0]
        name = first["source"].rsplit("/", 1)[-1]
        grid.add_row(*map(escape, (f"{len(rows):,}", first["stage"], first["error"], first["remedy"], name)))
    console.print(grid)


# ---------------------------------------------------------------- one clip


def find_clip(dataset: str, name: str) -> Clip:
    """A clip by its id, the beginning of its id, or a part of its source's name."""
    clips = read(dataset, CLIPS)
    by_id = clips.filter(pc.starts_with(clips["clip_id"], name))
    hits = clips_of(by_id if by_id.num_rows else clips.filter(pc.match_substring(clips["source"], name)))
    if not hits:
        raise UsageError(f"No clip of {dataset} has an id or a source with '{name}'.")
    if len(hits) > 1:
        shown = "\n".join(f"  {c.clip_id}  {c.source}  {c.start:.2f}-{c.end:.2f} s" for c in hits[:10])
        raise UsageError(f"{len(hits)} clips match '{name}'; give one id:\n{shown}")
    return hits[0]


def row_of(dataset: str, name: str, clip: Clip) -> dict[str, Any] | None:
    rows = table(dataset, name)
    for part in rows.parts():
        found = rows.read_part(part)
        hit = found.filter(pc.equal(found["clip_id"], clip.clip_id))
        if hit.num_rows:
            return hit.to_pylist()[0]
    return None


def explain(dataset: str, name: str, console: Console) -> None:
    """Print a clip's score card: every score, its unit, threshold, margin, and what measured it."""
    recipe, policy = settings(dataset)
    clip = find_clip(dataset, name)
    row = row_of(dataset, SCORES, clip)
    media = clip.media
    console.print(f"[bold]{clip.clip_id}[/]  {clip.source}  {clip.start:.2f}-{clip.end:.2f} s", soft_wrap=True)
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
    console.print(score_card(recipe.build(), policy, row))
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


# ---------------------------------------------------------------- pose video


def render_pose(dataset: str, name: str, out: str, fps: float = 25.0) -> int:
    """Write the DWPose control video of a clip; returns its number of frames."""
    clip = find_clip(dataset, name)
    row = row_of(dataset, TRACKS, clip)
    if row is None:
        raise RunError(f"Clip {clip.clip_id} has no tracks: its chain stopped before `pose`, or it was not measured.")
    tracks = Tracks.from_row(row)
    height, width = clip.media.height // 2 * 2, clip.media.width // 2 * 2
    count = max(1, round(clip.seconds * fps))
    data = io.BytesIO()
    with av.open(data, "w", format="mp4") as target:
        video = target.add_stream("libx264", rate=Fraction(fps).limit_denominator(1001))
        video.width, video.height, video.pix_fmt = width, height, "yuv420p"
        for i in range(count):
            frame = av.VideoFrame.from_ndarray(draw_pose(tracks, i / fps, height, width), "rgb24")
            target.mux(video.encode(frame))
        target.mux(video.encode(None))
    folder, file = str(Path(out).parent), Path(out).name
    write_atomically(folder, file, data.getvalue())
    return count

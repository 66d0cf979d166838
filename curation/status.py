"""`s2v status`: the funnel in clips and hours, what reading cost, and the failures."""

import re
from itertools import pairwise
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from rich.console import Console
from rich.markup import escape
from rich.table import Table as Grid

from curation.layout import CAPTIONS, CLIPS, FAILURES, SCORES, SHARDS, VERDICTS, read, table
from curation.policy import Policy
from curation.select import judge
from curation.stored import settings
from dataset.tables import in_threads


def status(dataset: str, console: Console) -> None:
    """Print the funnel, what reading cost, and the failures."""
    print_funnel(dataset, console)
    print_cost(dataset, console)
    print_failures(dataset, console)


def print_funnel(dataset: str, console: Console) -> None:
    """What became of the clips so far, also while they are measured."""
    _, policy = settings(dataset)
    clips = read(dataset, CLIPS, ["clip_id", "start", "end"])
    seconds = pc.subtract(clips["end"], clips["start"])
    verdicts = verdicts_so_far(dataset, policy)
    joined = verdicts.select(["clip_id", "keep"]).append_column("why", first_filter(verdicts))
    rows = pa.table({"clip_id": clips["clip_id"], "seconds": seconds}).join(joined, "clip_id", join_type="inner")
    grid = Grid(title=escape(f"{dataset}   policy {policy.name}"), title_justify="left")
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
    captioned = kept.join(read(dataset, CAPTIONS, ["clip_id"]), "clip_id", join_type="inner")
    if captioned.num_rows:
        line("captioned", captioned.num_rows, pc.sum(captioned["seconds"]).as_py(), "green")
    line("packed", *packed(dataset), "green")
    console.print(grid)


def verdicts_so_far(dataset: str, policy: Policy) -> pa.Table:
    """Those that are written, and for parts of `scores/` that the run has yet to judge, those that it will write."""
    scores = table(dataset, SCORES)
    waiting = sorted(set(scores.parts()) - set(table(dataset, VERDICTS).parts()))

    def judged(name: str) -> pa.Table:
        rows = scores.read_part(name)
        filters = [column.name for column in rows.schema if pa.types.is_struct(column.type)]
        return judge(rows, policy, filters)

    found = [read(dataset, VERDICTS), *in_threads(judged, waiting)]
    return pa.concat_tables(found, promote_options="permissive").combine_chunks()


def first_filter(verdicts: pa.Table) -> pa.Array:
    """The filter of each verdict's first reason; null for kept clips."""
    reasons = verdicts["reasons"].combine_chunks()
    names, ends = reasons.values.field("filter").to_pylist(), reasons.offsets.to_pylist()
    return pa.array([names[a] if a < b else None for a, b in pairwise(ends)], pa.string())


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

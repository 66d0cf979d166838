"""Which thumbnails go into the page: those that help to set thresholds, within a fixed number of bytes."""

import base64
from collections.abc import Iterator, Sequence
from itertools import zip_longest

import numpy as np
import pyarrow as pa

from curation import layout
from curation.policy import Rule
from curation.report.rows import KEPT, Rows, column, judge
from curation.report.settings import Settings
from dataset.tables import Table

MOST = 500
MOST_BYTES = 5_500_000
NEAREST = 20  # candidates on either side of every threshold
SPREAD = 12  # candidates over the whole range of every score, on either side
KEPT_SPREAD = 120
JPEG = b"\xff\xd8\xff"


def embed(dataset: str, rows: Rows, settings: Settings) -> dict[int, str]:
    """Row -> JPEG as base64."""
    tables = [layout.table(dataset, name) for name in (layout.POSTERS, layout.THUMBS)]  # the better picture last
    stored = np.concatenate([np.asarray(table.keys().to_pylist(), dtype=str) for table in tables])
    have = np.isin(np.asarray(column(rows.clips, "clip_id"), dtype=object).astype(str), stored)
    chosen = choose(rows, settings.rules(rows.order), have)[:MOST]
    wanted = set(column(rows.clips, "clip_id").take(pa.array(chosen, pa.int64())).to_pylist())
    found = {clip: jpeg for table in tables for clip, jpeg in read(table, wanted).items()}
    kept, size = {}, 0
    for row in chosen:
        jpeg = found.get(rows.clips["clip_id"][row].as_py(), b"")
        size += len(jpeg)
        if jpeg.startswith(JPEG) and size <= MOST_BYTES:
            kept[row] = base64.b64encode(jpeg).decode()
    return kept


def read(table: Table, wanted: set[str]) -> dict[str, bytes]:
    """The wanted pictures, one part at a time: all of them together may not fit into memory."""
    rows = (row for name in table.parts() for row in table.read_rows(name, wanted))
    return {row["clip_id"]: row["jpeg"] for row in rows if row["jpeg"]}


# ---------------------------------------------------------------- choosing


def choose(rows: Rows, rules: Sequence[Rule], have: np.ndarray) -> list[int]:
    """Rows in the order of their use: kept ones, the nearest to every threshold, then a spread over all."""
    first, broken = judge(rows, rules)
    queues = [spread(np.flatnonzero((first == KEPT) & have), KEPT_SPREAD)]
    sides: list[np.ndarray] = []
    for rule in rules:
        if rule.score in rows.scores:
            sides += around(rule, rows.scores[rule.score], broken, have)
    turns = [row for turn in zip_longest(*sides) for row in turn if row is not None]
    every = spread(np.flatnonzero(have), MOST)
    return list(dict.fromkeys(int(row) for row in (*queues[0], *turns, *every)))


def around(rule: Rule, values: np.ndarray, broken: np.ndarray, have: np.ndarray) -> Iterator[np.ndarray]:
    """Clips on either side of a threshold for which it alone decides: the nearest, and a spread over the rest."""
    distance = np.abs(values - rule.threshold)
    fails = rule.breaks(values)
    alone = have & ~np.isnan(values) & (broken - fails == 0)
    for side in (alone & fails, alone & ~fails):
        at = np.flatnonzero(side)
        near = at[np.argsort(distance[at], kind="stable")]
        yield np.concatenate([near[:NEAREST], spread(near[NEAREST:], SPREAD)])


def spread(at: np.ndarray, n: int) -> np.ndarray:
    """`n` elements at even distances."""
    return at if len(at) <= n else at[np.linspace(0, len(at) - 1, n).round().astype(int)]

"""Which thumbnails go into the page: those that help to set thresholds, within a fixed number of bytes."""

import base64
from collections.abc import Iterator, Sequence
from itertools import zip_longest

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from curation import layout
from curation.policy import Rule
from curation.report.rows import KEPT, Rows, breaks, column, judge
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
    table = layout.table(dataset, layout.THUMBS)
    have = np.isin(np.asarray(column(rows.clips, "clip_id"), dtype=object).astype(str), thumb_ids(table))
    chosen = choose(rows, settings.rules(rows.order), have)[:MOST]
    found = read(table, column(rows.clips, "clip_id").take(pa.array(chosen, pa.int64())))
    kept, size = {}, 0
    for row in chosen:
        jpeg = found.get(rows.clips["clip_id"][row].as_py(), b"")
        size += len(jpeg)
        if jpeg.startswith(JPEG) and size <= MOST_BYTES:
            kept[row] = base64.b64encode(jpeg).decode()
    return kept


def thumb_ids(table: Table) -> np.ndarray:
    return np.asarray(table.keys().to_pylist(), dtype=str)


def read(table: Table, wanted: pa.Array) -> dict[str, bytes]:
    """The wanted pictures, one part at a time: all of them together may not fit into memory."""
    found: dict[str, bytes] = {}
    for name in table.parts() if len(wanted) else []:
        part = table.read_part(name)
        part = part.filter(pc.is_in(part["clip_id"], value_set=wanted))
        found.update(zip(part["clip_id"].to_pylist(), part["jpeg"].to_pylist(), strict=True))
    return {clip: jpeg for clip, jpeg in found.items() if jpeg}


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
    fails = breaks(rule, values)
    alone = have & ~np.isnan(values) & (broken - fails == 0)
    for side in (alone & fails, alone & ~fails):
        at = np.flatnonzero(side)
        near = at[np.argsort(distance[at], kind="stable")]
        yield np.concatenate([near[:NEAREST], spread(near[NEAREST:], SPREAD)])


def spread(at: np.ndarray, n: int) -> np.ndarray:
    """`n` elements at even distances."""
    return at if len(at) <= n else at[np.linspace(0, len(at) - 1, n).round().astype(int)]

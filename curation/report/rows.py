"""The tables of a dataset as arrays that line up: element i of each belongs to the same clip."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from curation import layout
from curation.policy import Rule

MEASURED, FAILED, PENDING = 0, 1, 2  # state of a clip
KEPT, UNDECIDED, UNJUDGED = -1, -2, -3  # outcomes that are not the index of a broken rule
BESIDES = {
    "clip_id",
    "stopped",
    "versions",
    "ms",
    "looked",
    "frames",
    "decoded",
    "opens",
}  # columns of `scores` of no filter
LARGEST = 3e38  # stands for infinity: fits into float32


@dataclass
class Rows:
    """Clips in the order of their source and start, with all that is known of each."""

    clips: pa.Table
    seconds: np.ndarray
    state: np.ndarray  # uint8: MEASURED, FAILED or PENDING
    order: list[str]  # filters in chain order
    measured: dict[str, np.ndarray]  # filter -> bool
    scores: dict[str, np.ndarray]  # "filter.score" -> float64, NaN where there is no value
    ms: dict[str, np.ndarray]  # filter -> milliseconds, NaN where it didn't run
    counts: dict[str, int]  # sums of frames, decoded, opens
    verdicts: "Verdicts"
    failures: pa.Table
    packed: np.ndarray  # seconds of each clip in the shards
    captions: pa.Table  # the dense captions: long, flags
    missing: list[str] = field(default_factory=list)  # tables without rows

    def __len__(self) -> int:
        return len(self.clips)


@dataclass
class Verdicts:
    """What was stored when the dataset was judged."""

    judged: np.ndarray  # bool
    keep: np.ndarray  # bool
    first: list[str | None]  # filter of the first reason in chain order, or "filter.unmeasured"
    policies: list[str]  # digests


def read_rows(dataset: str, chain: Sequence[str]) -> Rows:
    """Read every table that is there; those that are missing give empty arrays and are named in `missing`."""
    names = (layout.CLIPS, layout.SCORES, layout.VERDICTS, layout.FAILURES)
    tables = [layout.table(dataset, name).read() for name in names]
    clips, scores, verdicts, failures = tables
    missing = [name for name, table in zip(names, tables, strict=True) if not len(table)]
    clips = sort_clips(clips)
    scores = align(clips, scores)
    order = chain_order(chain, scores)
    return Rows(
        clips=clips,
        seconds=numbers(clips, "end") - numbers(clips, "start"),
        state=states(clips, scores, failures),
        order=order,
        measured={name: present(scores, name) for name in order},
        scores=read_scores(scores, order),
        ms=read_ms(scores, order),
        counts={name: int(np.nansum(numbers(scores, name))) for name in ("frames", "decoded", "opens")},
        verdicts=read_verdicts(align(clips, verdicts), order),
        failures=failures,
        packed=read_packed(dataset),
        captions=align(clips, layout.read(dataset, layout.CAPTIONS, ["clip_id", "long", "flags"])),
        missing=missing,
    )


# ---------------------------------------------------------------- columns


def column(table: pa.Table, name: str) -> pa.Array:
    """A column as one array; nulls where the table lacks it."""
    if name not in table.column_names:
        return pa.nulls(len(table))
    return table[name].combine_chunks()


def numbers(table: pa.Table, name: str) -> np.ndarray:
    """A column as float64, NaN for null."""
    return as_floats(column(table, name))


def as_floats(array: pa.Array) -> np.ndarray:
    values = array.cast(pa.float64()).to_numpy(zero_copy_only=False).astype(np.float64)
    return np.nan_to_num(values, nan=np.nan, posinf=LARGEST, neginf=-LARGEST)


def present(table: pa.Table, name: str) -> np.ndarray:
    """Where a column isn't null."""
    return column(table, name).is_valid().to_numpy(zero_copy_only=False)


def sort_clips(clips: pa.Table) -> pa.Table:
    if not len(clips):
        empty = {"clip_id": pa.string(), "source": pa.string(), "start": pa.float64(), "end": pa.float64()}
        return pa.table({name: pa.array([], kind) for name, kind in empty.items()})
    return clips.sort_by([("source", "ascending"), ("start", "ascending")]).combine_chunks()


def align(clips: pa.Table, other: pa.Table) -> pa.Table:
    """The rows of `other` in the order of `clips`, null where it has none."""
    if not len(other):
        return pa.table({"clip_id": pa.nulls(len(clips), pa.string())})
    return other.take(pc.index_in(clips["clip_id"], value_set=column(other, "clip_id"))).combine_chunks()


# ---------------------------------------------------------------- tables


def states(clips: pa.Table, scores: pa.Table, failures: pa.Table) -> np.ndarray:
    failed = pc.is_in(column(clips, "clip_id"), value_set=column(failures, "clip_id").cast(pa.string()))
    state = np.where(failed.to_numpy(zero_copy_only=False), FAILED, PENDING)
    return np.where(present(scores, "clip_id"), MEASURED, state).astype(np.uint8)


def chain_order(chain: Sequence[str], scores: pa.Table) -> list[str]:
    """The recipe's filters, then those that only the table knows."""
    structs = [f.name for f in scores.schema if pa.types.is_struct(f.type) and f.name not in BESIDES]
    return [*chain, *(name for name in structs if name not in chain)]


def read_scores(scores: pa.Table, order: list[str]) -> dict[str, np.ndarray]:
    """All numeric fields of the filters' structs."""
    found = {}
    for name in order:
        struct = column(scores, name)
        if not pa.types.is_struct(struct.type):
            continue
        for part in struct.type:
            if pa.types.is_floating(part.type) or pa.types.is_integer(part.type) or pa.types.is_boolean(part.type):
                found[f"{name}.{part.name}"] = as_floats(pc.struct_field(struct, part.name))
    return found


def read_ms(scores: pa.Table, order: list[str]) -> dict[str, np.ndarray]:
    """The map column `ms` as one array per key; the chain's filters come first."""
    maps = column(scores, "ms")
    if not pa.types.is_map(maps.type):
        return {}
    owner = np.repeat(np.arange(len(maps)), np.diff(maps.offsets.to_numpy()))
    keys, values = np.asarray(maps.keys.to_pylist(), dtype=object), as_floats(maps.items)
    found = {}
    for name in sorted(set(keys), key=lambda k: (order.index(k) if k in order else len(order), k)):
        found[name] = np.full(len(maps), np.nan)
        found[name][owner[keys == name]] = values[keys == name]
    return found


def read_verdicts(verdicts: pa.Table, order: list[str]) -> Verdicts:
    first: list[str | None] = [None] * len(verdicts)
    place = {name: i for i, name in enumerate(order)}
    reasons = column(verdicts, "reasons").to_pylist()
    for i, given in enumerate(reasons):
        if given:
            least = min(given, key=lambda r: place.get(r["filter"], len(order)))
            undecided = (least["score"] or "").endswith(".unmeasured")
            first[i] = f"{least['filter']}.unmeasured" if undecided else least["filter"]
    keep = column(verdicts, "keep").cast(pa.bool_()).fill_null(False).to_numpy(zero_copy_only=False)
    policies = [p for p in column(verdicts, "policy").unique().to_pylist() if p]
    return Verdicts(present(verdicts, "keep"), keep, first, policies)


def read_packed(dataset: str) -> np.ndarray:
    """Seconds of the packed clips."""
    try:
        with fsspec.open(f"{dataset}/shards/index.parquet", "rb") as f:
            return numbers(pq.read_table(f, columns=["seconds"]), "seconds")
    except FileNotFoundError:
        return np.zeros(0)


# ---------------------------------------------------------------- judging


def judge(rows: Rows, rules: Sequence[Rule]) -> tuple[np.ndarray, np.ndarray]:
    """Per clip: index of the first broken rule (or KEPT, UNDECIDED, UNJUDGED), and how many rules it breaks.

    The same judgement as `curation.select`; `judge.js` repeats it in the browser.
    """
    first, broken = np.full(len(rows), KEPT), np.zeros(len(rows), int)
    for i, rule in enumerate(rules):
        if rule.score in rows.scores:
            hit = rule.breaks(rows.scores[rule.score])
            first[hit & (broken == 0)] = i
            broken += hit
    for measured in rows.measured.values():
        first[(broken == 0) & ~measured] = UNDECIDED
    first[rows.state != MEASURED] = UNJUDGED
    return first, broken

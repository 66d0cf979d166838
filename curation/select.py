"""Select: stored scores and a policy -> verdicts. A pure function over columns; no video is read."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from curation.layout import REASON, SCHEMAS, SCORES, VERDICTS, table
from curation.policy import Policy, Rule
from dataset.tables import in_threads

UNMEASURED = "unmeasured"


def judge(scores: pa.Table, policy: Policy, filters: Sequence[str]) -> pa.Table:
    """Verdict rows for score rows, in their order.

    Every broken rule is a reason, in the policy's order. A clip that breaks none but lacks a filter (the cascade had
    stopped it under a stricter policy) is not kept: its reason is `<filter>.unmeasured`.
    """
    found = [broken(scores, rule) for rule in policy.rules]
    clean = np.ones(scores.num_rows, bool)
    for rows, _ in found:
        clean[rows] = False
    reasons = [rule_reasons(rule, rows, values) for rule, (rows, values) in zip(policy.rules, found, strict=True)]
    waiting = clean.copy()
    for name in filters:
        absent = np.flatnonzero(waiting & ~has(scores, name))
        waiting[absent] = False
        reasons.append((absent, unmeasured(name, len(absent))))
    rows = np.concatenate([r for r, _ in reasons]) if reasons else np.zeros(0, int)
    order = np.argsort(rows, kind="stable")
    flat = pa.concat_arrays([array for _, array in reasons]).take(pa.array(order)) if reasons else pa.array([], REASON)
    counts = np.bincount(rows.astype(int), minlength=scores.num_rows)
    offsets = pa.array(np.concatenate([[0], np.cumsum(counts)]).astype(np.int32))
    return pa.table(
        {
            "clip_id": scores["clip_id"],
            "keep": pa.array(counts == 0),
            "reasons": pa.ListArray.from_arrays(offsets, flat),
            "policy": pa.array([policy.digest] * scores.num_rows, pa.string()),
        },
        schema=SCHEMAS[VERDICTS],
    )


def column(scores: pa.Table, rule: Rule) -> np.ndarray:
    """The rule's score as float64; NaN where it is null, not measured, or unknown to these rows."""
    if not has_field(scores, rule):
        return np.full(scores.num_rows, np.nan)
    values = pc.struct_field(scores[rule.filter], rule.field)
    return pc.fill_null(pc.cast(values, pa.float64()), float("nan")).to_numpy()


def has_field(scores: pa.Table, rule: Rule) -> bool:
    if rule.filter not in scores.column_names:
        return False
    kind = scores.schema.field(rule.filter).type
    return pa.types.is_struct(kind) and kind.get_field_index(rule.field) >= 0


def has(scores: pa.Table, name: str) -> np.ndarray:
    if name not in scores.column_names:
        return np.zeros(scores.num_rows, bool)
    return pc.is_valid(scores[name]).to_numpy()


def broken(scores: pa.Table, rule: Rule) -> tuple[np.ndarray, np.ndarray]:
    """(rows, values) of the clips that break a rule."""
    values = column(scores, rule)
    rows = np.flatnonzero(rule.breaks(values))
    return rows, values[rows]


def rule_reasons(rule: Rule, rows: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, pa.Array]:
    n = len(rows)
    threshold = np.full(n, rule.threshold)
    arrays = [
        pa.array([rule.filter] * n, pa.string()),
        pa.array([rule.score] * n, pa.string()),
        pa.array(values, pa.float64()),
        pa.array(threshold, pa.float64()),
        pa.array(np.abs(values - threshold), pa.float64()),
    ]
    return rows, pa.StructArray.from_arrays(arrays, fields=list(REASON))


def unmeasured(name: str, n: int) -> pa.Array:
    nothing = pa.nulls(n, pa.float64())
    names = [pa.array([name] * n, pa.string()), pa.array([f"{name}.{UNMEASURED}"] * n, pa.string())]
    return pa.StructArray.from_arrays([*names, nothing, nothing, nothing], fields=list(REASON))


def select(dataset: str, policy: Policy, filters: Sequence[str]) -> None:
    """Judge every scored clip again. Parts of `verdicts/` mirror those of `scores/`, so each is replaced whole."""
    scored, verdicts = table(dataset, SCORES), table(dataset, VERDICTS)
    names = scored.parts()
    wanted = ["clip_id", *filters]
    in_threads(lambda name: verdicts.write(judge(scored.read_part(name, wanted), policy, filters), name), names)
    for name in set(verdicts.parts()) - set(names):
        verdicts.drop(name)

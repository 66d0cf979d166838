"""Judging stored scores: every broken rule is a reason with its margin; what wasn't measured is never kept."""

import pyarrow as pa
import pytest

from curation.policy import Policy, Rule
from curation.select import judge

POLICY = Policy(
    name="p",
    rules=[
        Rule(score="header.duration", min=3, source="test"),
        Rule(score="voice.speech", min=0.5, source="test"),
        Rule(score="motion.background", max=10, source="test"),
    ],
)
CHAIN = ["header", "voice", "motion"]


def scores(**clips: tuple) -> pa.Table:
    """clip=(duration, speech, background); an element `...` was not measured."""
    kinds = {"header": "duration", "voice": "speech", "motion": "background"}
    rows = []
    for clip_id, values in clips.items():
        measured = {n: None if v is ... else {f: v} for (n, f), v in zip(kinds.items(), values, strict=True)}
        rows.append({"clip_id": clip_id, **measured})
    schema = pa.schema([("clip_id", pa.string())] + [(n, pa.struct([(f, pa.float64())])) for n, f in kinds.items()])
    return pa.Table.from_pylist(rows, schema=schema)


def verdicts(**clips: tuple) -> dict:
    return {row["clip_id"]: row for row in judge(scores(**clips), POLICY, CHAIN).to_pylist()}


def test_kept_and_dropped():
    found = verdicts(good=(5.0, 0.9, 1.0), short=(2.0, 0.9, 1.0), bad=(5.0, 0.2, 30.0))
    assert [found[c]["keep"] for c in ("good", "short", "bad")] == [True, False, False]
    assert found["good"]["reasons"] == []
    assert [r["score"] for r in found["bad"]["reasons"]] == ["voice.speech", "motion.background"]
    (reason,) = found["short"]["reasons"]
    assert reason == {"filter": "header", "score": "header.duration", "value": 2.0, "threshold": 3.0, "margin": 1.0}
    assert found["bad"]["reasons"][1]["margin"] == pytest.approx(20)


def test_a_score_that_does_not_apply_passes():
    assert verdicts(clip=(5.0, None, 1.0))["clip"]["keep"]


def test_a_clip_that_the_cascade_stopped_is_judged_by_what_stopped_it():
    (reason,) = verdicts(clip=(2.0, ..., ...))["clip"]["reasons"]
    assert reason["score"] == "header.duration"


def test_a_clip_that_lacks_scores_is_not_kept_but_waits():
    found = verdicts(clip=(5.0, ..., ...))["clip"]
    assert not found["keep"]
    assert [r["score"] for r in found["reasons"]] == ["voice.unmeasured"]


def test_bounds_are_inclusive():
    assert verdicts(clip=(3.0, 0.5, 10.0))["clip"]["keep"]


def test_nothing_to_judge():
    assert judge(scores(), POLICY, CHAIN).num_rows == 0


def test_no_rules_keep_what_is_measured():
    free = Policy(name="free", rules=[])
    assert judge(scores(a=(1.0, 0.0, 99.0)), free, CHAIN)["keep"].to_pylist() == [True]

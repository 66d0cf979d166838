"""What the page says about the whole dataset: counts per stage, scores, failures, cost."""

import datetime
from collections import Counter
from typing import Any

import numpy as np

from curation.policy import Rule
from curation.report.rows import FAILED, KEPT, MEASURED, PENDING, Rows, as_floats, judge
from curation.report.settings import Settings
from filters.base import Filter

GROUPS = 300  # most failure groups that the page lists
MEMBERS = 300  # most clips or sources listed per group
TAIL = 0.005  # share of clips at either end that may fall outside a histogram


def collect(dataset: str, rows: Rows, settings: Settings) -> dict[str, Any]:
    """All but the per-clip columns, ready for JSON."""
    rules = settings.rules(rows.order)
    return {
        "dataset": dataset,
        "when": datetime.datetime.now(datetime.UTC).strftime("%-d %B %Y, %H:%M UTC"),
        "recipe": {"name": settings.recipe.name if settings.recipe else None, "text": settings.recipe_text},
        "policy": {
            "name": settings.policy.name if settings.policy else None,
            "digest": settings.policy.digest if settings.policy else None,
            "text": settings.policy_text,
            "rules": [rule.model_dump() for rule in rules],
        },
        "notes": notes(rows, settings, rules),
        "clips": len(rows),
        "totals": totals(rows),
        "funnel": funnel(rows),
        "filters": describe_filters(rows, settings.chain, rules),
        "failures": failure_groups(rows),
        "cost": cost(rows),
    }


def amount(rows: Rows, which: np.ndarray) -> dict[str, float]:
    """Clips and seconds of a selection."""
    return {"clips": int(which.sum()), "seconds": round(float(rows.seconds[which].sum()), 3)}


def totals(rows: Rows) -> dict[str, Any]:
    found = len(rows)
    return {
        "all": amount(rows, np.ones(found, bool)),
        "kept": amount(rows, rows.verdicts.keep),
        "judged": amount(rows, rows.verdicts.judged),
        "packed": {"clips": len(rows.packed), "seconds": round(float(np.nansum(rows.packed)), 3)},
    }


# ---------------------------------------------------------------- notes


def notes(rows: Rows, settings: Settings, rules: list[Rule]) -> list[str]:
    """What a reader must know before trusting the numbers."""
    said = list(settings.notes)
    if "clips" in rows.missing:
        said.append("The dataset has no clips: no source was cut yet, or none could be read.")
    elif "scores" in rows.missing:
        said.append("No clip is measured yet.")
    elif "verdicts" in rows.missing:
        said.append("The clips are not judged yet: run `s2v select`.")
    pending = int((rows.state == PENDING).sum())
    if pending and "scores" not in rows.missing:
        said.append(f"{pending:,} clips are not measured yet: the run was stopped early. Run the same command again.")
    waiting = int((rows.verdicts.judged & (rows.state != MEASURED)).sum())
    if waiting:
        said.append(f"{waiting:,} clips are judged, but their scores are missing.")
    differing = disagreement(rows, rules)
    if differing and settings.policy:
        said.append(
            f"{differing:,} stored verdicts differ from what policy.yaml (digest {settings.policy.digest}) gives. "
            f"They were made under {', '.join(rows.verdicts.policies)}. `s2v select` judges them again."
        )
    return said


def disagreement(rows: Rows, rules: list[Rule]) -> int:
    """How many stored verdicts the policy wouldn't give."""
    kept = judge(rows, rules)[0] == KEPT
    both = rows.verdicts.judged & (rows.state == MEASURED)
    return int((both & (kept != rows.verdicts.keep)).sum())


# ---------------------------------------------------------------- funnel


def funnel(rows: Rows) -> dict[str, Any]:
    """Sources, and what every stage took away from the clips, by the stored verdicts."""
    first = np.asarray(rows.verdicts.first, dtype=object)
    judged, keep = rows.verdicts.judged, rows.verdicts.keep
    lost = {
        "failed while measuring": ~judged & (rows.state == FAILED),
        "not measured yet": ~judged & (rows.state == PENDING),
        "measured, not judged": ~judged & (rows.state == MEASURED),
    }
    steps = [{"label": label, "kind": "gap", **amount(rows, which)} for label, which in lost.items() if which.any()]
    reasons = [name for name in set(first[judged & ~keep]) if name]
    dropping = [*rows.order, *sorted(n for n in reasons if n not in rows.order and not n.endswith(".unmeasured"))]
    for name in dropping:
        steps.append({"label": name, "kind": "filter", **amount(rows, judged & ~keep & (first == name))})
    undecided = judged & ~keep & np.array([bool(n) and n.endswith(".unmeasured") for n in first], dtype=bool)
    if undecided.any():
        steps.append({"label": "needs measuring", "kind": "undecided", **amount(rows, undecided)})
    return {"sources": sources(rows), "steps": steps}


def sources(rows: Rows) -> dict[str, int]:
    """Sources that gave clips, and sources that could not be read."""
    good = set(rows.clips["source"].to_pylist())
    bad = {row["source"] for row in failure_rows(rows) if row["stage"] == "ingest" and not row["clip_id"]}
    return {"found": len(good | bad), "failed": len(bad - good)}


# ---------------------------------------------------------------- scores


def describe_filters(rows: Rows, chain: list[Filter], rules: list[Rule]) -> list[dict[str, Any]]:
    """The filters in chain order with what they declare of their scores."""
    declared = {f.name(): f for f in chain}
    return [describe_filter(rows, name, declared.get(name), rules) for name in rows.order]


def describe_filter(rows: Rows, name: str, made: Filter | None, rules: list[Rule]) -> dict[str, Any]:
    fields = made.Scores.model_fields if made else {}
    stored = [key.split(".", 1)[1] for key in rows.scores if key.split(".", 1)[0] == name]
    scores = []
    for part in [*fields, *(s for s in stored if s not in fields)]:
        extra = fields[part].json_schema_extra if part in fields else None
        facts = extra if isinstance(extra, dict) else {}
        about = (fields[part].description if part in fields else None) or ""
        thresholds = [rule.threshold for rule in rules if rule.score == f"{name}.{part}"]
        spread = describe_values(rows, f"{name}.{part}", thresholds)
        said = {"name": part, "unit": facts.get("unit"), "better": facts.get("better"), "about": about}
        scores.append(said | spread)
    doc = ((type(made).__doc__ if made else None) or "").strip().split("\n\n")[0]
    measured = int(rows.measured[name].sum())
    return {"name": name, "about": " ".join(doc.split()), "measured": measured, "scores": scores}


def describe_values(rows: Rows, key: str, thresholds: list[float]) -> dict[str, Any]:
    """Extremes of a score, the range that a histogram shows, and how many clips have none."""
    values = rows.scores.get(key, np.full(len(rows), np.nan))
    given = values[~np.isnan(values)]
    applies = rows.measured[key.split(".", 1)[0]]
    facts: dict[str, Any] = {"known": len(given), "absent": int((applies & np.isnan(values)).sum())}
    if not len(given):
        return facts
    least, low, middle, high, most = (float(q) for q in np.quantile(given, [0, TAIL, 0.5, 1 - TAIL, 1]))
    width = (high - low) or 1.0
    # A few outliers must not flatten the histogram; the cut-off tails are counted in its first and last bar.
    first, last = (least if low - least < 0.25 * width else low), (most if most - high < 0.25 * width else high)
    whole = bool(np.all(given == np.round(given)) and all(t == round(t) for t in thresholds))
    room = 0 if whole else 0.03 * width  # beyond a threshold outside, so that its line isn't on the edge
    start = min([first, *(t - min(room, 0.2 * abs(t)) for t in thresholds if t <= first)])
    end = max([last, *(t + room for t in thresholds if t >= last)])
    return {
        **facts,
        "min": least,
        "max": most,
        "low": start,
        "high": end,
        "whole": whole,
        # Most values in the first fifth of a wide range: only a logarithmic axis shows them apart.
        "log": start > 0 and least > 0 and end > 30 * start and middle - start < 0.2 * (end - start),
    }


# ---------------------------------------------------------------- failures and cost


def failure_rows(rows: Rows) -> list[dict[str, Any]]:
    columns = ("source", "clip_id", "stage", "error", "remedy", "transient")
    have = [c for c in columns if c in rows.failures.column_names]
    return [dict.fromkeys(columns) | row for row in rows.failures.select(have).to_pylist()]


def failure_groups(rows: Rows) -> dict[str, Any]:
    """Failures with the same stage, error and remedy together, the most frequent first."""
    groups: dict[tuple, list[dict]] = {}
    for row in failure_rows(rows):
        groups.setdefault((row["stage"], row["error"], row["remedy"], row["transient"]), []).append(row)
    ranked = sorted(groups.items(), key=lambda item: (-len(item[1]), str(item[0])))
    shown = [
        {
            "stage": stage,
            "error": error,
            "remedy": remedy,
            "transient": bool(transient),
            "count": len(members),
            "members": [{"source": m["source"], "clip": m["clip_id"]} for m in members[:MEMBERS]],
        }
        for (stage, error, remedy, transient), members in ranked[:GROUPS]
    ]
    return {"count": len(rows.failures), "groups": shown, "more": max(0, len(ranked) - GROUPS)}


def cost(rows: Rows) -> dict[str, Any]:
    """CPU time per filter, and how often and how much was decoded."""
    spent = [
        {"filter": name, "ms": float(np.nansum(ms)), "clips": int(np.isfinite(ms).sum())}
        for name, ms in rows.ms.items()
    ]
    measured = rows.state == MEASURED
    return {"filters": spent, **rows.counts, **amount(rows, measured)}


def media_facts(rows: Rows) -> dict[str, Any]:
    """Per clip: numbers of the source, and its formats as indices into a short list."""
    if "media" not in rows.clips.column_names:
        return {"numbers": {}, "formats": []}
    media = rows.clips["media"].combine_chunks().flatten()
    names = [f.name for f in rows.clips.schema.field("media").type]
    table = dict(zip(names, media, strict=True))
    wanted = ("video_codec", "pix_fmt", "audio_codec")
    texts = [table[n].to_pylist() if n in table else [None] * len(rows) for n in wanted]
    formats = Counter(zip(*texts, strict=True))
    place = {key: i for i, key in enumerate(formats)}
    found = {n: as_floats(table[n]) for n in ("width", "height", "fps") if n in table}
    found["format"] = np.array([place[key] for key in zip(*texts, strict=True)], dtype=float)
    return {"numbers": found, "formats": [list(key) for key in formats]}

"""How well a dataset judged labelled variants of clips: a table per perturbation, and the ROC of the sync scores.

    s2v curate VARIANTS --out DATASET && python -m benchmarks.judging DATASET labels.csv > table.md

labels.csv has the columns file, perturbation, expected_keep (1, 0 or ? for borderline) and failing_filter. A source
counts as kept if any of its clips was kept. Prints Markdown.
"""

import argparse
import csv
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from curation.layout import CLIPS, FAILURES, SCORES, VERDICTS, read

# The classes of a benchmark -> our filters that are meant to catch them; those missing here wait for a filter to come.
CAUGHT_BY = {
    "active_speaker": {"sync", "voice", "active_speaker"},
    "audio_present": {"header"},
    "decode": {"failure"},
    "duration": {"header"},
    "fps": {"header"},
    "motion_excess": {"motion", "header"},
    "motion_none": {"media", "motion", "active_speaker"},
    "pose_spatial": {"occupancy", "faces"},
    "pose_temporal": {"occupancy", "faces", "header"},
    "scene_cut": {"header"},
    "sharpness_face": {"sharpness", "faces", "occupancy"},
    "speech": {"voice", "media", "active_speaker"},
    "subtitle_face": {"subtitles"},
}


@dataclass
class Source:
    """What became of one file."""

    kept: bool = False
    why: set[str] = field(default_factory=set)  # filters among the reasons
    sync: dict[str, float] | None = None


@dataclass
class Class:
    """One perturbation. right: judged as labelled; named: a fitting filter is among the reasons."""

    keep: bool
    failing: str
    total: int = 0
    right: int = 0
    named: int = 0
    others: set[str] = field(default_factory=set)


def read_sources(dataset: str) -> dict[str, Source]:
    names = {r["clip_id"]: Path(r["source"]).name for r in read(dataset, CLIPS, ["clip_id", "source"]).to_pylist()}
    found: dict[str, Source] = defaultdict(Source)
    for row in read(dataset, VERDICTS).to_pylist():
        source = found[names[row["clip_id"]]]
        source.kept |= row["keep"]
        source.why |= {reason["filter"] for reason in row["reasons"]}
    for row in read(dataset, SCORES, ["clip_id", "sync"]).to_pylist():
        found[names[row["clip_id"]]].sync = row["sync"]
    for row in read(dataset, FAILURES).to_pylist():
        found[Path(row["source"]).name].why.add("failure")
    return found


def judge(labels: list[dict[str, str]], sources: dict[str, Source]) -> dict[str, Class]:
    classes: dict[str, Class] = {}
    for label in labels:
        keep, name = label["expected_keep"] == "1", Path(label["file"]).name
        if label["expected_keep"] == "?":
            continue
        if name not in sources:
            raise SystemExit(f"{label['file']} is labelled, but the dataset knows no such source.")
        row = classes.setdefault(label["perturbation"], Class(keep, label["failing_filter"]))
        source = sources[name]
        row.total += 1
        row.right += source.kept == keep
        row.named += bool(source.why & CAUGHT_BY.get(row.failing, set()))
        row.others |= source.why
    return classes


def print_table(classes: dict[str, Class]) -> None:
    print("| should be | for | perturbation | judged so | by a fitting filter | filters that fired |")
    print("|---|---|---|---|---|---|")
    for name, c in sorted(classes.items(), key=lambda item: (item[1].keep, item[1].failing, item[0])):
        fitting = f"{c.named}/{c.total}" if c.failing in CAUGHT_BY else "-"
        fired = ", ".join(sorted(c.others)) or "-"
        cells = ("kept" if c.keep else "dropped", c.failing, name, f"{c.right}/{c.total}", fitting, fired)
        print(f"| {' | '.join(cells)} |")
    ours = [c for c in classes.values() if not c.keep and c.failing in CAUGHT_BY]
    rest = [c for c in classes.values() if not c.keep and c.failing not in CAUGHT_BY]
    good = [c for c in classes.values() if c.keep]
    print(f"\n- Recall of the classes that a filter here is meant for: **{share(ours)}**")
    print(f"- Recall of the other faults (sync by lip motion, clarity without DOVER): {share(rest)}")
    print(f"- Clean variants kept: **{share(good)}**")


def share(classes: list[Class]) -> str:
    right, total = sum(c.right for c in classes), sum(c.total for c in classes)
    return f"{right}/{total} = {right / max(1, total):.3f}"


def print_sync(labels: list[dict[str, str]], sources: dict[str, Source]) -> None:
    """AUC of each sync score, clean variants against those with wrong sound, where the chain came that far."""
    good, bad = defaultdict(list), defaultdict(list)
    for label in labels:
        sync = sources[Path(label["file"]).name].sync
        side = good if label["expected_keep"] == "1" else bad if label["failing_filter"] == "av_sync" else None
        if sync and side is not None:
            for name, sign in (("z", 1), ("rival", -1), ("correlation", 1)):
                if sync[name] is not None:
                    side[name].append(sign * sync[name])
    print("\n| sync score | in sync | not | AUC | true kept at 10 % of the others passing |\n|---|---|---|---|---|")
    for name, values in good.items():
        positive, negative = np.array(values), np.array(bad[name])
        area = np.mean(positive[:, None] > negative[None]) + 0.5 * np.mean(positive[:, None] == negative[None])
        kept = np.mean(positive > np.quantile(negative, 0.9))
        print(f"| `sync.{name}` | {len(positive)} | {len(negative)} | {area:.2f} | {kept:.2f} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset")
    parser.add_argument("labels")
    arguments = parser.parse_args()
    with open(arguments.labels, newline="") as f:
        labels = list(csv.DictReader(f))
    sources = read_sources(arguments.dataset)
    print_table(judge(labels, sources))
    print_sync(labels, sources)


if __name__ == "__main__":
    main()

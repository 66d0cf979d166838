"""`s2v caption check`: how objective and complete the captions of a dataset are, and the worst ones.

The lint of this version judges again: what is stored beside a caption is what the lint said when it was made.
"""

import heapq
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from pydantic import ValidationError
from rich.console import Console
from rich.markup import escape
from rich.table import Table as Grid

from captioning.lint import Flag, lint
from captioning.schema import Caption
from curation.caption import facts
from curation.layout import CAPTIONS, CLIPS, SCORES, VERDICTS, homes, read, stored_rows, table
from curation.stored import settings
from dataset.errors import UsageError

KINDS = {
    "evaluative": "judges",
    "emotional": "tells feelings or moods",
    "speculative": "guesses",
    "meta": "speaks of the video itself",
    "uncovered": "leaves out an aspect",
    "repeated": "repeats itself",
    "inconsistent": "says other than was measured",
}
ASPECTS = ("shot", "angle", "camera movement", "speech", "people")


@dataclass
class Totals:
    """Sums over all captions. worst: (number of flags, clip id, prose, flags), the fewest first."""

    captions: int = 0
    other_form: int = 0  # of another version of the schema, which this lint can't judge
    clean: int = 0
    kinds: Counter[str] = field(default_factory=Counter)  # captions with at least one flag of the kind
    found: Counter[tuple[str, str]] = field(default_factory=Counter)  # (kind, words)
    choices: dict[str, Counter[str]] = field(default_factory=lambda: {name: Counter() for name in ASPECTS})
    sums: Counter[str] = field(default_factory=Counter)
    worst: list[tuple[int, str, str, list[Flag]]] = field(default_factory=list)

    def add(self, row: dict[str, Any], caption: Caption, flags: list[Flag], keep: int) -> None:
        self.captions += 1
        self.clean += not flags
        self.kinds.update({flag.kind for flag in flags})
        self.found.update((flag.kind, flag.found) for flag in flags)
        camera, people = caption.camera, caption.subjects
        self.choices["shot"][camera.shot] += 1
        self.choices["angle"][camera.angle] += 1
        self.choices["camera movement"][camera.movement] += 1
        self.choices["speech"].update(person.speech for person in people)
        self.choices["people"][str(len(people))] += 1
        self.sums["movements"] += sum(len(person.movements) for person in people)
        self.sums["second tries"] += row["tries"] > 1
        for name in ("short", "medium", "long"):
            self.sums[name] += len(row[name].split())
        for name in ("prompt_tokens", "completion_tokens"):
            self.sums[name] += row[name]
        if flags:
            heapq.heappush(self.worst, (len(flags), row["clip_id"], row["long"], flags))
            if len(self.worst) > keep:
                heapq.heappop(self.worst)


def check(dataset: str, worst: int, console: Console) -> None:
    """Print what `s2v caption check` promises."""
    settings(dataset)
    totals = judge(dataset, worst)
    if totals.other_form:
        console.print(f"{totals.other_form:,} captions have another form: `s2v caption --again` makes them again.")
    if not totals.captions:
        raise UsageError(f"{dataset} has no captions yet: `s2v caption {dataset} --server URL` makes them.")
    verdicts = read(dataset, VERDICTS, ["keep"])
    kept = sum(verdicts["keep"].to_pylist())
    models = sorted(set(read(dataset, CAPTIONS, ["model"])["model"].to_pylist()))
    console.print(escape(f"{totals.captions:,} captions ({kept:,} clips are kept), by {', '.join(models)}"))
    show_objections(totals, console)
    show_contents(totals, console)
    show_worst(dataset, totals, console)


def judge(dataset: str, worst: int) -> Totals:
    """Lint every caption against what was measured of its clip, a part at a time."""
    totals, captions, scored = Totals(), table(dataset, CAPTIONS), homes(dataset, SCORES)
    for name in captions.parts():
        rows = captions.read_part(name).to_pylist()
        ids = [row["clip_id"] for row in rows]
        scores = stored_rows(dataset, SCORES, sorted({scored[i] for i in ids if i in scored}), ids)
        for row in rows:
            try:
                caption = Caption.model_validate_json(row["structured"])
            except ValidationError:
                totals.other_form += 1
                continue
            totals.add(row, caption, lint(caption, facts(scores.get(row["clip_id"], {}))), worst)
    return totals


# ---------------------------------------------------------------- tables


def show_objections(totals: Totals, console: Console) -> None:
    grid = Grid(title="objections", title_justify="left")
    for name in ("", "captions", "share", "most often"):
        grid.add_column(name, justify="left" if name in ("", "most often") else "right", overflow="fold")
    for kind, means in KINDS.items():
        often = [words for (k, words), _ in totals.found.most_common() if k == kind][:5]
        count = totals.kinds[kind]
        grid.add_row(*map(escape, (f"{kind}: {means}", f"{count:,}", percent(count, totals), ", ".join(often))))
    grid.add_row("none", f"{totals.clean:,}", percent(totals.clean, totals), style="bold green")
    console.print(grid)


def show_contents(totals: Totals, console: Console) -> None:
    grid = Grid(title="contents", title_justify="left", show_header=False)
    for name, counts in totals.choices.items():
        all_of = max(1, counts.total())
        shown = ", ".join(f"{choice} {100 * n / all_of:.0f} %" for choice, n in counts.most_common(7))
        grid.add_row(name, escape(shown))
    mean = {name: value / totals.captions for name, value in totals.sums.items()}
    grid.add_row("movements a caption", f"{mean['movements']:.1f}")
    grid.add_row("words: short, medium, long", ", ".join(f"{mean[n]:.0f}" for n in ("short", "medium", "long")))
    grid.add_row("tokens a caption", f"{mean['prompt_tokens']:,.0f} in, {mean['completion_tokens']:,.0f} out")
    grid.add_row("sent back once", percent(totals.sums["second tries"], totals))
    console.print(grid)


def show_worst(dataset: str, totals: Totals, console: Console) -> None:
    if not totals.worst:
        return
    ids = [clip_id for _, clip_id, _, _ in totals.worst]
    rows = read(dataset, CLIPS, ["clip_id", "source"]).to_pylist()
    sources = {row["clip_id"]: row["source"] for row in rows if row["clip_id"] in set(ids)}
    console.print("\n[bold]worst[/]")
    for _, clip_id, prose, flags in sorted(totals.worst, key=lambda w: (-w[0], w[1])):
        name = sources.get(clip_id, "").rsplit("/", 1)[-1]
        console.print(escape(f"{clip_id}  {name}"), style="bold", soft_wrap=True)
        for flag in flags:
            console.print(escape(f"  {flag.kind}: {flag.found} ({flag.field})"), soft_wrap=True)
        console.print(escape(f"  {prose}"), soft_wrap=True)


def percent(count: int, totals: Totals) -> str:
    return f"{100 * count / totals.captions:.1f} %"

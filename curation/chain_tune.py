"""`s2v chain tune`: in which order would the filters of a dataset have cost the least?

A filter is worth its place early when it is cheap and rejects many of those that come to it: filters are ranked by cost
over rejection probability, among the survivors of the ones before (Munagala et al. 2005, "The pipelined set cover
problem": never worse than four times the best order). What a filter must come `after` goes with it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import yaml
from rich.console import Console
from rich.markup import escape
from rich.table import Table as Grid

from curation.chain import DECODE
from curation.layout import SCORES, table
from curation.policy import Policy
from curation.recipe import Recipe, places
from curation.report.rows import read_ms
from curation.select import broken, has
from curation.stored import settings
from dataset.errors import UsageError

MOST = 200_000  # clips that are looked at
GAIN = 0.01  # share of the cost below which another order isn't worth a change
FREE = 0.1  # ms; what costs less stays ahead, as a filter that rejects nobody here may do so elsewhere


@dataclass(frozen=True)
class Step:
    """A filter, or the decoding that most of them wait for.

    cost: (N,) ms of each clip. rejects: (N,) probability that a hard rule on it ends the clip: 0 or 1 where it was
    measured, its rate elsewhere.
    """

    name: str
    cost: np.ndarray
    rejects: np.ndarray
    after: tuple[str, ...]
    measured: float  # share of the clips


def tune(dataset: str, console: Console) -> None:
    """Print what each filter costs and rejects, the order with the least expected cost, and what it saves."""
    recipe, policy = settings(dataset)
    steps = read_steps(recipe, policy, load_scores(dataset))
    now, best = list(steps), order(steps)
    before, after = expected(steps, now), expected(steps, best)
    console.print(overview(steps, now, "now"))
    if after >= (1 - GAIN) * before:
        console.print(f"The order is good: {before:,.0f} ms a clip, and no other was found that saves 1 %.")
    else:
        console.print(overview(steps, best, "better"))
        saved = 1 - after / before
        console.print(f"[bold]{before:,.0f} ms -> {after:,.0f} ms a clip: {saved:.0%} saved.[/] In the recipe:\n")
        console.print(escape(reordered(recipe, best)), soft_wrap=True)
    if never := [s.name for s in steps.values() if not s.measured]:
        console.print(f"No clip was measured by {', '.join(never)}: what that costs and rejects is not in the sums.")
    if (unknown := 1 - np.mean([s.measured for s in steps.values()])) > 0.02:
        console.print(
            f"{unknown:.0%} of the measurements are not there, as the cascade had ended: they are taken to cost and "
            "reject as the others did. A sample curated with `cascade: false` in its recipe leaves nothing to guess."
        )


def load_scores(dataset: str) -> pa.Table:
    scores, parts, rows = table(dataset, SCORES), [], 0
    for name in scores.parts():
        parts.append(scores.read_part(name))
        rows += parts[-1].num_rows
        if rows >= MOST:
            break
    if not rows:
        raise UsageError(f"{dataset} has no scores yet: run `s2v curate` first.")
    return pa.concat_tables(parts, promote_options="permissive")


def read_steps(recipe: Recipe, policy: Policy, scores: pa.Table) -> dict[str, Step]:
    """By name, in the recipe's order; decoding stands before the first filter that needs it.

    Raises UsageError where clips were decoded and nobody wrote down what that cost: it would count as free.
    """
    chain = recipe.build()
    by_place = places(chain)
    ms = read_ms(scores, [f.name() for f in chain])
    if DECODE not in ms and any((f.needs.frames or f.needs.audio) and has(scores, f.name()).any() for f in chain):
        raise UsageError(
            "These scores do not say what decoding cost, without which no order can be judged: "
            "curate a sample into a new dataset, and tune that."
        )
    steps: dict[str, Step] = {}
    for f in chain:
        name, after = f.name(), tuple(by_place[other].name() for other in f.needs.after)
        if f.needs.frames or f.needs.audio:
            after += (DECODE,)
            if DECODE not in steps:
                decoded = np.isfinite(ms.get(DECODE, np.full(scores.num_rows, np.nan)))
                steps[DECODE] = step(DECODE, ms, decoded, np.zeros(scores.num_rows), ())
        ends = np.zeros(scores.num_rows)
        for rule in policy.rules:
            if rule.hard and rule.filter == name:
                ends[broken(scores, rule)[0]] = 1
        steps[name] = step(name, ms, has(scores, name), ends, after)
    return steps


def step(name: str, ms: dict[str, np.ndarray], measured: np.ndarray, ends: np.ndarray, after: tuple[str, ...]) -> Step:
    """Fill what was not measured with the mean of what was."""
    cost = ms.get(name, np.full(len(measured), np.nan))
    known = measured & np.isfinite(cost)
    cost = np.where(known, cost, cost[known].mean() if known.any() else 0.0)
    rate = ends[measured].mean() if measured.any() else 0.0
    return Step(name, cost, np.where(measured, ends, rate), after, float(measured.mean()))


# ---------------------------------------------------------------- the order


def expected(steps: dict[str, Step], names: Sequence[str]) -> float:
    """Milliseconds a clip of the chain in this order, with the cascade."""
    return sum(float((alive * steps[name].cost).mean()) for name, alive in reaching(steps, names))


def reaching(steps: dict[str, Step], names: Sequence[str]) -> Iterator[tuple[str, np.ndarray]]:
    """Each step, and the (N,) probabilities that the clips come to it."""
    alive = np.ones(len(next(iter(steps.values())).cost))
    for name in names:
        yield name, alive
        alive = alive * (1 - steps[name].rejects)


def order(steps: dict[str, Step]) -> list[str]:
    """Greedy: next comes the filter that, with all that it waits for, rejects the most for its cost. What costs nothing
    comes first, what rejects nobody last, both as they are."""
    found: list[str] = []
    alive = np.ones(len(next(iter(steps.values())).cost))
    chosen = [name for name, s in steps.items() if s.measured and s.cost.mean() < FREE and not s.after]
    while True:
        found += chosen
        for name in chosen:
            alive = alive * (1 - steps[name].rejects)
        if len(found) == len(steps):
            return found
        bundles = [bundle(steps, name, found) for name in steps if name not in found]
        worth = [gain(steps, names, alive) for names in bundles]
        best = int(np.argmax(worth))
        chosen = bundles[best] if worth[best] > 0 else bundles[0]


def bundle(steps: dict[str, Step], name: str, found: Sequence[str]) -> list[str]:
    """A filter behind all that it must come after and that is not in the chain yet."""
    before = [other for need in steps[name].after if need not in found for other in bundle(steps, need, found)]
    return [*dict.fromkeys(before), name]


def gain(steps: dict[str, Step], names: Sequence[str], alive: np.ndarray) -> float:
    """Clips rejected a millisecond, of those that come so far."""
    cost, left = 0.0, alive
    for name in names:
        cost += float((left * steps[name].cost).sum())
        left = left * (1 - steps[name].rejects)
    return float((alive - left).sum()) / max(cost, 1e-9)


# ---------------------------------------------------------------- what is printed


def overview(steps: dict[str, Step], names: Sequence[str], title: str) -> Grid:
    grid = Grid(title=title, title_justify="left")
    for column in ("", "ms", "comes to it", "rejects", "ms / rejection", "ms a clip"):
        grid.add_column(column, justify="left" if not column else "right", no_wrap=True)
    total = 0.0
    for name, alive in reaching(steps, names):
        here = steps[name]
        spent, came = float((alive * here.cost).mean()), float(alive.mean())
        rejects = float((alive * here.rejects).mean()) / came if came else 0.0
        each = f"{spent / (came * rejects):,.0f}" if came * rejects else "-"
        total += spent
        mean = spent / came if came else float(here.cost.mean())
        grid.add_row(
            name, f"{mean:,.1f}" if here.measured else "?", f"{came:.1%}", f"{rejects:.1%}", each, f"{spent:,.1f}"
        )
    grid.add_row("all", "", "", "", "", f"{total:,.1f}", style="bold")
    return grid


def reordered(recipe: Recipe, names: Sequence[str]) -> str:
    """The `filters:` of the recipe in this order, with their parameters."""
    entries = dict(zip((f.name() for f in recipe.build()), recipe.filters, strict=True))
    text = {"filters": [entries[name] for name in names if name != DECODE]}
    return yaml.safe_dump(text, sort_keys=False, allow_unicode=True)

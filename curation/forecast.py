"""`s2v plan curate`: what curating all sources will take, cost and keep, from a random sample, curated for real."""

import os
import tempfile
from collections import Counter
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
from rich.console import Console

from curation.extrapolate import Range, Sample
from curation.ingest import SAME
from curation.layout import CLIPS, FAILURES, SCORES, VERDICTS, read
from curation.rehearsal import DATASET, costs, draw, rehearse
from curation.sizes import sizes
from curation.sources import BLOCK, LARGE, Item, expand
from dataset.errors import UsageError

STAGES = "ingest", "measure", "pack"
FINDING = 4 * BLOCK  # bytes read of a large file to find a place in it


@dataclass(frozen=True)
class Machines:
    """What the whole run is to have. gpus 0: as many as the workers want. Prices are of an hour of one."""

    workers: int
    gpus: float = 0.0
    core_price: float = 0.0
    gpu_price: float = 0.0


@dataclass(frozen=True)
class Stage:
    """Of the whole run. seconds: of work of one worker. gpus: of a worker. read: bytes from where the sources lie."""

    name: str
    seconds: Range
    cpus: float
    gpus: float
    workers: int
    read: float | None

    @property
    def core_hours(self) -> float:
        return self.seconds.value * self.cpus / 3600

    @property
    def gpu_hours(self) -> float:
        return self.seconds.value * self.gpus / 3600

    @property
    def wall(self) -> float:
        """Seconds, when all workers are busy to the end."""
        return self.seconds.value / self.workers


@dataclass(frozen=True)
class Forecast:
    """What `curation.forecast_report` shows. by_bytes: totals go by the sources' sizes, not by their number."""

    count: int
    drawn: int
    by_bytes: bool
    remote: bool
    unreadable: Range  # sources
    hours: Range
    clips: Range
    kept: Range
    kept_hours: Range
    stages: list[Stage]
    filters: dict[str, float]  # -> share of the milliseconds of measuring
    reasons: dict[str, float]  # rule or error -> clips of all sources that it costs
    machines: Machines

    @property
    def held_gpus(self) -> float:
        return self.machines.gpus or max(stage.gpus * stage.workers for stage in self.stages)

    @property
    def held_cores(self) -> float:
        return max(stage.cpus * self.machines.workers for stage in self.stages)

    @property
    def wall(self) -> float:
        return sum(stage.wall for stage in self.stages)

    @property
    def bottleneck(self) -> Stage:
        return max(self.stages, key=lambda stage: stage.wall)

    @property
    def cost_of_work(self) -> float:
        cores = sum(stage.core_hours for stage in self.stages) * self.machines.core_price
        return cores + sum(stage.gpu_hours for stage in self.stages) * self.machines.gpu_price

    @property
    def cost_when_held(self) -> float:
        """When all cores and GPUs are paid for from the first minute to the last."""
        hourly = self.held_cores * self.machines.core_price + self.held_gpus * self.machines.gpu_price
        return self.wall / 3600 * hourly


def plan(
    sources: Sequence[str],
    sample: int,
    seed: int,
    recipe: str,
    policy: str,
    keep: str,
    machines: Machines,
    console: Console,
) -> Forecast:
    """Curate `sample` of the sources, drawn at random, into `keep`/dataset, and say what all of them would take."""
    if sample < 1:
        raise UsageError("--sample: at least one source. 50 tell enough of most collections.")
    if not keep and os.environ.get("RAY_ADDRESS"):
        raise UsageError("RAY_ADDRESS names a cluster: give a folder that all its nodes see with --keep.")
    items = list(expand(sources))
    if not items:
        raise UsageError(f"{', '.join(sources) or 'Nothing'}: no sources to plan for.")
    bytes_of_all = sizes(items)
    picked = draw(items, sample, seed)
    console.print(f"Curating {len(picked)} of {len(items):,} sources, drawn at random.")
    with nullcontext(keep) if keep else tempfile.TemporaryDirectory(prefix="s2v-plan-") as folder:
        folder = os.path.abspath(folder)
        settings = rehearse(folder, [items[i] for i in picked], recipe, policy, console)
        resources = settings.recipe.cpus, settings.recipe.gpus
        return forecast(folder, items, picked, bytes_of_all, resources, machines)


def forecast(
    folder: str,
    items: Sequence[Item],
    picked: Sequence[int],
    bytes_of_all: np.ndarray | None,
    resources: tuple[float, float],
    machines: Machines,
) -> Forecast:
    """From a rehearsed sample. resources: cores and GPUs of a worker that measures."""
    drawn = Drawn(folder, [items[i].uri for i in picked])
    weights = bytes_of_all if bytes_of_all is not None else np.ones(len(items))
    sample = Sample(weights[list(picked)], float(weights.sum()), len(items))
    reads = drawn.reads(sample.sizes) if bytes_of_all is not None else {}
    cpus, gpus = resources
    with_gpu = machines.workers
    if gpus and machines.gpus:
        with_gpu = max(1, min(machines.workers, int(machines.gpus / gpus)))
    stages = [
        Stage(
            name,
            sample.range(drawn.seconds(name)),
            cpus,
            gpus if name == "measure" else 0.0,
            with_gpu if name == "measure" else machines.workers,
            sample.estimate(reads[name]) if reads else None,
        )
        for name in STAGES
    ]
    return Forecast(
        len(items),
        len(picked),
        bytes_of_all is not None,
        drawn.remote,
        sample.range(drawn.unreadable, np.ones(len(picked))),
        sample.range(drawn.total("seconds")).times(1 / 3600),
        sample.range(drawn.total("one")),
        sample.range(drawn.total("kept"), drawn.total("one")),
        sample.range(drawn.total("kept_seconds"), drawn.total("seconds")).times(1 / 3600),
        stages,
        drawn.filters(),
        {reason: sample.estimate(drawn.total(f"why:{reason}")) for reason in drawn.reasons},
        machines,
    )


class Drawn:
    """What is known of the sources that were tried, a number a source, in their order."""

    def __init__(self, folder: str, sources: Sequence[str]):
        dataset = f"{folder}/{DATASET}"
        self.sources = sources
        self.remote = any("://" in source for source in sources)
        self.costs = costs(folder).read().to_pylist()
        self.scores = read(dataset, SCORES, ["clip_id", "ms", "opens"]).to_pylist()
        failures = read(dataset, FAILURES).to_pylist()
        failed = {row["source"] for row in failures if row["stage"] == "ingest" and not row["error"].startswith(SAME)}
        self.unreadable = np.array([source in failed for source in sources], float)
        self.clips = clip_rows(dataset, {row["key"]: row["stage"] for row in failures if row["clip_id"]})
        opens = {row["clip_id"]: row["opens"] for row in self.scores}
        for clip in self.clips:
            clip["opens"] = opens.get(clip["clip_id"], 0)
        self.reasons = sorted({key[4:] for clip in self.clips for key in clip if key.startswith("why:")})

    def total(self, name: str) -> np.ndarray:
        """The sum of a number over the clips of each source."""
        sums: Counter[str] = Counter()
        for clip in self.clips:
            sums[clip["source"]] += clip.get(name, 0)
        return np.array([sums[source] for source in self.sources], float)

    def seconds(self, stage: str) -> np.ndarray:
        """What a worker spent on each source. Those of a stop between work and note get what the others took."""
        rows = [row for row in self.costs if row["stage"] == stage]
        noted = sum(row["done"] for row in rows)
        done = {"ingest": len(self.sources), "measure": len(self.clips), "pack": int(self.total("kept").sum())}[stage]
        missed = max(1.0, done / noted) if noted else 1.0
        if stage == "pack":  # shards mix sources: by what they hold of each
            held = self.total("kept_seconds")
            return missed * held * sum(row["seconds"] for row in rows) / max(held.sum(), 1e-9)
        sums: Counter[str] = Counter()
        for row in rows:
            sums[row["source"]] += row["seconds"]
        return missed * np.array([sums[source] for source in self.sources])

    def reads(self, size: np.ndarray) -> dict[str, np.ndarray]:
        """Stage -> bytes read of each source. A small one from elsewhere is copied for every pass and every kept clip;
        of a large one the clips are read, and a few blocks to find each."""
        opens, kept = self.total("opens"), self.total("kept")
        share = self.total("kept_seconds") / np.maximum(self.total("seconds"), 1e-9)
        measured, packed = size * np.minimum(opens, 1), size * share
        if self.remote:
            small = size < LARGE
            measured = np.where(small, size * opens, measured + FINDING * opens)
            packed = np.where(small, size * kept, packed + FINDING * kept)
        return {"ingest": size, "measure": measured, "pack": packed}

    def filters(self) -> dict[str, float]:
        sums: Counter[str] = Counter()
        for row in self.scores:
            for name, ms in row["ms"] or ():
                sums[name] += ms
        total = sum(sums.values()) or 1.0
        return {name: ms / total for name, ms in sums.most_common()}


def clip_rows(dataset: str, failed: dict[str, str]) -> list[dict[str, Any]]:
    """A clip a row: source, seconds, what is kept, and `why:REASON` of what isn't. failed: clip id -> stage."""
    verdicts = {row["clip_id"]: row for row in read(dataset, VERDICTS).to_pylist()}
    found = read(dataset, CLIPS, ["clip_id", "source", "start", "end"]).to_pylist()
    for clip in found:
        verdict = verdicts.get(clip["clip_id"])
        kept = bool(verdict and verdict["keep"] and clip["clip_id"] not in failed)
        seconds = clip["end"] - clip["start"]
        clip |= {"one": 1, "seconds": seconds, "kept": int(kept), "kept_seconds": seconds * kept}
        if clip["clip_id"] in failed:
            clip[f"why:failed in {failed[clip['clip_id']]}"] = 1
        elif verdict and not kept:
            clip[f"why:{verdict['reasons'][0]['score']}"] = 1
    return found

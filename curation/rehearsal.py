"""Curate a random sample of sources for real, one task a source, and keep what each task took."""

import json
import os
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
from rich.console import Console

from captioning.settings import Captioning
from curation import ingest, measure, pack
from curation.layout import CLIPS, stored_rows
from curation.policy import Policy
from curation.recipe import Recipe, ensure_weights
from curation.run import Settings, forget_failures, look_for_gpus, run_stage, settle, write_settings
from curation.score_rows import ScoreRows
from curation.select import select
from curation.sources import Item
from curation.stored import NotADataset
from curation.stored import settings as stored_settings
from dataset.errors import UsageError
from dataset.records import Clip
from dataset.stage import Resources, Worker, start_ray
from dataset.tables import Table, part_name, write_atomically

SAMPLE, DATASET, COSTS = "sample.jsonl", "dataset", "costs"
APART = 10**9  # workers that tasks are made for: so many that each gets one source
SHARD_CLIPS = 4  # of the sample: enough shards to keep all workers busy
NOTHING = Item(os.devnull)


def draw(items: Sequence[Item], count: int, seed: int) -> list[int]:
    """Indices of the sources to try: the same for the same sources, count and seed."""
    return sorted(random.Random(seed).sample(range(len(items)), min(count, len(items))))


def hold(folder: str, sample: Sequence[Item]) -> None:
    """Write the sample down. Raises UsageError where the folder holds another one."""
    manifest = Path(folder) / SAMPLE
    text = "".join(json.dumps({"path": item.uri, "caption": item.caption}) + "\n" for item in sample)
    if manifest.exists() and manifest.read_text() != text:
        raise UsageError(
            f"--keep {folder} holds another sample: of other sources, or with another --sample or --seed. "
            "Give what was given then, or another folder."
        )
    write_atomically(folder, SAMPLE, text.encode())


def rehearse(folder: str, sample: Sequence[Item], recipe: str, policy: str, console: Console) -> Settings:
    """Curate the sample into `folder`/dataset without captions; go on where an earlier try was stopped."""
    hold(folder, sample)
    dataset = f"{folder}/{DATASET}"
    settings = settle([f"{folder}/{SAMPLE}"], dataset, recipe, policy)
    chosen = settings.recipe.model_copy(update={"captioning": Captioning()})
    chain, rows = chosen.build(), ScoreRows(chosen, settings.policy)
    settings.policy.check({f.name(): type(f) for f in chain})
    ensure_weights(chain)
    same(dataset, chosen, settings.policy)
    write_settings(dataset, chosen, settings.policy)
    start_ray()
    look_for_gpus(settings)
    resources, measuring = Resources(chosen.cpus), Resources(chosen.cpus, chosen.gpus)
    forget_failures(dataset, everything=False)

    def stage(name: str, unit: str, work: Callable[[], Worker], tasks: list[Any], warm: Warm, on: Resources) -> None:
        make = partial(Timed, folder, name.lower(), work, warm)
        run_stage(name, unit, make, tasks, sum(map(size, tasks)), on, console)

    reading = partial(ingest.IngestWorker, dataset, chosen, settings.policy)
    stage("Ingest", "sources", reading, ingest.plan(dataset, sample, APART), warm_ingest, resources)
    ingest.drop_copies(dataset)
    judging = partial(measure.MeasureWorker, dataset, chosen, settings.policy)
    stage("Measure", "clips", judging, measure.plan(dataset, rows, APART), warm_measure, measuring)
    select(dataset, settings.policy, [f.name() for f in chain])
    small = chosen.model_copy(update={"shard_clips": SHARD_CLIPS})
    writing = partial(pack.PackWorker, dataset, small)
    shards = pack.plan(dataset, small)
    stage("Pack", "clips", writing, shards.write, warm_pack, resources)
    pack.finish(dataset, shards.remove)
    return settings


def same(dataset: str, recipe: Recipe, policy: Policy) -> None:
    """Raises UsageError where the sample was curated otherwise: its costs would be those of two recipes."""
    try:
        before = stored_settings(dataset)
    except NotADataset:
        return
    if before != (recipe, policy):
        raise UsageError("--keep holds a sample of another recipe or policy: give another folder.")


def size(task: Any) -> int:
    return len(task if isinstance(task, list) else task.clips)


# ---------------------------------------------------------------- what a task took

Warm = Callable[[Any, Any], object]  # worker, its first task


@dataclass(frozen=True)
class Cost:
    """A row of `costs/`: what one worker spent on one task. source: whose it was; of a shard: none."""

    task: str
    stage: str
    source: str | None
    done: int
    seconds: float


@dataclass
class Timed:
    """A worker that writes down how long each task took, without what it takes to start: that is once a worker."""

    folder: str
    stage: str
    make: Callable[[], Worker]
    warm: Warm
    worker: Worker = field(init=False)
    warmed: bool = False

    def __post_init__(self) -> None:
        self.worker = self.make()

    def __call__(self, task: Any) -> dict[str, int]:
        if not self.warmed:
            self.warm(self.worker, task)
            self.warmed = True
        began = time.monotonic()
        result = self.worker(task)
        seconds = time.monotonic() - began
        name = f"{self.stage}:{key(task)}"
        cost = Cost(name, self.stage, self.source(task), result["done"], seconds)
        costs(self.folder).write(pa.Table.from_pylist([asdict(cost)], schema=COLUMNS), part_name([name]))
        return result

    def source(self, task: Any) -> str | None:
        if isinstance(task, list):
            return task[0].uri
        if not isinstance(task, measure.Part):
            return None
        rows = stored_rows(self.worker.dataset, CLIPS, task.homes, task.clips[:1])  # type: ignore[attr-defined]
        return next(iter(rows.values()))["source"]


COLUMNS = pa.schema(
    [
        ("task", pa.string()),
        ("stage", pa.string()),
        ("source", pa.string()),
        ("done", pa.int64()),
        ("seconds", pa.float64()),
    ]
)


def costs(folder: str) -> Table:
    return Table(folder, COSTS, key="task")


def key(task: Any) -> str:
    return part_name(item.uri for item in task) if isinstance(task, list) else task.name


def warm_ingest(worker: ingest.IngestWorker, task: list[Item]) -> object:
    return worker.ingest(NOTHING)


def warm_measure(worker: measure.MeasureWorker, task: measure.Part) -> object:
    """The networks are loaded by the first clip that needs them: measure one, and forget it."""
    (row,) = stored_rows(worker.dataset, CLIPS, task.homes, task.clips[:1]).values()
    return worker.measure([worker.rows.job(Clip.model_validate(row), None, None)])


def warm_pack(worker: pack.PackWorker, task: pack.Shard) -> object:
    (row,) = stored_rows(worker.dataset, CLIPS, task.homes, task.clips[:1]).values()
    return worker.cut(Clip.model_validate(row).model_copy(update={"source": os.devnull}))

"""Curate a random sample of sources for real, one task a source, and keep what each task took."""

import json
import os
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
from rich.console import Console

from captioning.settings import Captioning
from curation import ingest, measure, pack
from curation.layout import CLIPS, stored_rows
from curation.policy import Policy
from curation.recipe import Recipe
from curation.run import Settings, checked, prepare, settle
from curation.sources import Item
from curation.stages import run_stage, stages
from curation.stored import NotADataset
from curation.stored import settings as stored_settings
from dataset.errors import UsageError
from dataset.records import Clip
from dataset.stage import Worker
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
    chosen = settings.recipe.model_copy(update={"captioning": Captioning(), "shard_clips": SHARD_CLIPS})
    same(dataset, chosen, settings.policy)
    prepare(replace(settings, recipe=chosen), checked(chosen, settings.policy), console)
    for stage in stages(dataset, chosen, settings.policy, sample, lambda _: APART, console):
        timed = partial(Timed, folder, stage.title.lower(), stage.make)
        run_stage(replace(stage, make=timed), console)
    return settings


def same(dataset: str, recipe: Recipe, policy: Policy) -> None:
    """Raises UsageError where the sample was curated otherwise: its costs would be those of two recipes."""
    try:
        before = stored_settings(dataset)
    except NotADataset:
        return
    if before != (recipe, policy):
        raise UsageError("--keep holds a sample of another recipe or policy: give another folder.")


# ---------------------------------------------------------------- what a task took


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
    worker: Worker = field(init=False)
    warmed: bool = False

    def __post_init__(self) -> None:
        self.worker = self.make()

    def __call__(self, task: Any) -> dict[str, int]:
        if not self.warmed:
            WARM[self.stage](self.worker, task)
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


WARM: dict[str, Callable[[Any, Any], object]] = {"ingest": warm_ingest, "measure": warm_measure, "pack": warm_pack}

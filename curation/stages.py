"""The stages of curation in their order. Each is planned when those before it are done."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from rich.console import Console
from rich.markup import escape

from captioning.preflight import preflight
from captioning.protocol import key_from_environment
from curation import caption, ingest, measure, pack
from curation.layout import SOURCES
from curation.policy import Policy
from curation.recipe import Recipe
from curation.score_rows import ScoreRows
from curation.select import select
from curation.sources import Item
from dataset.progress import progress
from dataset.stage import Resources, Worker, run_tasks, worker_count
from dataset.tables import write_atomically


@dataclass(frozen=True)
class Stage:
    """title, unit: on the terminal. tasks: what is left to do, each one a list of sources or with `clips`."""

    title: str
    unit: str
    make: Callable[[], Worker]
    tasks: Sequence[Any]
    on: Resources


def stages(
    dataset: str,
    recipe: Recipe,
    policy: Policy,
    items: Sequence[Item],
    workers: Callable[[Resources], int],
    console: Console,
) -> Iterator[Stage]:
    """From sources to shards, with what the driver does alone in between. workers: how many tasks are made for."""
    cores, measuring = Resources(recipe.cpus), Resources(recipe.cpus, recipe.gpus)
    plan = ingest.plan(dataset, items, workers(cores))
    write_atomically(dataset, SOURCES, f"count: {plan.total}\n".encode())  # for those who look on
    yield Stage("Ingest", "sources", partial(ingest.IngestWorker, dataset, recipe, policy), plan.groups, cores)
    if copies := ingest.drop_copies(dataset):
        console.print(f"  {copies} sources hold the same bytes as another one and are left out")
    rows = ScoreRows(recipe, policy)
    judging = partial(measure.MeasureWorker, dataset, recipe, policy)
    yield Stage("Measure", "clips", judging, measure.plan(dataset, rows, workers(measuring)), measuring)
    select(dataset, policy, [f.name() for f in rows.chain])
    if recipe.captioning.servers:
        yield from caption_stages(dataset, recipe, console)
    yield from pack_stage(dataset, recipe)


def caption_stages(dataset: str, recipe: Recipe, console: Console, *, again: bool = False) -> Iterator[Stage]:
    """Captions, then clips that may be what ends servers. again: make those that answer another question again, too."""
    settings = recipe.captioning
    if not again and not caption.plan(dataset, 1):
        console.print("[bold]Caption [/] nothing to do")
        return
    key = key_from_environment()
    ready = preflight(settings, key)
    for url in ready.down:
        console.print(f"[yellow]{escape(url)} does not answer[/]: the others do its work until it does.")
    resources = Resources(recipe.cpus, most=settings.concurrency)  # each has a slot of each server, at least
    asked = caption.question(settings, ready.model)
    redone = asked if again else None
    parts = caption.plan(dataset, worker_count(resources), again=redone)
    limit, at_once = caption.shares(settings, parts, worker_count(resources))
    make = partial(caption.CaptionWorker, dataset, recipe, ready, limit, key)
    yield Stage("Caption", "clips", make, parts, replace(resources, tasks=at_once))
    if suspects := caption.plan(dataset, 1, again=redone):
        console.print("         servers went down twice under some clips: each is asked about with nothing beside it")
        doubtful = replace(ready, down=settings.servers)  # each must pass a trial: some have just gone down
        make = partial(caption.CaptionWorker, dataset, recipe, doubtful, 1, key, alone=True)
        yield Stage("Caption", "clips", make, suspects, Resources(recipe.cpus, most=1))
    if others := caption.others(dataset, asked):
        console.print(f"         {others:,} captions answer another prompt, model or sight: --again makes them again")


def pack_stage(dataset: str, recipe: Recipe) -> Iterator[Stage]:
    plan = pack.plan(dataset, recipe)
    yield Stage("Pack", "clips", partial(pack.PackWorker, dataset, recipe), plan.write, Resources(recipe.cpus))
    pack.finish(dataset, plan.remove)


def run_stage(stage: Stage, console: Console) -> None:
    if not stage.tasks:
        console.print(f"[bold]{stage.title:8}[/] nothing to do")
        return
    total, failed, filters = sum(map(size, stage.tasks)), 0, 0
    with progress(console) as bar:
        line = bar.add_task(f"[bold]{stage.title:8}[/]", total=total, unit=stage.unit, failed="")
        for result in run_tasks(stage.make, stage.tasks, stage.on, stage.title):
            failed += result["failed"]
            filters += result.get("filters", 0)
            bar.update(line, advance=result["done"], failed=f"[yellow]{failed} failed[/]" if failed else "")
    if filters:
        console.print(f"         {filters:,} filter measurements, of {total:,} clips")


def size(task: Any) -> int:
    return len(task if isinstance(task, list) else task.clips)

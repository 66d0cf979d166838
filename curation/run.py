"""`s2v curate`: the stages one after the other, each doing only what is not done yet."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import pyarrow.compute as pc
import ray
import yaml
from rich.console import Console
from rich.markup import escape

from captioning.frames import Sight
from captioning.preflight import preflight
from captioning.protocol import key_from_environment
from captioning.settings import Captioning
from curation import caption, ingest, measure, pack
from curation.layout import CAPTIONS, FAILURES, save, table
from curation.policy import Policy, load_policy
from curation.recipe import Recipe, absolute, ensure_weights, load_recipe
from curation.report import write_report
from curation.score_rows import ScoreRows
from curation.select import select
from curation.sources import expand
from curation.status import status
from curation.stored import NotADataset
from curation.stored import settings as stored_settings
from dataset.config import parse
from dataset.errors import RunError, UsageError
from dataset.progress import progress
from dataset.stage import Resources, run_tasks, start_ray, worker_count
from dataset.tables import write_atomically


@dataclass(frozen=True)
class Settings:
    """Everything a curation run is told."""

    sources: list[str]
    dataset: str
    recipe: Recipe
    policy: Policy
    address: str | None = None
    dashboard: bool = False
    limit: int | None = None
    retry_failed: bool = False


def settle(sources: list[str], dataset: str, recipe: str, policy: str, servers: Sequence[str] = ()) -> Settings:
    """Settings from what the user typed; what was left out is taken from the dataset, if there is one already."""
    chosen = load_recipe(recipe) if recipe else stored_recipe(dataset) or load_recipe("embedded")
    if policy:
        chosen = chosen.model_copy(update={"policy": absolute(policy)})
    if servers:
        chosen = chosen.model_copy(update={"captioning": changed(chosen.captioning, {"servers": servers})})
    place = dataset if "://" in dataset else os.path.abspath(dataset)  # workers may stand in another directory
    return Settings(sources, place, chosen, load_policy(chosen.policy))


def curate(settings: Settings, console: Console) -> None:
    """Run all stages. A run that was stopped at any point goes on where it was."""
    dataset, recipe, policy = settings.dataset, settings.recipe, settings.policy
    chain = recipe.build()
    policy.check({f.name(): type(f) for f in chain})
    items = list(expand(settings.sources))[: settings.limit]
    ensure_weights(chain)
    look_for_servers(dataset, recipe, console)
    write_settings(dataset, recipe, policy)
    start_ray(settings.address, dashboard=settings.dashboard)
    look_for_gpus(settings)
    resources, measuring = Resources(recipe.cpus), Resources(recipe.cpus, recipe.gpus)
    workers = worker_count(resources)
    forget_failures(dataset, everything=settings.retry_failed)

    groups = ingest.plan(dataset, items, workers)
    total = sum(len(g) for g in groups)
    make_ingest = partial(ingest.IngestWorker, dataset, recipe, policy)
    run_stage("Ingest", "sources", make_ingest, groups, total, resources, console)
    copies = ingest.drop_copies(dataset)
    if copies:
        console.print(f"  {copies} sources hold the same bytes as another one and are left out")

    rows = ScoreRows(recipe, policy)
    parts = measure.plan(dataset, rows, worker_count(measuring))
    total = sum(len(p.clips) for p in parts)
    make = partial(measure.MeasureWorker, dataset, recipe, policy)
    run_stage("Measure", "clips", make, parts, total, measuring, console)

    select(dataset, policy, [f.name() for f in chain])
    if recipe.captioning.servers:
        caption_clips(dataset, recipe, console)
    pack_clips(dataset, recipe, console)


def caption_dataset(
    dataset: str, changes: dict[str, Any], console: Console, *, address: str | None, again: bool, retry_failed: bool
) -> None:
    """`s2v caption`: caption the kept clips of a dataset, and put the captions into its shards."""
    dataset = dataset if "://" in dataset else os.path.abspath(dataset)
    recipe = stored_settings(dataset)[0]
    recipe = recipe.model_copy(update={"captioning": changed(recipe.captioning, changes)})
    if not recipe.captioning.servers:
        raise UsageError("No caption server: name one with --server http://HOST:8000. `s2v caption serve` starts one.")
    start_ray(address)
    forget_failures(dataset, everything=retry_failed, stage="caption")
    caption_clips(dataset, recipe, console, again=again)
    pack_clips(dataset, recipe, console)


def changed(settings: Captioning, changes: dict[str, Any]) -> Captioning:
    """Settings with what the user typed; those of `sight` may be named like the others."""
    sight = {name: value for name, value in changes.items() if name in Sight.model_fields}
    rest = {name: value for name, value in changes.items() if name not in sight}
    data = settings.model_dump() | rest | {"sight": settings.sight.model_dump() | sight}
    return parse(Captioning, data, "captioning")


def look_for_gpus(settings: Settings) -> None:
    """Ray would wait for ever on a machine without one. A cluster may still start a node that has some."""
    elsewhere = settings.address or os.environ.get("RAY_ADDRESS")
    if settings.recipe.gpus and not elsewhere and not ray.cluster_resources().get("GPU"):
        raise RunError(
            f"Recipe '{settings.recipe.name}' wants {settings.recipe.gpus:g} of a GPU for each worker; there is "
            "none here. Name a cluster with --address, or copy the recipe and set `gpus: 0`: CPUs do it, very slowly."
        )


def look_for_servers(dataset: str, recipe: Recipe, console: Console) -> None:
    """Before days of measuring: servers that would refuse every clip end the run now. Absent ones may come up yet."""
    if not recipe.captioning.servers or (table(dataset, CAPTIONS).parts() and not caption.plan(dataset, 1)):
        return
    try:
        preflight(recipe.captioning, key_from_environment())
    except RunError as e:
        console.print(f"[yellow]{escape(str(e))}[/] It is needed when the clips are measured.")


def caption_clips(dataset: str, recipe: Recipe, console: Console, *, again: bool = False) -> None:
    """The stage between select and pack. again: make captions that answer another question again, too."""
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
    resources = replace(resources, tasks=at_once)
    make = partial(caption.CaptionWorker, dataset, recipe, ready, limit, key)
    run_stage("Caption", "clips", make, parts, sum(len(p.clips) for p in parts), resources, console)
    if suspects := caption.plan(dataset, 1, again=redone):
        console.print("         servers went down twice under some clips: each is asked about with nothing beside it")
        doubtful = replace(ready, down=settings.servers)  # each must pass a trial: some have just gone down
        make = partial(caption.CaptionWorker, dataset, recipe, doubtful, 1, key, alone=True)
        total = sum(len(p.clips) for p in suspects)
        run_stage("Caption", "clips", make, suspects, total, Resources(recipe.cpus, most=1), console)
    if others := caption.others(dataset, asked):
        console.print(f"         {others:,} captions answer another prompt, model or sight: --again makes them again")


def pack_clips(dataset: str, recipe: Recipe, console: Console) -> None:
    """The last stage, and what there is to look at afterwards."""
    plan = pack.plan(dataset, recipe)
    total = sum(len(s.clips) for s in plan.write)
    resources = Resources(recipe.cpus)
    run_stage("Pack", "clips", partial(pack.PackWorker, dataset, recipe), plan.write, total, resources, console)
    pack.finish(dataset, plan.remove)
    status(dataset, console)
    console.print(escape(f"Report: {write_report(dataset)}"), soft_wrap=True)


def reselect(dataset: str, policy_name: str, console: Console) -> None:
    """`s2v select`: judge again from stored scores, and remember the policy."""
    policy = load_policy(policy_name)
    recipe = stored_settings(dataset)[0].model_copy(update={"policy": absolute(policy_name)})
    chain = recipe.build()
    policy.check({f.name(): type(f) for f in chain})
    write_settings(dataset, recipe, policy)
    select(dataset, policy, [f.name() for f in chain])
    status(dataset, console)
    parts = measure.plan(dataset, ScoreRows(recipe, policy), 1)
    waiting = sum(len(p.clips) for p in parts)
    if waiting:
        console.print(f"{waiting:,} clips may need more measuring under this policy: run the same `s2v curate` again.")
    console.print(escape(f"Report: {write_report(dataset)}"), soft_wrap=True)


def stored_recipe(dataset: str) -> Recipe | None:
    """The recipe that the dataset was made with; None: there is no dataset yet."""
    try:
        return stored_settings(dataset)[0]
    except NotADataset:
        return None


def write_settings(dataset: str, recipe: Recipe, policy: Policy) -> None:
    """The exact configuration, beside the data."""
    for name, model in (("recipe.yaml", recipe), ("policy.yaml", policy)):
        text = yaml.safe_dump(model.model_dump(mode="json", exclude_none=True), sort_keys=False, allow_unicode=True)
        try:
            write_atomically(dataset, name, text.encode())
        except OSError as e:
            raise RunError(f"Can't write to {dataset}: {e.strerror or e}. Choose another --out, or free space.") from e


def forget_failures(dataset: str, *, everything: bool, stage: str | None = None) -> None:
    """Remove the failures (of one stage) that this run tries again: the transient ones, or all."""
    failures = table(dataset, FAILURES)
    for name in failures.parts():
        rows = failures.read_part(name)
        again = rows["transient"].to_numpy() | everything
        if stage:
            again &= pc.equal(rows["stage"], stage).to_numpy()
        if again.any():
            save(failures, rows.filter(~again), name)


def run_stage(
    title: str,
    unit: str,
    make: Callable[[], Callable[[Any], dict[str, int]]],
    tasks: list[Any],
    total: int,
    resources: Resources,
    console: Console,
) -> None:
    if not tasks:
        console.print(f"[bold]{title:8}[/] nothing to do")
        return
    failed, filters = 0, 0
    with progress(console) as bar:
        line = bar.add_task(f"[bold]{title:8}[/]", total=total, unit=unit, failed="")
        for result in run_tasks(make, tasks, resources, title):
            failed += result["failed"]
            filters += result.get("filters", 0)
            bar.update(line, advance=result["done"], failed=f"[yellow]{failed} failed[/]" if failed else "")
    if filters:
        console.print(f"         {filters:,} filter measurements, of {total:,} clips")


def describe(settings: Settings, console: Console) -> None:
    """`--dry-run`: check recipe, policy, weights and sources, and say what is left to do. Starts and writes nothing."""
    chain = settings.recipe.build()
    settings.policy.check({f.name(): type(f) for f in chain})
    items = list(expand(settings.sources))[: settings.limit]
    ensure_weights(chain)
    console.print(f"Recipe [bold]{settings.recipe.name}[/]: {' > '.join(f.name() for f in chain)}")
    console.print(f"Policy [bold]{settings.policy.name}[/]: {len(settings.policy.rules)} rules")
    new = sum(len(group) for group in ingest.plan(settings.dataset, items, 1))
    parts = measure.plan(settings.dataset, ScoreRows(settings.recipe, settings.policy), 1)
    console.print(f"{len(items):,} sources, {new:,} of them not ingested yet")
    console.print(f"{sum(len(p.clips) for p in parts):,} known clips to measure, or to measure further")

"""`s2v curate`, `s2v caption` and `s2v select`: what stands before the stages, and after them."""

import itertools
import os
from collections.abc import Sequence
from dataclasses import dataclass
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
from curation import caption, ingest, measure
from curation.layout import CAPTIONS, FAILURES, save, table
from curation.policy import Policy, load_policy
from curation.recipe import Recipe, absolute, ensure_weights, load_recipe
from curation.report import write_report
from curation.score_rows import ScoreRows
from curation.select import select
from curation.sources import expand
from curation.stages import caption_stages, pack_stage, run_stage, stages
from curation.status import status
from curation.stored import NotADataset
from curation.stored import settings as stored_settings
from dataset.config import parse
from dataset.errors import RunError, UsageError
from dataset.stage import start_ray, worker_count
from dataset.tables import write_atomically
from filters.base import Filter


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
    chain = checked(recipe, policy)
    items = list(expand(settings.sources))[: settings.limit]
    prepare(settings, chain, console)
    for stage in stages(dataset, recipe, policy, items, worker_count, console):
        run_stage(stage, console)
    show(dataset, console)


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
    captioning = caption_stages(dataset, recipe, console, again=again)
    for stage in itertools.chain(captioning, pack_stage(dataset, recipe)):
        run_stage(stage, console)
    show(dataset, console)


def checked(recipe: Recipe, policy: Policy) -> list[Filter]:
    """The filters of the recipe. Raises UsageError for a policy with rules on others."""
    chain = recipe.build()
    policy.check({f.name(): type(f) for f in chain})
    return chain


def prepare(settings: Settings, chain: list[Filter], console: Console) -> None:
    """What is done before the first stage, above all what tells early that a run would fail."""
    dataset, recipe = settings.dataset, settings.recipe
    ensure_weights(chain)
    look_for_servers(dataset, recipe, console)
    write_settings(dataset, recipe, settings.policy)
    start_ray(settings.address, dashboard=settings.dashboard)
    look_for_gpus(settings)
    forget_failures(dataset, everything=settings.retry_failed)


def show(dataset: str, console: Console) -> None:
    status(dataset, console)
    console.print(escape(f"Report: {write_report(dataset)}"), soft_wrap=True)


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


def reselect(dataset: str, policy_name: str, console: Console) -> None:
    """`s2v select`: judge again from stored scores, and remember the policy."""
    policy = load_policy(policy_name)
    recipe = stored_settings(dataset)[0].model_copy(update={"policy": absolute(policy_name)})
    chain = checked(recipe, policy)
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


def describe(settings: Settings, console: Console) -> None:
    """`--dry-run`: check recipe, policy, weights and sources, and say what is left to do. Starts and writes nothing."""
    chain = checked(settings.recipe, settings.policy)
    items = list(expand(settings.sources))[: settings.limit]
    ensure_weights(chain)
    console.print(f"Recipe [bold]{settings.recipe.name}[/]: {' > '.join(f.name() for f in chain)}")
    console.print(f"Policy [bold]{settings.policy.name}[/]: {len(settings.policy.rules)} rules")
    new = sum(map(len, ingest.plan(settings.dataset, items, 1).groups))
    parts = measure.plan(settings.dataset, ScoreRows(settings.recipe, settings.policy), 1)
    console.print(f"{len(items):,} sources, {new:,} of them not ingested yet")
    console.print(f"{sum(len(p.clips) for p in parts):,} known clips to measure, or to measure further")

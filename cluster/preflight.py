"""`s2v preflight`: is everything there that a run will need, on every node, before the money burns?"""

import os
import socket
import time
import uuid
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from botocore.exceptions import BotoCoreError
from rich.console import Console
from rich.markup import escape

from captioning.protocol import key_from_environment
from cluster.checks.node import Answer, Asked, compare, look
from cluster.checks.store import leave_mark, sweep
from cluster.hand_in import hand_in
from cluster.job import Backend, Job, State, default_name
from cluster.places import backend
from cluster.preflight_report import show
from cluster.settings import Cluster, Place, Training
from curation.recipe import Recipe, load_recipe
from curation.run import changed, stored_recipe
from dataset.errors import RunError, UsageError
from dataset.stage import start_ray

RUN = "run.json"  # in the folder of a training run
LINES = 2000  # of a job's log
PAUSE = 3.0  # seconds between two looks at a job


def preflight(
    recipe: str,
    home: str,
    to: Place,
    cluster: Cluster,
    console: Console,
    servers: Sequence[str] = (),
    *,
    train: bool = False,
) -> bool:
    """Check and print. Returns whether nothing is bad.

    recipe '': the dataset's, or the default; none for training. home: a dataset or run, '' for neither. to: `local`
    looks at this machine, or at every node of the Ray cluster that RAY_ADDRESS names, as in a job; other places get a
    job that does so. train: it is for training, as always where home is a run.
    """
    train = train or (not recipe and bool(home) and os.path.exists(f"{home}/{RUN}"))
    if train and (recipe or servers):
        raise UsageError("--train: training has no recipe and no caption servers.")
    training = cluster.training if train else None
    if to != "local":
        return elsewhere(as_job(recipe, home, servers, training), to, cluster, console)
    home = home if not home or "://" in home else os.path.abspath(home)
    wanted = None if train else recipe_of(recipe, home, servers)
    asked = Asked(wanted, home, uuid.uuid4().hex[:8], key_from_environment(), training=training)
    try:
        answers, ahead = ask(asked)
    finally:
        with suppress(Exception):  # a place that can't be written to; the checks say so
            sweep(home, asked.token)
    return show(compare(answers, ahead, wanted), console)


def ask(asked: Asked) -> tuple[list[Answer], dict[str, float]]:
    """What the nodes say, and how many seconds their clocks are ahead."""
    if not os.environ.get("RAY_ADDRESS"):
        return [look(asked, socket.gethostname())], {}
    from cluster.nodes import everywhere  # Ray, which one machine does without

    start_ray()
    if asked.home:
        with suppress(Exception):  # as above
            leave_mark(asked.home, asked.token)
            asked = replace(asked, marked=True)
    return everywhere(asked)


def recipe_of(name: str, home: str, servers: Sequence[str]) -> Recipe:
    recipe = load_recipe(name) if name else recipe_at(home) or load_recipe("embedded")
    return (
        recipe.model_copy(update={"captioning": changed(recipe.captioning, {"servers": servers})})
        if servers
        else recipe
    )


def recipe_at(home: str) -> Recipe | None:
    try:
        return stored_recipe(home) if home else None
    except (OSError, BotoCoreError):  # a store that doesn't let us in; the checks say so
        return None


# ---------------------------------------------------------------- elsewhere


def as_job(recipe: str, home: str, servers: Sequence[str], training: Training | None = None) -> Job:
    """`s2v preflight` with the same arguments, as a job of the place that is to be looked at."""
    file = Path(recipe).absolute() if Path(recipe).is_file() else None
    place = os.path.abspath(home) if home and "://" not in home else home
    words = [place] if place else []
    words += ["--recipe", str(file or recipe)] if recipe else []
    words += [word for server in servers for word in ("--caption-server", server)]
    if training:
        sizes = {"nodes": training.nodes, "gpus_per_node": training.gpus_per_node}
        words += ["--train", *(word for key, n in sizes.items() for word in ("--with", f"training.{key}={n}"))]
    return Job("preflight", default_name("preflight", place), ("preflight", *words), place, (file,) if file else ())


def elsewhere(job: Job, to: Place, cluster: Cluster, console: Console) -> bool:
    """Hand the job in, wait for it, and print what it printed."""
    there = backend(to, cluster)
    job_id = hand_in(job, to, cluster, there)
    return follow(there, job_id, console)


def follow(there: Backend, job_id: str, console: Console) -> bool:
    """Wait until a job has ended and print its log. Returns whether it succeeded. Ctrl-C ends it."""
    try:
        with console.status(f"{job_id} is handed in") as status:
            condition = there.condition(job_id)
            while not condition.ended:
                status.update(escape(f"{job_id} is {condition.state}. {condition.detail}"))
                time.sleep(PAUSE)
                with suppress(RunError):  # a place that doesn't answer for a while is asked again
                    condition = there.condition(job_id)
    except KeyboardInterrupt:
        there.stop(job_id)
        raise
    console.print(there.logs(job_id, LINES), markup=False, soft_wrap=True)
    if condition.state is not State.SUCCEEDED:
        console.print(escape(f"{job_id} {condition.state}. {condition.detail}"), style="bold red", soft_wrap=True)
    return condition.state is State.SUCCEEDED

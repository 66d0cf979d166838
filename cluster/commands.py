"""`s2v submit`, `s2v jobs`, `s2v preflight`: options and help. Everything heavy is imported by the command itself."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from cluster.job import Job, Kind
from cluster.settings import PLACES, Cluster, Place, load_cluster

console = Console(stderr=True, highlight=False)
out = Console(highlight=False)

To = Annotated[str, typer.Option("--to", help="local, ray, kuberay or slurm.", metavar="PLACE")]
File = Annotated[
    str,
    typer.Option(
        "--cluster",
        metavar="FILE",
        help="What the cluster is like. Default: $S2V_CLUSTER, ./cluster.yaml, or defaults.",
    ),
]
Changes = Annotated[
    list[str],
    typer.Option("--with", metavar="SECTION.KEY=VALUE", help="Change a setting of the cluster file. May be repeated."),
]
Name = Annotated[str, typer.Option("--name", help="Of the job. Default: made of what it works on.")]
Print = Annotated[bool, typer.Option("--print", help="Print exactly what would be sent; send nothing.")]
REST = {"allow_extra_args": True, "ignore_unknown_options": True}

submit = typer.Typer(
    help="Hand a command in where it shall run: this machine, a Ray cluster, Kubernetes with KubeRay, Slurm.",
    no_args_is_help=True,
    rich_markup_mode="rich",
)


@submit.command("curate", context_settings=REST, options_metavar="[OPTIONS] ARGS OF s2v curate...")
def submit_curate(
    context: typer.Context,
    to: To,
    name: Name = "",
    cluster: File = "",
    changes: Changes = [],  # noqa: B006 - typer copies it
    only_print: Print = False,
) -> None:
    """`s2v curate` as a job, with the same arguments. Recipe, policy and manifests of this machine travel with it.

    Submit the same again after a failure: it goes on where it was.

      s2v submit curate 's3://raw/*.mp4' --out s3://bucket/talkers --recipe paper --to kuberay --print
    """
    understood("curate", context, to, name, cluster, changes, only_print)


@submit.command("train", context_settings=REST, options_metavar="[OPTIONS] ARGS OF s2v train...")
def submit_train(
    context: typer.Context,
    to: To,
    name: Name = "",
    cluster: File = "",
    changes: Changes = [],  # noqa: B006
    only_print: Print = False,
) -> None:
    """`s2v train` as a job on one node or many, with the same arguments. `training` of the cluster file: how many.

    When nodes are lost it restarts from the newest checkpoint with those that are left, if they are `training.least`.

      s2v submit train --stage speech --data /shared/latents --init /shared/Wan2.2-S2V-14B --out /shared/speech \\
        --to slurm --with training.nodes=8
    """
    understood("train", context, to, name, cluster, changes, only_print)


@submit.command("caption-server")
def submit_caption_server(
    to: To,
    name: Name = "captions",
    cluster: File = "",
    changes: Changes = [],  # noqa: B006
    only_print: Print = False,
) -> None:
    """vLLM behind one address, for `s2v caption --server`. Model, replicas and GPUs: `caption` of the cluster file.

    s2v submit caption-server --to kuberay --with caption.replicas=4
    """
    settings = load_cluster(cluster, changes)
    wanted = settings.caption
    argv = ("caption", "serve", "--model", wanted.model, "--gpus", str(wanted.gpus), "--gpu", wanted.gpu)
    job = Job("caption-server", name, (*argv, "--host", "0.0.0.0", "--port", str(wanted.port)))
    send(job, place(to), settings, only_print)


@submit.command("example")
def example() -> None:
    """Print a cluster file with comments, to fill in.

    s2v submit example > cluster.yaml
    """
    out.print(Path(__file__).with_name("example.yaml").read_text(), end="", markup=False, soft_wrap=True)


def understood(
    kind: Kind, context: typer.Context, to: str, name: str, cluster: str, changes: list[str], only_print: bool
) -> None:
    from cluster.words import understand

    root = context.find_root().command
    job = understand(kind, root.commands[kind], context.args, name)  # type: ignore[attr-defined]
    send(job, place(to), load_cluster(cluster, changes), only_print)


def place(to: str) -> Place:
    from dataset.config import suggest
    from dataset.errors import UsageError

    if to not in PLACES:
        raise UsageError(f"--to {to}: there is no such place.{suggest(to, list(PLACES))}")
    return to


def send(job: Job, to: Place, cluster: Cluster, only_print: bool) -> None:
    from cluster.hand_in import hand_in
    from cluster.places import backend

    there = backend(to, cluster)
    if only_print:
        out.print(there.render(job), end="", markup=False, soft_wrap=True)
        return
    job_id = hand_in(job, to, cluster, there)
    console.print(escape(f"{job.name} is handed in ({to}: {job_id}). Watch it: s2v jobs {job.name}"), soft_wrap=True)


def jobs(
    name: Annotated[
        str, typer.Argument(metavar="[JOB]", help="A job's name, a dataset, or a run. Default: all jobs.")
    ] = "",
    lines: Annotated[int, typer.Option("--logs", help="How many lines of its log to show.", min=0)] = 5,
    follow: Annotated[bool, typer.Option("--follow", help="Go on showing until it ends.")] = False,
    stop: Annotated[bool, typer.Option("--stop", help="Ask it to end. What is finished is kept.")] = False,
) -> None:
    """State, funnel or loss so far, failures, rate and time left. A dataset or run directory alone is enough.

    s2v jobs
    s2v jobs curate-talkers-1f3a --logs 50
    s2v jobs s3://bucket/talkers
    """
    from cluster import job_page, jobs_view
    from dataset.errors import UsageError

    if not name:
        if stop or follow:
            raise UsageError("--stop and --follow need a job: s2v jobs JOB --stop.")
        jobs_view.list_jobs(out)
    elif stop:
        jobs_view.stop_job(name, console)
    else:
        job_page.show_job(name, out, lines, follow=follow)


def preflight(
    home: Annotated[
        str, typer.Argument(metavar="[DATASET|RUN]", help="Where the run will write; may not be there yet.")
    ] = "",
    recipe: Annotated[str, typer.Option(help="What it will run. Default: the dataset's, or embedded.")] = "",
    servers: Annotated[
        list[str], typer.Option("--caption-server", metavar="URL", help="That must answer. May be repeated.")
    ] = [],  # noqa: B006
    train: Annotated[
        bool, typer.Option("--train", help="For training: on `training.nodes` nodes, which must reach each other.")
    ] = False,
    to: To = "local",
    cluster: File = "",
    changes: Changes = [],  # noqa: B006
) -> None:
    """Weights, GPUs, disk, object store, NCCL, clocks, codecs: on every node, before the money burns.

    s2v preflight --recipe paper
    s2v preflight s3://bucket/talkers --recipe paper --to kuberay
    s2v preflight /shared/speech --train --to slurm --with training.nodes=8
    """
    from cluster.preflight import preflight

    settings = load_cluster(cluster, changes)
    if not preflight(recipe, home.rstrip("/"), place(to), settings, out, servers, train=train):
        raise typer.Exit(1)


def register(app: typer.Typer) -> None:
    app.add_typer(submit, name="submit")
    app.command()(jobs)
    app.command()(preflight)

"""The command line: thin, and quick to answer because everything heavy is imported by the command that needs it."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

import cluster.commands
import curation.caption_commands
import curation.plan_commands
import curation.weights_commands
import generation.commands
import trainer.commands
from curation.default_command import default_to

app = typer.Typer(
    help="Build the data for, train and run an audio-driven human video model (Wan-S2V).",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
console = Console(stderr=True, highlight=False)
out = Console(highlight=False)
Dataset = Annotated[str, typer.Argument(metavar="DATASET", help="Directory (or s3:// prefix) of `s2v curate --out`.")]
Clip = Annotated[str, typer.Argument(metavar="CLIP", help="Clip id, the beginning of one, or part of a source's name.")]


@app.command()
def curate(
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="SOURCE...",
            help="Video files, directories, globs, manifests (CSV, JSONL, Parquet with a column path or url and maybe "
            "caption), WebDataset tars, s3:// and http(s):// addresses.",
        ),
    ],
    dataset: Annotated[str, typer.Option("--out", help="The dataset to make or to go on with.", metavar="DATASET")],
    recipe: Annotated[
        str, typer.Option(help="A shipped recipe, or a YAML file. Default: DATASET's, or embedded.")
    ] = "",
    policy: Annotated[
        str, typer.Option(help="A shipped policy, or a YAML file. Default: DATASET's, or the recipe's.")
    ] = "",
    servers: Annotated[
        list[str],
        typer.Option(
            "--caption-server",
            metavar="URL",
            help="Caption kept clips with this vLLM server (see `s2v caption`); may be "
            "repeated. Default: DATASET's, or none.",
        ),
    ] = [],  # noqa: B006 - typer copies it
    address: Annotated[str, typer.Option(help="A Ray cluster, such as ray://host:10001. Default: this machine.")] = "",
    dashboard: Annotated[
        bool, typer.Option("--dashboard", help="Start Ray's dashboard with it (this machine).")
    ] = False,
    limit: Annotated[int, typer.Option(help="Use only the first N sources.", min=0)] = 0,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Try everything in failures/ again.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check everything, say what would run, and stop.")] = False,
) -> None:
    """Turn raw videos into a scored, filtered, packed dataset with a report.

    Run it again to go on after an interruption, to add sources, or to apply a changed recipe or policy: only what is
    missing is computed.

      s2v curate videos/ --out data/talkers
      s2v curate list.csv 's3://bucket/raw/*.mp4' --out s3://bucket/talkers --address ray://head:10001
    """
    from curation.run import curate, describe, settle

    settings = settle(sources, dataset.rstrip("/"), recipe, policy, servers)
    settings = replace(
        settings, address=address or None, dashboard=dashboard, limit=limit or None, retry_failed=retry_failed
    )
    if dry_run:
        describe(settings, console)
    else:
        curate(settings, console)


@app.command()
def select(
    dataset: Dataset,
    policy: Annotated[str, typer.Option(help="A shipped policy, or a YAML file.")],
) -> None:
    """Judge every clip again from the stored scores: seconds, no video.

    Clips that a stricter policy had stopped early may lack scores; `s2v curate` measures just those. Shards follow the
    new verdicts at the next `s2v curate`.
    """
    from curation.run import reselect

    reselect(dataset.rstrip("/"), policy, console)


@app.command()
def report(dataset: Dataset) -> None:
    """Write report/index.html again: one page that works offline."""
    from curation.report import write_report
    from curation.stored import settings

    settings(dataset.rstrip("/"))
    out.print(escape(write_report(dataset.rstrip("/"))), soft_wrap=True)


@app.command()
def status(dataset: Dataset) -> None:
    """The funnel, what reading cost, and the failures."""
    from curation.status import status

    status(dataset.rstrip("/"), out)


@app.command()
def explain(dataset: Dataset, clip: Clip) -> None:
    """One clip's score card: every score, unit, threshold, margin, and what measured it."""
    from curation.explain import explain

    explain(dataset.rstrip("/"), clip, out)


@app.command(name="render-pose")
def render_pose(
    dataset: Dataset,
    clip: Clip,
    video: Annotated[str, typer.Option("--out", help="The mp4 to write.")],
    fps: Annotated[float, typer.Option(help="Frames a second.", min=1, max=120)] = 25.0,
) -> None:
    """The DWPose control video of a clip: skeleton, hands and face points on black."""
    from curation.pose_video import render_pose

    count = render_pose(dataset.rstrip("/"), clip, video, fps)
    out.print(escape(f"{video}: {count} frames"), soft_wrap=True)


@app.command()
def doctor(
    fetch: Annotated[bool, typer.Option("--fetch", help="Get the weights of the default recipe and the demo.")] = False,
) -> None:
    """What this machine has, what is missing, and the command that gets it."""
    from curation.doctor import doctor

    doctor(out, fetch=fetch)


chain = typer.Typer(help="The chain of filters of a dataset.", no_args_is_help=True, rich_markup_mode="rich")
app.add_typer(chain, name="chain")


@chain.command()
def tune(dataset: Dataset) -> None:
    """In which order its filters would have cost the least: cheap and selective ones first.

    Reads what each filter cost and how often it ended the chain, and prints the better order, what it saves, and the
    lines for the recipe. Nothing is changed or measured.
    """
    from curation.chain_tune import tune

    tune(dataset.rstrip("/"), out)


plan = typer.Typer(
    cls=default_to("train"),
    help="What curating or training will take and cost. `s2v plan --stage speech` is short for `s2v plan train --stage "
    "speech`.",
    no_args_is_help=True,
    rich_markup_mode="rich",
)
app.add_typer(plan, name="plan")

curation.caption_commands.register(app)
curation.weights_commands.register(app)
generation.commands.register(app)
curation.plan_commands.register(plan)
trainer.commands.register(app, plan)
cluster.commands.register(app)


@contextmanager
def reported_errors() -> Iterator[None]:
    """Errors that a person can act on end the program with a sentence: 2 for usage, 1 for failure."""
    from dataset.errors import RunError, UsageError
    from model.errors import InputError, WorkError

    try:
        yield
    except (UsageError, InputError) as e:
        console.print(f"[bold red]Error:[/] {escape(str(e))}", soft_wrap=True)
        sys.exit(2)
    except (RunError, WorkError) as e:
        console.print(f"[bold red]Error:[/] {escape(str(e))}", soft_wrap=True)
        sys.exit(1)
    except SystemExit as e:
        if e.code == 130:  # what typer makes of Ctrl-C
            console.print("Stopped. What was finished is kept; run the same command again to go on.")
        raise


def main(arguments: list[str] | None = None) -> None:
    with reported_errors():
        app(arguments)


if __name__ == "__main__":
    main()

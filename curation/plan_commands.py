"""`s2v plan curate`: options and help. Everything heavy is imported by the command that needs it."""

import os
from typing import Annotated

import typer
from rich.console import Console

console = Console(stderr=True, highlight=False)
out = Console(highlight=False)


def curate(
    sources: Annotated[list[str], typer.Argument(metavar="SOURCE...", help="As `s2v curate` takes them.")],
    sample: Annotated[int, typer.Option("--sample", help="How many sources to try.")] = 50,
    recipe: Annotated[str, typer.Option(help="A shipped recipe, or a YAML file. Default: embedded.")] = "",
    policy: Annotated[str, typer.Option(help="A shipped policy, or a YAML file. Default: the recipe's.")] = "",
    workers: Annotated[
        int, typer.Option("--workers", help="Workers of the whole run. Default: one a core of this machine.", min=0)
    ] = 0,
    gpus: Annotated[
        float, typer.Option("--gpus", help="GPUs of the whole run. Default: what the workers want.", min=0)
    ] = 0.0,
    core_price: Annotated[float, typer.Option("--price-cpu-hour", help="Of a core-hour.", min=0)] = 0.04,
    gpu_price: Annotated[float, typer.Option("--price-gpu-hour", help="Of a GPU-hour.", min=0)] = 2.5,
    keep: Annotated[
        str,
        typer.Option("--keep", metavar="DIR", help="Keep the sample there, and go on with it. Default: throw it away."),
    ] = "",
    seed: Annotated[int, typer.Option("--seed", help="Of the draw.")] = 0,
) -> None:
    """What will curating these sources yield, take and cost? Tries some of them, drawn at random, for real.

    The sample is a dataset like any other, in DIR/dataset: look at its report before the money is spent.

      s2v plan curate 's3://bucket/raw/*.mp4' --recipe paper --workers 400 --gpus 100 --keep trial
    """
    from curation.forecast import Machines, plan
    from curation.forecast_report import show

    machines = Machines(workers or len(os.sched_getaffinity(0)), gpus, core_price, gpu_price)
    show(plan(sources, sample, seed, recipe, policy, keep, machines, console), out)


def register(plan: typer.Typer) -> None:
    plan.command("curate")(curate)

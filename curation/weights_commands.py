"""`s2v weights`: options and help. Everything heavy is imported by the command that needs it."""

from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

out = Console(highlight=False)

app = typer.Typer(
    help="The checkpoints that filters use: what there is, getting them, checking them.\n\n"
    "They are kept in ~/.cache/s2v/weights, or $S2V_CACHE/weights. S2V_WEIGHTS names a directory that is looked into "
    "first, S2V_WEIGHTS_MIRROR a server that is asked instead of the official sources; both hold files under the names "
    "that `s2v weights list` shows.",
    no_args_is_help=True,
    rich_markup_mode="rich",
)


def register(parent: typer.Typer) -> None:
    parent.add_typer(app, name="weights")


@app.command(name="list")
def show() -> None:
    """Every checkpoint: who uses it, its size, its licence, and whether it is here.

    Behind each name stands the beginning of its sha256. "(unknown)": we know of no published digest. That of the first
    file that is fetched or used is noted, "(first use)", and every later one is held to it.
    """
    from curation.doctor import weights_grid

    out.print(weights_grid())


@app.command()
def pull(
    names: Annotated[list[str], typer.Argument(metavar="NAME", help="As `s2v weights list` shows them.")] = [],  # noqa: B006
    recipe: Annotated[str, typer.Option(help="All that this recipe needs: a shipped one, or a YAML file.")] = "",
    accept: Annotated[
        bool, typer.Option("--accept-licence", help="I have read the licences of these, and keep to them.")
    ] = False,
) -> None:
    """Get checkpoints that are not here yet. A download that was cut off goes on where it stopped.

      s2v weights pull --recipe paper
      s2v weights pull dover/DOVER.pth --accept-licence

    A few licences forbid commercial use; such files are only fetched and used once you have said --accept-licence.

    HF_TOKEN is sent to the Hugging Face Hub alone. HF_ENDPOINT names another address of it.
    """
    from curation.recipe import get_weights, load_recipe, weights_of
    from dataset.errors import UsageError
    from filters import weights

    wanted = [known(name) for name in names]
    if recipe:
        wanted += weights_of(load_recipe(recipe).build())
    if not wanted and not recipe:
        raise UsageError("Say what to get: names of `s2v weights list`, or --recipe paper.")
    for name in wanted:
        if accept and not weights.accepted(name):
            weights.accept(name)
            out.print(escape(f"{name}: accepted {weights.entry(name).licence}"), soft_wrap=True)
    get_weights(wanted)
    for name in wanted:
        out.print(escape(f"{name}: there"), soft_wrap=True)


@app.command()
def verify() -> None:
    """Read every file that is here, and compare it with the digest that is known of it.

    Ends with code 1 where a file differs, and says what to do.
    """
    from dataset.errors import RunError
    from filters.weights import checked

    wrong = []
    for one in checked():
        out.print(f"{one.sha256[:16]} {'[green]good[/]' if one.good else '[red]wrong[/]'} ", end="")
        out.print(escape(str(one.path)), soft_wrap=True)
        if not one.good:
            wrong.append(f"{one.path} has sha256 {one.sha256}, expected {one.expected}.")
    if wrong:
        raise RunError("\n".join([*wrong, "Delete what is wrong, and get it again with `s2v weights pull`."]))


@app.command()
def path(name: Annotated[str, typer.Argument(metavar="NAME", help="As `s2v weights list` shows it.")]) -> None:
    """Print where a checkpoint lies, for scripts. It is fetched first where it is not here."""
    from dataset.errors import RunError
    from filters import weights

    try:
        print(weights.path(known(name)))
    except weights.MissingWeights as e:
        raise RunError(str(e)) from e


def known(name: str) -> str:
    from dataset.config import suggest
    from dataset.errors import UsageError
    from filters import weights

    if name not in weights.REGISTRY:
        raise UsageError(f"There are no weights '{name}'.{suggest(name, list(weights.REGISTRY))}")
    return name

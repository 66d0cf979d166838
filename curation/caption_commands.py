"""`s2v caption`: options and help. Everything heavy is imported by the command that needs it."""

from typing import Annotated

import typer
from rich.console import Console

from curation.default_command import default_to

console = Console(stderr=True, highlight=False)
out = Console(highlight=False)

Dataset = Annotated[str, typer.Argument(metavar="DATASET", help="Directory (or s3:// prefix) of `s2v curate --out`.")]


app = typer.Typer(
    cls=default_to("run"),
    help="Dense, objective captions of kept clips, from a vision model behind vLLM. `s2v caption DATASET` is short for "
    "`s2v caption run DATASET`.",
    no_args_is_help=True,
    rich_markup_mode="rich",
)


def register(parent: typer.Typer) -> None:
    parent.add_typer(app, name="caption")


@app.command()
def run(
    dataset: Dataset,
    servers: Annotated[
        list[str],
        typer.Option(
            "--server",
            metavar="URL",
            help="A server of the OpenAI protocol, such as http://gpu-1:8000; may be repeated. Default: the recipe's.",
        ),
    ] = [],  # noqa: B006 - typer copies it
    model: Annotated[str, typer.Option(help="As the servers call it. Default: the one that they serve.")] = "",
    concurrency: Annotated[
        int,
        typer.Option(
            help="Requests in flight on each server: its --max-num-seqs. Default: 16.", min=0, show_default=False
        ),
    ] = 0,
    fps: Annotated[
        float, typer.Option(help="Pictures a second that the model sees. Default: 2.", min=0, show_default=False)
    ] = 0.0,
    mark: Annotated[bool, typer.Option("--mark", help="Draw a frame around the main person of each clip.")] = False,
    again: Annotated[
        bool, typer.Option("--again", help="Make captions of other prompts, models or settings again, too.")
    ] = False,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Try clips again that were refused for good.")
    ] = False,
    address: Annotated[str, typer.Option(help="A Ray cluster, such as ray://host:10001. Default: this machine.")] = "",
) -> None:
    """Caption the kept clips, and put the captions into the shards.

    Run it again to go on after an interruption: only clips without a caption are asked about. A server may die and come
    back meanwhile. A clip that no server can caption becomes a row in failures/ with the reason.

      s2v caption data/talkers --server http://gpu-1:8000 --server http://gpu-2:8000

    A key that the servers ask for is read from VLLM_API_KEY.
    """
    from curation.run import caption_dataset

    typed = {"servers": servers, "model": model, "concurrency": concurrency, "fps": fps, "mark": mark}
    changes = {name: value for name, value in typed.items() if value}
    caption_dataset(
        dataset.rstrip("/"), changes, console, address=address or None, again=again, retry_failed=retry_failed
    )


@app.command()
def check(
    dataset: Dataset,
    worst: Annotated[int, typer.Option(help="How many of the worst captions to show.", min=0)] = 5,
) -> None:
    """How objective and complete the captions are, what the lint objects to, and the worst ones."""
    from curation.caption_check import check

    check(dataset.rstrip("/"), worst, out)


@app.command()
def serve(
    gpus: Annotated[int, typer.Option("--gpus", help="GPUs of this machine to use.", min=1)] = 8,
    gpu: Annotated[str, typer.Option("--gpu", help="Which: a100-80, h100-80, h200-141, ...")] = "h100-80",
    model: Annotated[str, typer.Option(help="A Qwen2.5-VL checkpoint.")] = "Qwen/Qwen2.5-VL-72B-Instruct",
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on.", min=1, max=65535)] = 8000,
    speed: Annotated[
        float, typer.Option("--tokens-per-second", help="Assumed for the cost: of one answer, all slots busy.", min=1)
    ] = 25.0,
    price: Annotated[float, typer.Option("--price", help="Of a GPU-hour.", min=0)] = 2.5,
    only_print: Annotated[bool, typer.Option("--print", help="Print the command line; run nothing.")] = False,
) -> None:
    """Run the vLLM command line that fits the GPUs, or print it, with the reason for each flag.

    s2v caption serve --gpus 8 --gpu h100-80 --print
    """
    from captioning import serve

    plan = serve.plan(gpus=gpus, gpu=gpu, model=model, host=host, port=port)
    serve.show(plan, out, speed, price)
    if not only_print:
        serve.run(plan)

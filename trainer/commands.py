"""The commands of this room: options and help. Everything heavy is imported by the command that needs it."""

import os
import signal
import sys
from collections.abc import Callable
from importlib.util import find_spec
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape

if TYPE_CHECKING:
    from trainer.feed import Data
    from trainer.job import Job, Start

PATIENCE = 1800  # seconds that a run has to save a checkpoint when it is asked to stop

console = Console(stderr=True, highlight=False)
out = Console(highlight=False)

StageName = Annotated[
    str, typer.Option("--stage", help="audio-encoder, speech, film-speech, sft or tiny; or a YAML file.")
]
Changes = Annotated[
    list[str], typer.Option("--set", metavar="KEY=VALUE", help="Change a setting of the stage. May be repeated.")
]
Places = Annotated[
    list[str],
    typer.Option(
        "--data",
        metavar="[KIND=]PATH",
        help="A dataset of `s2v curate`, shards, or LATENTS of `s2v encode`. May be repeated. KIND: "
        "where the stage mixes kinds, such as film=PATH.",
    ),
]


def plan(
    stage: StageName = "speech",
    gpus: Annotated[int, typer.Option("--gpus", help="All of them.", min=1)] = 8,
    gpu: Annotated[str, typer.Option("--gpu", help="Which: a100-80, h100-80, h200-141, ...")] = "h100-80",
    node: Annotated[int, typer.Option("--gpus-per-node", help="GPUs that share NVLink.", min=1)] = 8,
    frames: Annotated[int, typer.Option("--frames", help="Video frames of a sample. Default: the stage's.", min=0)] = 0,
    size: Annotated[str, typer.Option("--size", help="WIDTHxHEIGHT. Default: as M allows.")] = "",
    checkpoint: Annotated[
        str, typer.Option("--init", help="Plan for this checkpoint's network. Default: the 14B model.", metavar="DIR")
    ] = "",
    mfu: Annotated[float, typer.Option("--mfu", help="Assumed: model FLOPs used, of the peak.", min=0.01, max=1)] = 0.4,
    price: Annotated[float, typer.Option("--price", help="Of a GPU-hour.", min=0)] = 2.5,
    changes: Changes = [],  # noqa: B006 - typer copies it
) -> None:
    """Will it fit, how should ranks be arranged, how long will it take, and what will it cost? Needs no GPU.

    s2v plan train --stage speech --gpus 8 --gpu h100-80 --frames 48 --size 1024x768
    """
    need_packages()
    from trainer.plan_report import run

    run(stage, list(changes), gpus, gpu, node, frames, size, checkpoint, mfu, price, out)


def encode(
    data: Annotated[
        list[str],
        typer.Argument(metavar="[KIND=]DATASET...", help="Datasets of `s2v curate`, or folders of shards."),
    ],
    latents: Annotated[str, typer.Option("--out", help="The latent shards to make or to go on with.", metavar="DIR")],
    checkpoint: Annotated[
        str, typer.Option("--checkpoint", help="Folder with VAE, text and speech encoder.", metavar="DIR")
    ],
    stage: StageName = "speech",
    variants: Annotated[
        int, typer.Option("--variants", help="Windows of each clip; training goes through them in turn.", min=1)
    ] = 4,
    address: Annotated[str, typer.Option(help="A Ray cluster, such as ray://host:10001. Default: this machine.")] = "",
    changes: Changes = [],  # noqa: B006
) -> None:
    """Encode video, sound and captions once, instead of in every step of training.

    What training sees is the same to the bit. Run it again to go on after an interruption.

      s2v encode data/talkers --checkpoint Wan2.2-S2V-14B --out data/latents
    """
    need_packages()
    from trainer.encode import encode as run
    from trainer.stages import find_stage

    run(data, latents.rstrip("/"), find_stage(stage, changes), checkpoint, variants, address or None, console)


def train(
    stage: StageName = "",
    data: Places = [],  # noqa: B006
    init: Annotated[
        str,
        typer.Option("--init", help="What to start from: a checkpoint folder, or RUN/step-N of another stage."),
    ] = "",
    run: Annotated[str, typer.Option("--out", help="The folder of the new run.", metavar="RUN")] = "",
    resume: Annotated[str, typer.Option("--resume", help="Go on from a run's newest checkpoint.", metavar="RUN")] = "",
    changes: Changes = [],  # noqa: B006
    processes: Annotated[
        int, typer.Option("--processes", help="Processes on this machine. Default: one a GPU, or one.", min=0)
    ] = 0,
    wandb: Annotated[str, typer.Option("--wandb", help="Log to this project of Weights & Biases as well.")] = "",
    metrics_port: Annotated[
        int,
        typer.Option(
            "--metrics-port", envvar="S2V_METRICS_PORT", help="Serve the numbers to Prometheus on this port.", min=0
        ),
    ] = 0,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check everything, say what would run, and stop.")] = False,
) -> None:
    """Train a stage, on all GPUs of this machine. On several machines, start `-m trainer.train` with torchrun.

    RUN holds checkpoints (step-N), metrics.jsonl, TensorBoard's files, sample videos and the audio-shuffle gap
    (gap.svg). Ctrl-C and SIGTERM save a checkpoint first; --resume goes on with exactly the batch that is next.

      s2v train --stage speech --data data/latents --init Wan2.2-S2V-14B --out runs/speech
      s2v train --resume runs/speech
    """
    need_packages()
    from dataset.errors import UsageError
    from trainer.job import Job
    from trainer.prometheus import PORT

    if resume and (stage or data or init or run):
        raise UsageError(
            "--resume RUN knows stage, data and start: give nothing beside it but --set, --wandb, --metrics-port."
        )
    if not resume and not stage:
        raise UsageError("--stage: audio-encoder, speech, film-speech, sft or tiny; or a YAML file. Or --resume RUN.")

    def make() -> Job:
        return Job.resumed(resume, changes, wandb) if resume else Job.new(stage, data, init, run, changes, wandb)

    if metrics_port:
        os.environ[PORT] = str(metrics_port)  # the processes inherit it
    if "RANK" in os.environ:
        work(make, dry_run)
    else:
        prepare(make(), processes, dry_run)


def prepare(job: "Job", processes: int, dry_run: bool) -> None:
    """Everything that can be wrong is told here, once, before there are several processes."""
    import torch

    from model.launch import run_processes
    from trainer.feed import Data
    from trainer.loggers import check_wandb
    from trainer.ranks import check_batch, degrees

    if job.wandb:
        check_wandb()
    start, complaints = job.start()
    data = Data.open(job.data, job.stage, start, tell)
    count = processes or (torch.cuda.device_count() if torch.cuda.is_available() else 1)
    ring, ulysses, why = degrees(job.stage, count, count, start.config.num_heads)
    check_batch(job.stage, count // (ring * ulysses))
    describe(job, start, data, console)
    for text in (*complaints, why):
        tell(text)
    if dry_run:
        return
    job.write()
    if code := run_processes(count, "trainer.train", ["--resume", str(job.run)], patience=PATIENCE):
        sys.exit(code)


def tell(text: str) -> None:
    console.print(escape(text), soft_wrap=True)


def describe(job: "Job", start: "Start", data: "Data", console: Console) -> None:
    stage, billions = job.stage, sum(start.config.parameters().values()) / 1e9
    clips = f"{len(data.train):,} clips to train on, {len(data.held_out)} to validate on"
    console.print(f"Stage {stage.name}: {stage.steps:,} updates of {stage.batch} clips each; {clips}.", soft_wrap=True)
    console.print(escape(f"Network of {billions:.3g} billion parameters, from {start.weights}."), soft_wrap=True)


def work(make: Callable[[], "Job"], dry_run: bool) -> None:
    """One of the processes of a run. What all of them complain of, the first one tells; the others tell the rest."""
    import torch.distributed as dist

    from dataset.errors import UsageError
    from model.errors import InputError, WorkError
    from trainer.feed import Data
    from trainer.loop import Run
    from trainer.ranks import end_agent_too, join

    rank, world, _ = join()
    hear = tell if rank == 0 else (lambda text: None)
    complaint: UsageError | InputError | None = None
    try:
        job = make()
        start, complaints = job.start()
        data = Data.open(job.data, job.stage, start, hear)
    except (UsageError, InputError) as error:
        complaint = error
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # which `end_agent_too` brings, before all is said
    everywhere: list[str | None] = [None] * world  # and before the folder changes, all have looked at it
    dist.all_gather_object(everywhere, complaint and str(complaint))
    if any(everywhere):
        end_agent_too()
        if complaint and everywhere.index(str(complaint)) == rank:
            raise complaint
        sys.exit(2)
    if rank == 0:
        for text in complaints:
            tell(text)
        if dry_run:
            describe(job, start, data, console)
        else:
            job.write()
    if dry_run:
        return
    try:
        run = Run(job, start, data, console)
    except (UsageError, InputError):
        end_agent_too()
        if rank:
            sys.exit(2)
        raise
    try:
        finished = run.train()
    except WorkError:  # on all of them at once
        if rank:
            sys.exit(1)
        raise
    if rank == 0:
        how = "Done" if finished else "Stopped, as asked"
        tell(f"{how}: {run.newest}. Go on with `s2v train --resume {job.run}`, or `s2v export` it.")
    dist.destroy_process_group()


def export(
    source: Annotated[str, typer.Argument(metavar="RUN/step-N", help="A run's checkpoint, or RUN for the newest.")],
    target: Annotated[str, typer.Option("--out", help="The folder to make.", metavar="CHECKPOINT")],
    weights: Annotated[
        str, typer.Option("--weights", help="average: of the last updates. trained: as they are.")
    ] = "average",
) -> None:
    """A checkpoint in the official layout, for `s2v generate` and everything else that reads Wan2.2-S2V.

    s2v export runs/sft --out checkpoints/mine
    """
    need_packages()
    from dataset.errors import UsageError
    from trainer.export import export as run

    if weights not in ("average", "trained"):
        raise UsageError(f"--weights {weights}: average or trained.")
    with console.status("Exporting") as status:
        absent = run(source, target, weights, lambda line: status.update(escape(line)))
    console.print(escape(f"{target}: the official layout, {weights} weights."), soft_wrap=True)
    if absent:
        console.print(f"[yellow]Note:[/] without {', '.join(absent)}, which the run's own start doesn't have.")


def need_packages() -> None:
    """Raises InputError where the environment was made for curation only."""
    from model.errors import InputError

    missing = [name for name in ("torch", "diffusers", "transformers", "deepspeed") if find_spec(name) is None]
    if missing:
        raise InputError(f"This needs {', '.join(missing)}. Run `make env-train`, or pip install -e '.[train]'.")


def register(app: typer.Typer, plans: typer.Typer) -> None:
    plans.command("train")(plan)
    for command in (encode, train, export):
        app.command()(command)

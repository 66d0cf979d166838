"""The commands of this room: options and help. Everything heavy is imported by the command that needs it."""

import inspect
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from importlib.util import find_spec
from typing import Annotated, Any, get_type_hints

import typer
from rich.console import Console

console = Console(stderr=True, highlight=False)
out = Console(highlight=False)

CHECKPOINT_HELP = "Folder of the official Wan2.2-S2V-14B checkpoint, or one that `s2v convert` made."
Size = Annotated[
    str, typer.Option("--size", help="About how many pixels, as WIDTHxHEIGHT. The shape is that of the picture.")
]


@dataclass(frozen=True)
class Shared:
    """The options that `generate` and `lipsync` have in common."""

    audio: Annotated[str, typer.Option("--audio", help="The sound: any audio or video file.", metavar="FILE")]
    checkpoint: Annotated[str, typer.Option("--checkpoint", help=CHECKPOINT_HELP, metavar="DIR")]
    video_out: Annotated[str, typer.Option("--out", help="The mp4 to write.", metavar="FILE")]
    size: Size = "1024x704"
    seconds: Annotated[float | None, typer.Option("--seconds", help="Use only so much. Default: all of it.")] = None
    audio_start: Annotated[float, typer.Option("--audio-start", help="Begin at this second of the sound.", min=0)] = 0.0
    steps: Annotated[
        int, typer.Option("--steps", help="Steps a clip. Fewer are faster and rougher.", min=1, max=1000)
    ] = 40
    guidance: Annotated[
        float, typer.Option("--guidance", help="How closely to follow prompt and sound; 1 halves the time.", min=0)
    ] = 4.5
    shift: Annotated[
        float, typer.Option("--shift", help="Noise schedule: the higher, the more steps at high noise.", min=0.1)
    ] = 3.0
    solver: Annotated[str, typer.Option("--solver", help="unipc or dpmpp.")] = "unipc"
    seed: Annotated[int, typer.Option("--seed", help="Another seed, another take.", min=0)] = 0
    negative: Annotated[
        str, typer.Option("--negative-prompt", help="What to keep away from. Default: the usual flaws.")
    ] = ""
    gpus: Annotated[
        int, typer.Option("--gpus", help="GPUs of this machine to share the work. Or start it with torchrun.", min=1)
    ] = 1
    stream: Annotated[
        bool, typer.Option("--stream", help="Write the video so that it plays while it is being made.")
    ] = False
    tile: Annotated[
        int,
        typer.Option("--tile", help="Decode in tiles of so many pixels (512, say) where memory runs out. 0: whole."),
    ] = 0
    compiled: Annotated[
        bool, typer.Option("--compile", help="Compile the network's blocks first: pays on long videos.")
    ] = False
    force: Annotated[bool, typer.Option("--force", help="Go on though no face was found, or the sound is silent.")] = (
        False
    )

    def of_job(self) -> dict[str, Any]:
        """The fields of a `Job`, but the prompt."""
        from generation.job import NEGATIVE, parse_size
        from model.sampler import Sampling

        same = ("audio", "checkpoint", "seconds", "audio_start", "gpus", "stream", "tile", "compiled", "force")
        return {name: getattr(self, name) for name in same} | {
            "out": self.video_out,
            "negative": self.negative or NEGATIVE,
            "area": parse_size(self.size),
            "sampling": Sampling(self.steps, self.guidance, self.shift, self.solver, self.seed),
        }


def with_shared(command: Callable[..., None]) -> Callable[..., None]:
    """Adds the options of `Shared` to a command, which gets them as its argument `shared`."""
    own = [p for p in inspect.signature(command).parameters.values() if p.name != "shared"]
    common = list(inspect.signature(Shared).parameters.values())

    @wraps(command)
    def run(**given: Any) -> None:
        command(shared=Shared(**{p.name: given.pop(p.name) for p in common}), **given)

    keywords = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in (*own, *common)]
    run.__signature__ = inspect.Signature(keywords)  # type: ignore[attr-defined]
    run.__annotations__ = get_type_hints(command, include_extras=True) | get_type_hints(Shared, include_extras=True)
    return run


@with_shared
def generate(
    image: Annotated[str, typer.Option("--image", help="Who or what is to be seen: a still picture.", metavar="FILE")],
    prompt: Annotated[str, typer.Option("--prompt", help="What happens: camera, people and their movements, place.")],
    shared: Shared,
    pose: Annotated[
        str, typer.Option("--pose", help="A pose video to follow, as `s2v render-pose` makes it.", metavar="FILE")
    ] = "",
    previous: Annotated[
        str,
        typer.Option("--continue", help="Go on where this video ends. Only what is new is written.", metavar="FILE"),
    ] = "",
    first_frame: Annotated[
        bool, typer.Option("--init-first-frame", help="Begin with the image itself, not only with its content.")
    ] = False,
    upstream_alignment: Annotated[
        bool, typer.Option("--upstream-alignment", help="Lead the sound by 3/16 s, as the official code: to compare.")
    ] = False,
) -> None:
    """An image, a sound and a prompt become a video in sync with the sound, as long as the sound.

    It is made in clips of 5 s. Each clip's latents are kept beside the video until it is whole: after a stop or a
    crash, the same command goes on where it was.

      s2v generate --image ref.png --audio talk.wav --prompt "A woman speaks" --checkpoint DIR --out out.mp4
    """
    need_packages()
    from generation.generate import gather
    from generation.generate import generate as run
    from generation.job import GenerateJob

    job = GenerateJob(
        **shared.of_job(),
        prompt=prompt,
        image=image,
        pose=pose,
        previous=previous,
        first_frame=first_frame,
        upstream_alignment=upstream_alignment,
    )
    start(job, gather, run, shared.gpus)


@with_shared
def lipsync(
    source: Annotated[str, typer.Option("--video", help="The video whose mouth is to change.", metavar="FILE")],
    shared: Shared,
    prompt: Annotated[str, typer.Option("--prompt", help="What is seen. Default: a person speaking.")] = "",
    person: Annotated[int, typer.Option("--person", help="0: the largest face, 1: the next, ...", min=0)] = 0,
    keep_pixels: Annotated[
        bool, typer.Option("--keep-pixels", help="Elsewhere keep the source's pixels, not their way through the VAE.")
    ] = False,
) -> None:
    """A video keeps everything but the mouth, which says something else. The result has 16 frames a second.

    It is as long as the video; a shorter sound is followed by silence.

      s2v lipsync --video in.mp4 --audio new.wav --checkpoint DIR --out out.mp4
    """
    need_packages()
    from generation.job import LIP_SYNC_PROMPT, LipSyncJob
    from generation.lipsync import gather
    from generation.lipsync import lipsync as run

    job = LipSyncJob(
        **shared.of_job(),
        prompt=prompt or LIP_SYNC_PROMPT,
        video=source,
        person=person,
        keep_pixels=keep_pixels,
    )
    start(job, gather, run, shared.gpus)


def convert(
    source: Annotated[str, typer.Argument(metavar="SRC", help="A checkpoint folder, official or ours.")],
    target: Annotated[str, typer.Argument(metavar="DST", help="The folder to make, in the other layout.")],
) -> None:
    """Turn an official checkpoint into our layout, or back; which way, follows from what SRC is.

    Ours holds safetensors only (no pickle), each model in a folder that diffusers or transformers can load; the network
    under our parameter names. Shard by shard: a 33 GB checkpoint needs the memory of one shard.
    """
    need_packages()
    from generation.info import convert as run

    run(source, target, console)


def info(
    checkpoint: Annotated[str, typer.Argument(metavar="CHECKPOINT", help=CHECKPOINT_HELP)],
    size: Size = "1024x704",
) -> None:
    """What a checkpoint is, what it lacks, its parameters by group, and what a clip of a size costs."""
    need_packages()
    from generation.info import info as run

    run(checkpoint, size, out)


def need_packages() -> None:
    """Raises InputError where the environment was made for curation only."""
    from model.errors import InputError

    missing = [name for name in ("torch", "diffusers", "transformers", "ftfy") if find_spec(name) is None]
    if missing:
        raise InputError(f"This needs {', '.join(missing)}. Run `make env-model`, or pip install -e '.[model]'.")


def start(job: Any, gather: Callable[..., Any], run: Callable[..., None], gpus: int) -> None:
    """Here and now, or in one process a GPU once everything has been checked."""
    import torch

    from generation.launch import launch
    from generation.ranks import join, leave
    from model.errors import WorkError
    from model.launch import launched

    if gpus > 1 and not launched():
        gather(job, console)
        sys.exit(launch(gpus, sys.argv[1:]))
    team = join()
    try:
        run(job, team, console if team.leads else Console(quiet=True))
    except torch.OutOfMemoryError as e:
        raise WorkError(
            f"Out of memory. Choose a smaller --size, or more --gpus. What was sampled is kept. ({e})"
        ) from e
    leave()


def register(app: typer.Typer) -> None:
    for command in (generate, lipsync, convert, info):
        app.command()(command)

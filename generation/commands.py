"""The commands of this room: options and help. Everything heavy is imported by the command that needs it."""

import sys
from importlib.util import find_spec
from typing import Annotated, Any

import typer
from rich.console import Console

console = Console(stderr=True, highlight=False)
out = Console(highlight=False)

CHECKPOINT_HELP = "Folder of the official Wan2.2-S2V-14B checkpoint, or one that `s2v convert` made."
AudioOption = Annotated[str, typer.Option("--audio", help="The sound: any audio or video file.", metavar="FILE")]
CheckpointOption = Annotated[str, typer.Option("--checkpoint", help=CHECKPOINT_HELP, metavar="DIR")]
OutOption = Annotated[str, typer.Option("--out", help="The mp4 to write.", metavar="FILE")]
NegativeOption = Annotated[str, typer.Option("--negative-prompt", help="What to keep away from. Default: usual flaws.")]
SizeOption = Annotated[
    str, typer.Option("--size", help="About how many pixels, as WIDTHxHEIGHT. The shape is that of the picture.")
]
SecondsOption = Annotated[float | None, typer.Option("--seconds", help="Use only so much. Default: all of it.")]
AudioStartOption = Annotated[float, typer.Option("--audio-start", help="Begin at this second of the sound.", min=0)]
StepsOption = Annotated[
    int, typer.Option("--steps", help="Steps a clip. Fewer are faster and rougher.", min=1, max=1000)
]
GuidanceOption = Annotated[
    float, typer.Option("--guidance", help="How closely to follow prompt and sound; 1 halves the time.", min=0)
]
ShiftOption = Annotated[float, typer.Option("--shift", help="Noise schedule: more time at high noise levels.", min=0.1)]
SolverOption = Annotated[str, typer.Option("--solver", help="unipc or dpmpp.")]
SeedOption = Annotated[int, typer.Option("--seed", help="Another seed, another take.", min=0)]
GpusOption = Annotated[
    int,
    typer.Option(
        "--gpus", help="GPUs of this machine that work on it together. Or start the command with torchrun.", min=1
    ),
]
StreamOption = Annotated[
    bool, typer.Option("--stream", help="Write the video so that it plays while it is being made.")
]
TileOption = Annotated[
    int, typer.Option("--tile", help="Decode in tiles of so many pixels (512, say) where memory runs out. 0: whole.")
]
CompileOption = Annotated[
    bool, typer.Option("--compile", help="Compile the network's blocks first: pays on long videos.")
]
ForceOption = Annotated[bool, typer.Option("--force", help="Go on though no face was found, or the sound is silent.")]

DEFAULT_SIZE = "1024x704"


def generate(
    image: Annotated[str, typer.Option("--image", help="Who or what is to be seen: a still picture.", metavar="FILE")],
    audio: AudioOption,
    prompt: Annotated[str, typer.Option("--prompt", help="What happens: camera, people and their movements, place.")],
    checkpoint: CheckpointOption,
    video: OutOption,
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
    size: SizeOption = DEFAULT_SIZE,
    seconds: SecondsOption = None,
    audio_start: AudioStartOption = 0.0,
    steps: StepsOption = 40,
    guidance: GuidanceOption = 4.5,
    shift: ShiftOption = 3.0,
    solver: SolverOption = "unipc",
    seed: SeedOption = 0,
    negative: NegativeOption = "",
    gpus: GpusOption = 1,
    stream: StreamOption = False,
    tile: TileOption = 0,
    compiled: CompileOption = False,
    upstream_alignment: Annotated[
        bool,
        typer.Option(
            "--upstream-alignment", help="Lead the sound by 3/16 s, as the official code does. To compare only."
        ),
    ] = False,
    force: ForceOption = False,
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
        **common(checkpoint, audio, video, prompt, negative, size, seconds, audio_start, stream, tile, compiled, force),
        sampling=sampling(steps, guidance, shift, solver, seed),
        image=image,
        pose=pose,
        previous=previous,
        first_frame=first_frame,
        upstream_alignment=upstream_alignment,
    )
    start(job, gather, run, gpus)


def lipsync(
    source: Annotated[str, typer.Option("--video", help="The video whose mouth is to change.", metavar="FILE")],
    audio: AudioOption,
    checkpoint: CheckpointOption,
    video: OutOption,
    prompt: Annotated[str, typer.Option("--prompt", help="What is seen. Default: a person speaking.")] = "",
    person: Annotated[int, typer.Option("--person", help="0: the largest face, 1: the next, ...", min=0)] = 0,
    keep_pixels: Annotated[
        bool,
        typer.Option("--keep-pixels", help="Elsewhere keep the source's own pixels, not their way through the VAE."),
    ] = False,
    size: SizeOption = DEFAULT_SIZE,
    seconds: SecondsOption = None,
    audio_start: AudioStartOption = 0.0,
    steps: StepsOption = 40,
    guidance: GuidanceOption = 4.5,
    shift: ShiftOption = 3.0,
    solver: SolverOption = "unipc",
    seed: SeedOption = 0,
    negative: NegativeOption = "",
    gpus: GpusOption = 1,
    stream: StreamOption = False,
    tile: TileOption = 0,
    compiled: CompileOption = False,
    force: ForceOption = False,
) -> None:
    """A video keeps everything but the mouth, which says something else. The result has 16 frames a second.

    s2v lipsync --video in.mp4 --audio new.wav --checkpoint DIR --out out.mp4
    """
    need_packages()
    from generation.job import LIP_SYNC_PROMPT, LipSyncJob
    from generation.lipsync import gather
    from generation.lipsync import lipsync as run

    prompt = prompt or LIP_SYNC_PROMPT
    job = LipSyncJob(
        **common(checkpoint, audio, video, prompt, negative, size, seconds, audio_start, stream, tile, compiled, force),
        sampling=sampling(steps, guidance, shift, solver, seed),
        video=source,
        person=person,
        keep_pixels=keep_pixels,
    )
    start(job, gather, run, gpus)


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
    size: SizeOption = DEFAULT_SIZE,
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
        raise InputError(
            f"This needs {', '.join(missing)}: run `make env-model`, or install the extra: pip install -e '.[model]'"
        )


def common(
    checkpoint: str,
    audio: str,
    video: str,
    prompt: str,
    negative: str,
    size: str,
    seconds: float | None,
    audio_start: float,
    stream: bool,
    tile: int,
    compiled: bool,
    force: bool,
) -> dict[str, Any]:
    from generation.job import NEGATIVE, parse_size

    return {
        "checkpoint": checkpoint,
        "audio": audio,
        "out": video,
        "prompt": prompt,
        "negative": negative or NEGATIVE,
        "area": parse_size(size),
        "seconds": seconds,
        "audio_start": audio_start,
        "stream": stream,
        "tile": tile,
        "compiled": compiled,
        "force": force,
    }


def sampling(steps: int, guidance: float, shift: float, solver: str, seed: int) -> Any:
    from model.sampler import Sampling

    return Sampling(steps, guidance, shift, solver, seed)


def start(job: Any, gather: Any, run: Any, gpus: int) -> None:
    """Here and now, or in one process a GPU once everything has been checked."""
    from generation.launch import launch, launched
    from generation.ranks import join

    if gpus > 1 and not launched():
        gather(job, console)
        sys.exit(launch(gpus, sys.argv[1:]))
    team = join()
    run(job, team, console if team.leads else Console(quiet=True))


def register(app: typer.Typer) -> None:
    for command in (generate, lipsync, convert, info):
        app.command()(command)

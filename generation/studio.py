"""What both commands do around the sampling: models in, one after another, and the video out."""

import hashlib
import os
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass

import av
import torch
from rich.console import Console
from rich.filesize import decimal
from rich.markup import escape
from torch import Tensor

from dataset.video_out import VideoWriter
from generation.job import SMALLEST_TILE, Job, Plan
from generation.progress import bars
from generation.ranks import LeadersLatents, LeadersVAE, Team, divide
from generation.saved import SavedLatents
from generation.sound import SILENT, Sound, clock
from model import speech_encoder, text_encoder, vae
from model.audio_frames import FRAME_RATE, clip_states
from model.checkpoint import Checkpoint, check_network, load_network, network_config
from model.errors import InputError, WorkError
from model.long_video import CLIP_FRAMES, Clip, Ranks
from model.network import S2VModel
from model.pixels import to_pictures
from model.speech_encoder import load_speech_encoder
from model.text_encoder import load_text_encoder
from model.vae import load_vae

NOT_SETTINGS = {"out", "gpus", "stream", "tile", "compiled", "force"}  # they don't change what is sampled
FILES = {"checkpoint", "image", "audio", "pose", "previous", "video"}  # their content counts, not their names


def note(text: str, console: Console) -> None:
    console.print(f"[yellow]Note:[/] {escape(text)}", soft_wrap=True)


def refuse(job: Job, complaint: str, console: Console) -> None:
    """Something that is most likely a mistake: an error, or with --force a note."""
    if not job.force:
        raise InputError(f"{complaint} Pass --force to go on all the same.")
    note(complaint, console)


def check_sound(job: Job, sound: Sound, console: Console) -> None:
    if sound.peak < SILENT:
        refuse(job, f"{job.audio} is silent (its peak is {sound.peak:.5f} of 1): nobody would speak.", console)
    if sound.rate < 16_000:
        limit = sound.rate // 2
        note(f"{job.audio} has {sound.rate} Hz: without what lies above {limit} Hz, lips are less sure.", console)
    if sound.frames < CLIP_FRAMES:
        seconds = sound.frames / FRAME_RATE
        note(f"{job.audio} lasts {seconds:.1f} s: a whole clip of 5 s is sampled, and cut.", console)


def check_checkpoint(job: Job, plan: Plan, console: Console) -> Checkpoint:
    """Every part whole, and room for it. Headers are read and files mapped; no weights are."""
    checkpoint = Checkpoint.open(job.checkpoint)
    checkpoint.require()
    config, *_ = check_network(checkpoint)
    vae.load_vae(checkpoint.path("vae"), "cpu", dtype=None)
    text_encoder.load_network(checkpoint.path("text_encoder"), "cpu", dtype=None)
    speech_encoder.load_speech_encoder(checkpoint.path("speech_encoder"), "cpu")
    size = CLIP_FRAMES // 4, plan.height, plan.width
    shared = config.cache_bytes(*size) + config.activation_bytes(*size)
    need = config.weight_bytes() + shared / max(job.gpus, int(os.environ.get("WORLD_SIZE", 1)))
    if torch.cuda.is_available():
        there, where = torch.cuda.get_device_properties(0).total_memory, "the GPU"
    else:  # in float32
        need, there = 2 * need, os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        where = "this machine, without a GPU,"
    if need > there:
        refuse(job, f"About {decimal(int(need))} are needed, and {where} has {decimal(there)}.", console)
    return checkpoint


def describe(job: Job, plan: Plan, why: str, console: Console) -> None:
    about = f"{job.out}: {plan.width}x{plan.height}, {clock(plan.seconds)} ({plan.frames} frames, 16 a second)"
    work = f"{plan.clips} clip{'s' * (plan.clips > 1)} of 5 s, {job.sampling.steps} steps each"
    console.print(escape(f"{about}; {work}."), soft_wrap=True)
    if why:
        console.print(escape(why), soft_wrap=True)


@dataclass(frozen=True)
class Studio:
    """Where videos are made: the models, the ranks, and what was said and is heard, encoded.

    text, negative (L, text_dim). audio (clips, 25, audio_dim, 80), on the CPU.
    """

    team: Team
    checkpoint: Checkpoint
    network: S2VModel
    vae: LeadersVAE
    ranks: Ranks
    text: Tensor
    negative: Tensor
    audio: Tensor


def open_studio(job: Job, team: Team, checkpoint: Checkpoint, sound: Sound, plan: Plan, console: Console) -> Studio:
    """The encoders one after another, each dropped before the next, then the network and the VAE."""
    ranks, why = divide(team, network_config(checkpoint).num_heads, job.sampling.guidance)
    describe(job, plan, why, console)
    with console.status("Reading the text encoder and the prompt"):
        text, negative = text_states(job, team, checkpoint, console)
    with console.status("Reading the speech encoder and the sound"):
        audio = audio_states(team, checkpoint, sound, plan)
    with console.status("Reading the network and the VAE"):
        network, vae = load_models(job, team, checkpoint)
    return Studio(team, checkpoint, network, vae, ranks, text, negative, audio)


def text_states(job: Job, team: Team, checkpoint: Checkpoint, console: Console) -> list[Tensor]:
    """umT5's states of the prompt and of the negative one."""
    prompts = {"prompt": job.prompt, "negative prompt": job.negative}

    def encode() -> list[Tensor]:
        most = network_config(checkpoint).text_len
        where = checkpoint.path("text_encoder"), checkpoint.path("tokenizer")
        encoder = load_text_encoder(*where, team.device, max_tokens=most)
        for name, prompt in prompts.items():
            if excess := encoder.excess_tokens(prompt):
                note(f"the {name} is cut: {excess} tokens are beyond the {most} that are read.", console)
        return [states.float().cpu() for states in encoder.encode(list(prompts.values()))]

    return [states.to(team.device) for states in team.share(encode)]


def audio_states(team: Team, checkpoint: Checkpoint, sound: Sound, plan: Plan) -> Tensor:
    """(clips, 25, audio_dim, 80): what every clip hears."""

    def encode() -> Tensor:
        states = load_speech_encoder(checkpoint.path("speech_encoder"), team.device).states(sound.speech)
        return clip_states(states, plan.clips, CLIP_FRAMES, plan.lead)

    return team.share(encode)


def load_models(job: Job, team: Team, checkpoint: Checkpoint) -> tuple[S2VModel, LeadersVAE]:
    if team.device.type == "cuda":
        torch.cuda.empty_cache()
    dtype = torch.bfloat16 if team.device.type == "cuda" else torch.float32
    network = load_network(checkpoint.folder, team.device, dtype).eval()
    if job.compiled:
        for block in network.layers:
            block.compile()
    leaders = load_vae(checkpoint.path("vae"), team.device, tile=job.tile or None) if team.leads else None
    return network, LeadersVAE(team, leaders)


def saved_latents(job: Job, team: Team, checkpoint: Checkpoint, console: Console) -> LeadersLatents:
    """Where latents are kept, for these settings, these weights and the content of the files that the job names."""
    if not team.leads:
        return LeadersLatents(team, None)
    settings = {key: value for key, value in asdict(job).items() if key not in NOT_SETTINGS | FILES}
    content = [content_digest(file) for file in job.inputs()]
    files = sorted(checkpoint.path("network").glob("*"))
    weights = [[f.name, f.stat().st_size, f.stat().st_mtime_ns] for f in files if f.is_file()]
    saved = SavedLatents(job.out, settings | {"content": content, "weights": weights})
    if saved.discarded:
        note(f"{saved.discarded} clips in {saved.folder} were of other settings, and are made anew.", console)
    return LeadersLatents(team, saved)


def write_video(
    job: Job, plan: Plan, sound: Sound, studio: Studio, console: Console, make: Callable[..., Iterator[Clip]]
) -> None:
    """Take clips as they are made and write them; what was sampled survives whatever goes wrong."""
    team = studio.team
    saved = saved_latents(job, team, studio.checkpoint, console)
    with bars(console, plan.clips, job.sampling.steps, shown=team.leads) as progress:
        clips = make(saved=saved, progress=progress, ranks=studio.ranks)
        if not team.leads:
            for _ in clips:
                pass
            return
        try:
            with VideoWriter(job.out, plan.width, plan.height, FRAME_RATE, sound.track, growing=job.stream) as video:
                for clip in clips:
                    video.add(to_pictures(clip.frames)[: plan.frames - video.frames])
        except torch.OutOfMemoryError as e:
            raise WorkError(f"Out of memory. {saved.kept()} {less_memory(job)}") from e
        except (OSError, av.FFmpegError) as e:
            raise WorkError(f"{job.out} can't be written: {e}. {saved.kept()} Then run the same command again.") from e
    saved.remove()
    console.print(escape(f"{job.out}: {video.frames} frames."), soft_wrap=True)


def less_memory(job: Job) -> str:
    sampling = "If it was sampling, choose a smaller --size or more --gpus."
    if job.tile == SMALLEST_TILE:
        return sampling
    tile = max(SMALLEST_TILE, job.tile // 2 // 64 * 64) if job.tile else 512
    return f"Run the same command again with --tile {tile}. {sampling}"


def content_digest(path: str) -> str:
    """Of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]

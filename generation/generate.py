"""`s2v generate`: an image, a sound and a prompt become a video."""

from dataclasses import dataclass
from functools import partial

import numpy as np
from rich.console import Console
from torch import Tensor

from dataset.pictures import cover
from filters.weights import MissingWeights
from generation.clip_frames import ClipFrames
from generation.job import GenerateJob, Plan
from generation.mouth import has_face
from generation.pictures import last_frames, read_image, video_seconds
from generation.ranks import Team
from generation.sound import Sound, clock, read_sound
from generation.studio import check_checkpoint, check_sound, note, open_studio, refuse, write_video
from model.audio_encoder import MOTION_FRAMES
from model.checkpoint import Checkpoint
from model.long_video import Request, make_clips
from model.pixels import to_tensor


@dataclass(frozen=True)
class Materials:
    """What was read and found good, before any model is loaded."""

    checkpoint: Checkpoint
    picture: np.ndarray
    sound: Sound
    previous: list[np.ndarray]
    plan: Plan


def gather(job: GenerateJob, console: Console) -> Materials:
    """Read and check everything that a user gave. Raises InputError."""
    job.check()
    picture = read_image(job.image)
    sound = read_sound(job.audio, job.audio_start, job.seconds)
    previous = last_frames(job.previous, MOTION_FRAMES) if job.previous else []
    has_past = bool(previous) or job.first_frame
    shape = previous[-1].shape if previous else picture.shape
    area = shape[0] * shape[1] if previous and shape[0] % 64 == shape[1] % 64 == 0 else job.area  # it keeps its size
    plan = Plan.of(shape, area, sound.frames, has_past=has_past, upstream=job.upstream_alignment)
    checkpoint = check_checkpoint(job, plan, console)
    check_face(job, picture, console)
    check_pose(job, plan, console)
    check_sound(job, sound, console)
    return Materials(checkpoint, picture, sound, previous, plan)


def check_face(job: GenerateJob, picture: np.ndarray, console: Console) -> None:
    try:
        found = has_face(picture)
    except MissingWeights as e:
        note(f"not checked for a face: {e}", console)
        return
    if not found:
        refuse(job, f"No face was found in {job.image}: nothing would speak.", console)


def check_pose(job: GenerateJob, plan: Plan, console: Console) -> None:
    if job.pose and (there := video_seconds(job.pose)) < plan.seconds - 0.1:
        note(f"{job.pose} lasts {clock(there)} of {clock(plan.seconds)}: the rest is made without a pose.", console)


def generate(job: GenerateJob, team: Team, console: Console) -> None:
    """Make the video. Every process of a team calls it; the first one writes."""
    given = team.share(lambda: gather(job, console))
    plan = given.plan
    studio = open_studio(job, team, given.checkpoint, given.sound, plan, console)

    def placed(pictures: list[np.ndarray]) -> Tensor:
        return to_tensor([cover(p, plan.height, plan.width) for p in pictures]).to(team.pictures)

    request = Request(
        reference=placed([given.picture]),
        text=studio.text,
        negative=studio.negative,
        audio=studio.audio,
        pose=ClipFrames(job.pose, plan) if job.pose else lambda clip: None,
        previous=placed(given.previous) if given.previous else None,
        first_frame=job.first_frame,
    )
    make = partial(make_clips, studio.network, studio.vae, request, job.sampling)
    write_video(job, plan, given.sound, studio, console, make)

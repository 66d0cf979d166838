"""`s2v lipsync`: a video keeps everything but the mouth, which says something else."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain, islice

import cv2
import numpy as np
import torch
from rich.console import Console
from torch import Tensor

from dataset.cut import SOUND_RATE
from dataset.media import AUDIO_RATE
from dataset.pictures import cover
from filters.pose import FRAMES
from generation.clip_frames import ClipFrames
from generation.job import LipSyncJob, Plan
from generation.mouth import Mouths, track_mouths
from generation.pictures import frames_of
from generation.ranks import Team
from generation.sound import Sound, clock, read_sound
from generation.studio import check_checkpoint, check_sound, note, open_studio, write_video
from model.audio_frames import FRAME_RATE
from model.checkpoint import Checkpoint
from model.errors import InputError
from model.lip_sync import Edit, edit_clips
from model.long_video import CLIP_FRAMES
from model.pixels import to_tensor

LONGEST = 300.0  # seconds; the tracker holds small copies of all frames, 10 MB a second


@dataclass(frozen=True)
class Materials:
    """What was read and found good, before any model is loaded."""

    checkpoint: Checkpoint
    sound: Sound
    mouths: Mouths
    plan: Plan


def gather(job: LipSyncJob, console: Console) -> Materials:
    """Read and check everything that a user gave, and find the mouth. Raises InputError."""
    job.check()
    sound = read_sound(job.audio, job.audio_start, job.seconds)
    with console.status("Looking for the mouth"):
        pictures = frames_of(job.video)
        first = next(pictures)
        plan = Plan.of(first.shape, job.area, 0, has_past=True)
        small = list(small_frames(first, pictures, plan, job.seconds or LONGEST))
        if len(small) > LONGEST * FRAME_RATE:
            raise InputError(
                f"{job.video} lasts more than a run takes ({clock(LONGEST)}): say how much of it with --seconds."
            )
        mouths = track_mouths(small, np.arange(len(small)) / FRAME_RATE, job.person)
    plan = replace(plan, frames=len(small))
    checkpoint = check_checkpoint(job, plan, console)
    if mouths.share < 1:
        hidden = clock((1 - mouths.share) * plan.seconds)
        note(f"the mouth is out of sight for {hidden}; the picture stays as it is there.", console)
    if abs(sound.frames - plan.frames) > FRAME_RATE:
        both = f"the video lasts {clock(plan.seconds)}, the sound {clock(sound.frames / FRAME_RATE)}"
        note(f"{both}: the video's length is kept, with silence after a shorter sound.", console)
    check_sound(job, sound, console)
    return Materials(checkpoint, of_length(sound, plan.seconds), mouths, plan)


def small_frames(first: np.ndarray, rest: Iterator[np.ndarray], plan: Plan, seconds: float) -> Iterator[np.ndarray]:
    """The frames as the video will show them, of the size that the tracker looks at; one more than `LONGEST` allows."""
    scale = min(1.0, (FRAMES.short_side or 360) / min(plan.height, plan.width))
    size = round(plan.width * scale), round(plan.height * scale)
    wanted = max(1, round(seconds * FRAME_RATE)) + (seconds == LONGEST)
    for picture in islice(chain([first], rest), wanted):
        yield cv2.resize(cover(picture, plan.height, plan.width), size, interpolation=cv2.INTER_AREA)


def of_length(sound: Sound, seconds: float) -> Sound:
    """Cut, or followed by silence."""

    def fit(samples: np.ndarray, rate: int) -> np.ndarray:
        count = round(seconds * rate)
        missing = max(0, count - samples.shape[-1])
        return np.pad(samples[..., :count], [(0, 0)] * (samples.ndim - 1) + [(0, missing)])

    return replace(sound, speech=fit(sound.speech, AUDIO_RATE), track=fit(sound.track, SOUND_RATE))


def lipsync(job: LipSyncJob, team: Team, console: Console) -> None:
    """Make the video. Every process of a team calls it; the first one writes."""
    given = team.share(lambda: gather(job, console))
    plan = given.plan
    studio = open_studio(job, team, given.checkpoint, given.sound, plan, console)
    frames = ClipFrames(job.video, plan)

    def source(clip: int) -> Tensor:
        shown = frames(clip)
        assert shown is not None  # the plan has no clip beyond the video's end
        return shown.to(team.pictures)

    def mask(clip: int) -> Tensor:
        start = clip * CLIP_FRAMES
        masks = given.mouths.masks(start, min(start + CLIP_FRAMES, plan.frames), plan.height, plan.width)
        beyond = np.zeros((CLIP_FRAMES - len(masks), *masks.shape[1:]), np.float32)
        return torch.from_numpy(np.concatenate([masks, beyond]))

    edit = Edit(
        reference=face_picture(job, given).to(team.pictures),
        text=studio.text,
        negative=studio.negative,
        audio=studio.audio,
        source=source,
        mask=mask,
        keep_pixels=job.keep_pixels,
    )
    make = partial(edit_clips, studio.network, studio.vae, edit, job.sampling)
    write_video(job, plan, given.sound, studio, console, make)


def face_picture(job: LipSyncJob, given: Materials) -> Tensor:
    """(3, 1, H, W): the first frame that shows the face, as the reference."""
    picture = next(islice(frames_of(job.video), int(np.argmax(given.mouths.seen)), None))
    return to_tensor([cover(picture, given.plan.height, given.plan.width)])

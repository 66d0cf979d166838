"""Long videos, clip by clip: each clip sees the last 73 frames of what came before it (paper section 3, FramePack).

Frames are (3, T, H, W) in [-1, 1] at 16 a second; they are handed from clip to clip as tensors, never through a file.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from model.audio_encoder import MOTION_FRAMES
from model.network import Conditions, S2VModel
from model.parallel import ALONE, Parallel
from model.sampler import BranchExchange, Guided, Pin, Sampling, clip_noise, sample

CLIP_FRAMES = 80
WARM_UP = 3  # frames that a clip without a past loses at its start: the decoder has too little to begin with
SHOWN_REFERENCE = 6  # frames of the past that show the reference image, where the video is to begin with it


class VAE(Protocol):
    def encode(self, frames_CTHW: Tensor) -> Tensor:
        """(3, 4k + 1, H, W) in [-1, 1] -> normalised latents (16, k + 1, H / 8, W / 8)"""
        ...

    def decode(self, latents_CThw: Tensor) -> Tensor:
        """(16, k + 1, H / 8, W / 8) -> (3, 4k + 1, H, W)"""
        ...


class Saved(Protocol):
    """Finished latents, kept from before they are decoded until the video is whole."""

    def load(self, clip: int) -> Tensor | None: ...

    def save(self, clip: int, latents: Tensor) -> None: ...


class Unsaved:
    def load(self, clip: int) -> Tensor | None:
        return None

    def save(self, clip: int, latents: Tensor) -> None:
        pass


@dataclass(frozen=True)
class Request:
    """What a long video is made of.

    reference (3, 1, H, W). text, negative: umT5 states (L, text_dim). audio (clips, 25, audio_dim, frames of a clip).
    pose: clip number -> (3, frames of a clip, H, W), or None where there is no pose. previous (3, any, H, W): the end
    of the video that this one continues. first_frame: begin with the reference image.
    """

    reference: Tensor
    text: Tensor
    negative: Tensor
    audio: Tensor
    pose: Callable[[int], Tensor | None] = lambda clip: None
    previous: Tensor | None = None
    first_frame: bool = False

    @property
    def clips(self) -> int:
        return len(self.audio)

    @property
    def clip_frames(self) -> int:
        return self.audio.shape[-1]

    @property
    def has_past(self) -> bool:
        return self.previous is not None or self.first_frame

    def past(self) -> Tensor:
        """(3, 73, H, W): what the first clip sees before it; grey where there was nothing."""
        grey = torch.zeros_like(self.reference).expand(-1, MOTION_FRAMES, -1, -1)
        shown = self.reference.expand(-1, SHOWN_REFERENCE if self.first_frame else 0, -1, -1)
        before = self.previous if self.previous is not None else shown
        return torch.cat([grey, before], 1)[:, -MOTION_FRAMES:]


@dataclass(frozen=True)
class Clip:
    number: int
    latents: Tensor  # (16, T, h, w)
    frames: Tensor  # (3, n, H, W): the next n frames of the video


@dataclass(frozen=True)
class Progress:
    """What is told while clips are made."""

    on_clip: Callable[[int], None] = lambda clip: None
    on_step: Callable[[], None] = lambda: None


@dataclass(frozen=True)
class Ranks:
    """How the ranks divide the work; one process by default."""

    parallel: Parallel = ALONE
    exchange: BranchExchange | None = None


def clips_needed(frames: int, lead: int) -> int:
    """Clips that hold `frames` frames of video after `lead` frames that are cut."""
    return math.ceil((frames + lead) / CLIP_FRAMES)


@torch.inference_mode()
def make_clips(
    network: S2VModel,
    vae: VAE,
    request: Request,
    sampling: Sampling,
    *,
    saved: Saved = Unsaved(),
    progress: Progress = Progress(),
    ranks: Ranks = Ranks(),
) -> Iterator[Clip]:
    """The clips of a video, one after another."""
    reference = vae.encode(request.reference)
    past, has_past = request.past(), request.has_past
    for number in range(request.clips):
        progress.on_clip(number)
        motion = vae.encode(past) if has_past else None
        latents = saved.load(number)
        if latents is None:
            conditions = Conditions(
                text=[request.text],
                audio=request.audio[number][None].to(reference),
                reference=reference[None],
                motion=None if motion is None else motion[None],
                pose=pose_latents(vae, request.pose(number)),
            )
            latents = sample_clip(network, conditions, request.negative, sampling, number, progress, ranks)
            saved.save(number, latents)
        before = reference if motion is None else motion
        frames = vae.decode(torch.cat([before, latents.to(before)], 1))[:, -request.clip_frames :]
        frames = frames if has_past else frames[:, WARM_UP:]
        past, has_past = torch.cat([past, frames], 1)[:, -MOTION_FRAMES:], True
        yield Clip(number, latents, frames)


def sample_clip(
    network: S2VModel,
    conditions: Conditions,
    negative: Tensor,
    sampling: Sampling,
    number: int,
    progress: Progress,
    ranks: Ranks,
    pin: Pin | None = None,
) -> Tensor:
    """(16, T, h, w) latents of one clip."""
    frames = conditions.audio.shape[-1] // 4
    _, channels, _, h, w = conditions.reference.shape
    noise = clip_noise((channels, frames, h, w), sampling.seed, number, conditions.reference.device)
    velocity = Guided(network, conditions, negative, sampling.guidance, frames, ranks.parallel, ranks.exchange)
    return sample(velocity, noise[None], sampling, pin=pin, on_step=progress.on_step)[0]


def pose_latents(vae: VAE, frames_CTHW: Tensor | None) -> Tensor | None:
    """(1, 16, T, h, w) of a clip's pose pictures. The VAE's first latent is one frame: a repeated one, then dropped."""
    if frames_CTHW is None:
        return None
    return vae.encode(torch.cat([frames_CTHW[:, :1], frames_CTHW], 1))[None, :, 1:]

"""Lip-sync editing: keep a video, change the mouth (paper section 1: precise lip-sync editing).

Outside the mask the latents follow the source along the flow's own path, sigma noise + (1 - sigma) source, so that
what is sampled inside grows together with it; at the end they are the source's, and so are the pixels.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from model.audio_encoder import MOTION_FRAMES
from model.config import LATENT_STRIDE
from model.flow import noised
from model.long_video import VAE, Clip, Progress, Ranks, Saved, Unsaved, sample_clip
from model.network import Conditions, S2VModel
from model.sampler import Pin, Sampling


@dataclass(frozen=True)
class Edit:
    """What is edited. text, negative, audio: as in `long_video.Request`.

    reference (3, 1, H, W): a frame that shows the face. source, mask: clip number -> its frames (3, n, H, W), and
    (n, H, W) in [0, 1], 1 where the picture may change. keep_pixels: outside the mask take the source's own pixels
    instead of those that come back from the VAE.
    """

    reference: Tensor
    text: Tensor
    negative: Tensor
    audio: Tensor
    source: Callable[[int], Tensor]
    mask: Callable[[int], Tensor]
    keep_pixels: bool = False


@torch.inference_mode()
def edit_clips(
    network: S2VModel,
    vae: VAE,
    edit: Edit,
    sampling: Sampling,
    *,
    saved: Saved = Unsaved(),
    progress: Progress = Progress(),
    ranks: Ranks = Ranks(),
) -> Iterator[Clip]:
    """The clips of the edited video, one after another.

    The motion context of a clip is what was shown before it, so that the new mouth moves on without a seam; before the
    first frame, that frame stands still.
    """
    conditions = Conditions(text=[edit.text], audio=edit.audio, reference=vae.encode(edit.reference)[None])
    past_source = past = edit.source(0)[:, :1].expand(-1, MOTION_FRAMES, -1, -1)
    for number, audio in enumerate(edit.audio):
        progress.on_clip(number)
        source, mask = edit.source(number), edit.mask(number)
        known = vae.encode(torch.cat([past_source, source], 1))
        motion, target = vae.encode(past), known[:, -(source.shape[1] // 4) :]
        latents = saved.load(number)
        if latents is None:
            latents = sample_clip(
                network,
                replace(conditions, audio=audio[None].to(target), motion=motion[None]),
                edit.negative,
                sampling,
                number,
                progress,
                ranks,
                pin=hold(target, latent_mask(mask).to(target)),
            )
            saved.save(number, latents)
        count = source.shape[1]
        changed = vae.decode(torch.cat([motion, latents.to(motion)], 1))[:, -count:]
        kept = source if edit.keep_pixels else vae.decode(known)[:, -count:]
        frames = torch.lerp(kept, changed, mask.to(kept))
        past_source = torch.cat([past_source, source], 1)[:, -MOTION_FRAMES:]
        past = torch.cat([past, frames], 1)[:, -MOTION_FRAMES:]
        yield Clip(number, latents, frames)


def hold(target_CThw: Tensor, free_Thw: Tensor) -> Pin:
    """Keeps latents on the way to `target` wherever they are not free."""

    def pin(latent: Tensor, noise: Tensor, sigma: float) -> Tensor:
        return torch.where(free_Thw > 0, latent, noised(target_CThw, noise, sigma))

    return pin


def latent_mask(mask_THW: Tensor) -> Tensor:
    """(T / 4, h, w) of 0 and 1: latents that touch a pixel of the mask, and their neighbours, are free to change."""
    touched = (mask_THW > 0).float()[None]
    pooled = F.max_pool3d(touched, (4, LATENT_STRIDE, LATENT_STRIDE))
    return F.max_pool3d(pooled, (1, 3, 3), stride=1, padding=(0, 1, 1))[0]

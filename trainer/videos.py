"""Videos while training: the held-out clip as it is, and beside it what the network makes of its sound.

Without sound: an example carries what wav2vec2 heard, not the waveform.
"""

import re
from collections.abc import Callable, Sequence
from pathlib import Path

import av
import numpy as np
import torch
from torch import Tensor

from dataset.video_out import VideoWriter
from model.audio_frames import FRAME_RATE
from model.long_video import VAE
from model.network import Conditions
from model.pixels import to_pictures
from model.sampler import Sampling, sample
from trainer.draws import conditions_of
from trainer.loggers import Logger
from trainer.sample import Example, torch_generator
from trainer.stages import Stage
from trainer.validation import WITHHELD

Forward = Callable[[Tensor, Tensor, Conditions], Tensor]  # latent (1, C, F, h, w), timestep (1,), conditions
GUIDANCE = 4.5
FOLDER = "videos"


@torch.no_grad()
def sample_latents(forward: Forward, example: Example, stage: Stage) -> Tensor:
    """(16, F, h, w) float32, on the example's device. A collective: every rank calls it, with the same example.

    Guidance is two whole forward passes a step, where `model.sampler.Guided` would call parts of the network: under
    ZeRO-3, a module has its weights only while `forward` of what DeepSpeed wraps is at work. So that sound does it, the
    pose is withheld, as in validation.
    """
    device = example.latent.device
    told = conditions_of(example, WITHHELD, device)
    untold = conditions_of(example, WITHHELD | {"text", "audio"}, device)

    def velocity(latent_1CFhw: Tensor, timestep: Tensor) -> Tensor:
        time = timestep.reshape(1)
        with_it, without = (forward(latent_1CFhw, time, conditions) for conditions in (told, untold))
        return without + GUIDANCE * (with_it - without)

    noise = torch.randn(example.latent.shape, generator=torch_generator("video", example.clip_id))
    sampling = Sampling(steps=stage.validation.video_steps, guidance=GUIDANCE)
    return sample(velocity, noise[None].to(device), sampling)[0]


def side_by_side(example: Example, latents_CFhw: Tensor, vae: VAE) -> np.ndarray:
    """(T, H, 2 W, 3) uint8: the clip as its latents decode, and what was sampled."""
    frames = 4 * latents_CFhw.shape[1]
    both = (vae.decode(torch.cat([example.motion.float(), x.float()], 1)) for x in (example.latent, latents_CFhw))
    return np.concatenate([to_pictures(x)[-frames:] for x in both], 2)


def video_path(run: Path, step: int, example: Example) -> Path:
    return run / FOLDER / f"step-{step:06d}" / f"{re.sub(r'[^A-Za-z0-9._-]', '_', example.clip_id)}.mp4"


def write_video(path: Path, frames_THW3: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    height, width = frames_THW3.shape[1:3]
    with VideoWriter(str(path), width, height, FRAME_RATE, None) as video:
        video.add(frames_THW3)


def film_strip(frames_THW3: np.ndarray, count: int = 4) -> np.ndarray:
    """A few frames, evenly spread, below one another: for loggers that show no videos."""
    places = np.linspace(0, len(frames_THW3) - 1, min(count, len(frames_THW3))).round().astype(int)
    return np.concatenate(list(frames_THW3[places]), 0)


def sample_videos(
    forward: Forward,
    examples: Sequence[Example],
    stage: Stage,
    vae: VAE | None,
    run: Path,
    step: int,
    *,
    logger: Logger | None = None,
    complain: Callable[[str], None] = lambda text: None,
) -> list[Path]:
    """A collective: every rank calls it with the same examples, the one that is to write with a VAE.

    RUN/videos/step-N/CLIP.mp4 of each. What can't be decoded or written is told and left out: training goes on.
    """
    written: list[Path] = []
    for example in examples:
        latents = sample_latents(forward, example, stage)
        if vae is None:
            continue
        path = video_path(run, step, example)
        try:
            frames = side_by_side(example, latents, vae)
            write_video(path, frames)
        except (OSError, av.FFmpegError, torch.OutOfMemoryError) as error:
            complain(f"{path} could not be made: {error}")
            continue
        written.append(path)
        if logger:
            logger.image(step, f"video/{path.stem}", film_strip(frames))
            logger.video(step, f"video/{path.stem}/film", path)
    return written

"""Random examples for the tiny network."""

import torch
from torch import Tensor

from tests.tiny_checkpoint import CONFIG
from trainer.sample import Example, torch_generator


def example(name: str, frames: int = 3, height: int = 8, width: int = 8, prompt: int = 5, epoch: int = 0) -> Example:
    """frames: latent ones; height and width: latent pixels."""
    generator = torch_generator("example", name)

    def random(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).half()

    return Example(
        clip_id=name,
        kind="speech",
        epoch=epoch,
        latent=random(16, frames, height, width),
        motion=random(16, 19, height, width),
        reference=random(16, 1, height, width),
        pose=random(16, frames, height, width),
        audio=random(25, CONFIG.audio_dim, 4 * frames),
        text=random(prompt, CONFIG.text_dim),
        no_text=random(1, CONFIG.text_dim),
    )

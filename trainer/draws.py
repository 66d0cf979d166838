"""What is random about a training step, drawn from the sample's own seed: noise level, noise, and withheld conditions.

Every rank that shares a sample draws the same, and so does a run that was resumed, or that has another number of ranks.
Withheld conditions are masked and no module is skipped: with ZeRO-3, all ranks must call the same modules in the same
order, whatever their samples are.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from model.flow import draw_sigmas
from model.network import Conditions
from trainer.sample import Example, torch_generator
from trainer.stages import Stage

CONDITIONS = ("text", "audio", "reference", "motion", "pose")


@dataclass(frozen=True)
class Draw:
    """noise (16, F, h, w) float32, on the CPU. sigma: noise level, 0 to 1. dropped: some of CONDITIONS."""

    sigma: float
    noise: Tensor
    dropped: frozenset[str] = frozenset()


def draw(stage: Stage, example: Example) -> Draw:
    sigma, dropped, generator = draw_settings(stage, example)
    return Draw(sigma, torch.randn(example.latent.shape, generator=generator), dropped)


def draw_settings(stage: Stage, example: Example) -> tuple[float, frozenset[str], torch.Generator]:
    """All but the noise, which takes long to draw, and the generator that comes to it next."""
    generator = torch_generator(stage.seed, "draw", example.clip_id, example.epoch)
    times = stage.timesteps
    sigma = float(draw_sigmas(1, generator, shift=times.shift, spread=times.spread))
    luck = torch.rand(len(CONDITIONS), generator=generator).tolist()
    return sigma, frozenset(c for c, p in zip(CONDITIONS, luck, strict=True) if p < getattr(stage.drops, c)), generator


def conditions_of(example: Example, dropped: frozenset[str], device: torch.device) -> Conditions:
    """A batch of one, float32. As in sampling: no prompt is the empty one, no sound or pose or reference is zeros."""

    def given(name: str) -> Tensor:
        tensor = getattr(example, name).to(device, torch.float32)[None]
        return torch.zeros_like(tensor) if name in dropped else tensor

    text = example.no_text if "text" in dropped else example.text
    return Conditions(
        text=[text.to(device, torch.float32)],
        audio=given("audio"),
        reference=given("reference"),
        motion=example.motion.to(device, torch.float32)[None],
        pose=given("pose"),
        motion_dropped="motion" in dropped,
    )

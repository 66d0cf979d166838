"""Sampling as the official code does it, with the same network and weights: what the caches are measured against.

Every step and branch computes everything anew (audio encoder, FramePack, reference, positions, all keys and values),
the text is padded with zeros to full length and attended to, and the branches of guidance go one after the other.
"""

from collections.abc import Iterator
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from model.network import Conditions, S2VModel
from model.sampler import Sampling, Velocity
from model.schedulers import make_scheduler


class PlainGuided:
    def __init__(self, network: S2VModel, conditions: Conditions, negative: Tensor, guidance: float):
        self.network, self.guidance = network, guidance
        silent = replace(conditions, text=[negative], audio=torch.zeros_like(conditions.audio))
        self.branches = [padded(branch, network.config.text_len) for branch in (conditions, silent)]

    def __call__(self, latent_1CFhw: Tensor, timestep: Tensor) -> Tensor:
        told, untold = (self.network(latent_1CFhw, timestep.reshape(1), branch) for branch in self.branches)
        return untold + self.guidance * (told - untold)


def padded(conditions: Conditions, length: int) -> Conditions:
    """With nothing left to pad, the network's merged padding key has no weight."""
    return replace(conditions, text=[F.pad(states, (0, 0, 0, length - len(states))) for states in conditions.text])


def plain_steps(velocity: Velocity, noise_1CFhw: Tensor, sampling: Sampling) -> Iterator[Tensor]:
    """The latents after every step. A generator, so that two samplers can take turns."""
    scheduler = make_scheduler(sampling.solver, sampling.steps, sampling.shift)
    latent = noise_1CFhw
    for timestep in scheduler.timesteps.to(latent.device):
        latent = scheduler.step(velocity(latent, timestep), timestep, latent).prev_sample
        yield latent

"""From noise to the latents of one clip: classifier-free guidance, and a solver that follows the velocity."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from model.network import Conditions, Encoded, S2VModel
from model.parallel import ALONE, Parallel
from model.schedulers import make_scheduler

Velocity = Callable[[Tensor, Tensor], Tensor]  # latent (1, C, F, h, w), timestep () -> velocity
Pin = Callable[[Tensor, Tensor, float], Tensor]  # latent, the noise that it began as, its noise level -> latent

BATCHED_TOKENS = 12_000


@dataclass(frozen=True)
class Sampling:
    """How a clip is sampled. guidance 1 or less: no second branch. Defaults are the official model's."""

    steps: int = 40
    guidance: float = 4.5
    shift: float = 3.0
    solver: str = "unipc"
    seed: int = 0


class BranchExchange(Protocol):
    """Two groups of ranks, one for each branch of guidance."""

    branch: int  # 0: conditional, 1: unconditional

    def __call__(self, velocity: Tensor) -> tuple[Tensor, Tensor]:
        """This rank's velocity -> those of both branches, the conditional one first."""
        ...


def in_one_batch(encoded: Encoded) -> bool:
    """Do both branches go as one batch? Where a forward pass is too short to fill a GPU; a CPU is filled by less."""
    return encoded.pose.is_cuda and encoded.layout.tokens <= BATCHED_TOKENS


class Guided:
    """v = u + guidance (c - u), where u knows neither prompt nor sound, and hears the negative prompt instead.

    Everything that doesn't depend on latent and timestep is computed here, once a clip.
    """

    def __init__(
        self,
        network: S2VModel,
        conditions: Conditions,
        negative: Tensor,
        guidance: float,
        frames: int,
        parallel: Parallel = ALONE,
        exchange: BranchExchange | None = None,
    ):
        self.network, self.guidance, self.parallel, self.exchange = network, guidance, parallel, exchange
        told = network.encode(conditions, frames, parallel)
        contexts = [told.context]
        if guidance > 1:
            silent = replace(conditions, text=[negative], audio=torch.zeros_like(conditions.audio))
            if exchange:
                contexts = [network.context((conditions, silent)[exchange.branch], frames)]
            elif in_one_batch(told):
                audio = torch.cat([conditions.audio, silent.audio])
                both = replace(conditions, text=[*conditions.text, negative], audio=audio)
                contexts = [network.context(both, frames)]
            else:
                contexts = [told.context, network.context(silent, frames)]
        self.branches = [network.listen(replace(told, context=context)) for context in contexts]

    def __call__(self, latent_1CFhw: Tensor, timestep: Tensor) -> Tensor:
        velocities = []
        for encoded in self.branches:
            batch = len(encoded.context.text)
            latents, times = latent_1CFhw.expand(batch, -1, -1, -1, -1), timestep.reshape(1).expand(batch)
            velocities += self.network.denoise(latents, times, encoded, self.parallel).split(1)
        if self.guidance <= 1:
            return velocities[0]
        told, untold = self.exchange(velocities[0]) if self.exchange else velocities
        return untold + self.guidance * (told - untold)


def sample(
    velocity: Velocity,
    noise_1CFhw: Tensor,
    sampling: Sampling,
    *,
    pin: Pin | None = None,
    on_step: Callable[[], None] = lambda: None,
) -> Tensor:
    """Latents (1, C, F, h, w), float32. `pin` may put parts of the latents back on a known path after every step."""
    scheduler = make_scheduler(sampling.solver, sampling.steps, sampling.shift)
    latent = noise_1CFhw
    for step, timestep in enumerate(scheduler.timesteps.to(latent.device)):
        latent = scheduler.step(velocity(latent, timestep), timestep, latent).prev_sample
        if pin:
            latent = pin(latent, noise_1CFhw, float(scheduler.sigmas[step + 1]))
        on_step()
    return latent


def clip_noise(shape: tuple[int, ...], seed: int, clip: int, device: torch.device) -> Tensor:
    """Drawn on the CPU, so that every device and every rank gets the same; each clip has a seed of its own."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed + clip)).to(device)

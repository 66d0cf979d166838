"""Flow matching (paper section 3): straight paths from data to noise, and the noise levels that are visited.

Noise level sigma in [0, 1]: 0 is data, 1 is noise. The network is told the timestep 1000 sigma.
"""

from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

Levels = TypeVar("Levels", np.ndarray, Tensor)

TIMESTEPS = 1000


def noised(x0: Tensor, noise: Tensor, sigma: Tensor | float) -> Tensor:
    """x_t = sigma noise + (1 - sigma) x0; `sigma` is a number or broadcasts over the sample."""
    return sigma * noise + (1 - sigma) * x0


def velocity(x0: Tensor, noise: Tensor) -> Tensor:
    """What the network predicts: dx_t / dsigma = noise - x0."""
    return noise - x0


def shifted(sigmas: Levels, shift: float) -> Levels:
    """Noise levels moved towards 1: sigma' = shift sigma / (1 + (shift - 1) sigma)."""
    return shift * sigmas / (1 + (shift - 1) * sigmas)


def draw_sigmas(count: int, generator: torch.Generator, *, shift: float, spread: float | None = 1.0) -> Tensor:
    """(count,) noise levels for training, shifted: logit-normal of deviation `spread`, or uniform where it is None."""
    if spread is None:
        return shifted(torch.rand(count, generator=generator), shift)
    return shifted(torch.sigmoid(spread * torch.randn(count, generator=generator)), shift)

"""diffusers' solvers with the noise levels of the official sampler, which differ from diffusers' defaults."""

from typing import Any

import numpy as np
import torch
from diffusers import DPMSolverMultistepScheduler, UniPCMultistepScheduler

SOLVERS = ("unipc", "dpmpp")


def shifted(sigmas: np.ndarray, shift: float) -> np.ndarray:
    """Noise levels moved towards 1: sigma' = shift sigma / (1 + (shift - 1) sigma)."""
    return shift * sigmas / (1 + (shift - 1) * sigmas)


def make_scheduler(solver: str, steps: int, shift: float) -> Any:
    """A diffusers scheduler for velocities, ready for `steps` steps; both solvers are of order 2.

    `sigmas` (steps + 1,) end in 0; `timesteps` (steps,) are int64, 1000 sigma cut to whole numbers.
    """
    scheduler: Any
    if solver == "unipc":
        scheduler = UniPCMultistepScheduler(
            prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=shift, solver_order=2, solver_type="bh2"
        )
        scheduler.set_timesteps(sigmas=np.linspace(0.999, 0, steps + 1)[:-1])
        scheduler.timesteps = scheduler.timesteps.long()
    else:
        scheduler = DPMSolverMultistepScheduler(
            prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=shift, solver_order=2
        )
        scheduler.set_timesteps(steps)
        sigmas = shifted(np.linspace(1, 0, steps + 1)[:-1], shift)
        scheduler.sigmas = torch.from_numpy(np.append(sigmas, 0).astype(np.float32))
        scheduler.timesteps = torch.from_numpy(sigmas * 1000).long()
    scheduler.set_begin_index(0)
    return scheduler

"""diffusers' solvers with the noise levels of the official sampler, which differ from diffusers' defaults."""

from typing import Any

import numpy as np
import torch

from model.flow import TIMESTEPS, shifted

SOLVERS = ("unipc", "dpmpp")


def make_scheduler(solver: str, steps: int, shift: float) -> Any:
    """A diffusers scheduler for velocities, ready for `steps` steps; both solvers are of order 2.

    `sigmas` (steps + 1,) end in 0; `timesteps` (steps,) are int64, 1000 sigma cut to whole numbers.
    """
    from diffusers import DPMSolverMultistepScheduler, UniPCMultistepScheduler  # seconds: not for every command

    common = {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": shift, "solver_order": 2}
    scheduler: Any
    if solver == "unipc":
        scheduler = UniPCMultistepScheduler(solver_type="bh2", **common)
        scheduler.set_timesteps(sigmas=np.linspace(0.999, 0, steps + 1)[:-1])
        scheduler.timesteps = scheduler.timesteps.long()
    else:
        scheduler = DPMSolverMultistepScheduler(**common)
        scheduler.set_timesteps(steps)
        sigmas = shifted(np.linspace(1, 0, steps + 1)[:-1], shift)
        scheduler.sigmas = torch.from_numpy(np.append(sigmas, 0).astype(np.float32))
        scheduler.timesteps = torch.from_numpy(sigmas * TIMESTEPS).long()
    scheduler.set_begin_index(0)
    return scheduler

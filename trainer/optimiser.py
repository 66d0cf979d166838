"""AdamW that keeps a moving average of the weights among its states, and the learning rate of each step."""

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn

from trainer.stages import Optimiser

AVERAGE = "average"
LEAST = 0.1  # of the rate, at the end of the cosine


class AdamWithAverage(torch.optim.AdamW):
    """Whoever shards, saves, loads or offloads the optimiser's states does the same to the average, in float32."""

    def __init__(self, params: Iterable[nn.Parameter], *, decay: float | None, **options: Any):
        super().__init__(params, **options)
        self.decay = decay

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> Any:
        result = super().step(closure)
        if self.decay is not None:
            for parameter in (p for group in self.param_groups for p in group["params"]):
                state = self.state[parameter]
                # Young averages follow quickly, or they would be of the first weights for thousands of steps.
                decay = min(self.decay, float(state["step"]) / (float(state["step"]) + 9))
                if AVERAGE not in state:
                    state[AVERAGE] = parameter.detach().clone()
                state[AVERAGE].lerp_(parameter, 1 - decay)
        return result


def rate_at(step: int, steps: int, optimiser: Optimiser) -> float:
    """The learning rate of update `step` of `steps`, counted from 0."""
    if step < optimiser.warmup:
        return optimiser.rate * (step + 1) / optimiser.warmup
    if optimiser.schedule == "constant":
        return optimiser.rate
    done = min(1.0, (step - optimiser.warmup) / max(1, steps - optimiser.warmup))
    return optimiser.rate * (LEAST + (1 - LEAST) * (1 + math.cos(math.pi * done)) / 2)

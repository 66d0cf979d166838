"""One update of the weights, from the examples of all ranks."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from model.network import Conditions
from trainer.draws import Draw, draw
from trainer.objective import elements, squared_error
from trainer.optimiser import rate_at
from trainer.ranks import Ranks
from trainer.sample import Example
from trainer.stages import Stage


class Watch(Protocol):
    """Measures the parts of an update."""

    def __call__(self, part: str) -> AbstractContextManager[None]: ...


@dataclass(frozen=True)
class Updated:
    """What all ranks know of an update. grad_norm: before clipping. applied: False where a gradient was not finite, and
    the weights stayed as they were. stop: some rank was asked to."""

    loss: float
    grad_norm: float
    rate: float
    applied: bool
    stop: bool


class Updater:
    def __init__(self, engine: Any, stage: Stage, ranks: Ranks):
        self.engine, self.stage, self.ranks = engine, stage, ranks

    def __call__(
        self,
        step: int,
        examples: Sequence[Example],
        *,
        stop: Callable[[], bool] = lambda: False,
        watch: Watch = lambda part: nullcontext(),
    ) -> Updated:
        """A collective. examples: this rank's micro-steps, as many on every rank. stop: has this rank been asked to?

        DeepSpeed averages gradients over all ranks, those that share a sample included. The mean over all predicted
        numbers is wanted, so each rank's sum of squared errors is multiplied by the number of ranks and divided by the
        count of those numbers: over all ranks and micro-steps, and however unequal they are.
        """
        rate = rate_at(step, self.stage.steps, self.stage.optimiser)
        for group in self.engine.optimizer.param_groups:
            group["lr"] = rate
        with watch("wait"):
            count = float(self.ranks.total(torch.tensor(float(sum(map(elements, examples))), dtype=torch.float64)))
        count /= self.ranks.mesh.sequence.size()
        errors = torch.zeros((), dtype=torch.float64, device=self.ranks.device)
        for example in examples:
            with watch("forward"):
                error = squared_error(self.engine, example, draw(self.stage, example), self.ranks.parallel)
            with watch("backward"):
                self.engine.backward(error * (self.ranks.world / count), scale_wrt_gas=False)
            errors += error.detach()
            with watch("optimiser"):
                self.engine.step()
        with watch("wait"):
            asked = torch.tensor(float(stop()), dtype=torch.float64, device=self.ranks.device)
            error_sum, stops = self.ranks.total(torch.stack([errors, asked])).tolist()
        applied = not self.engine.optimizer.overflow
        norm = float(self.engine.get_global_grad_norm()) if applied else float("nan")
        return Updated(error_sum / count, norm, rate, applied, stops > 0)

    @torch.no_grad()
    def error(self, example: Example, drawn: Draw) -> Tensor:
        """This rank's sum of squared errors, without learning from it. A collective."""
        return squared_error(self.engine, example, drawn, self.ranks.parallel)

    @torch.no_grad()
    def velocity(self, latent_BCFhw: Tensor, timestep_B: Tensor, conditions: Conditions) -> Tensor:
        """A collective."""
        return self.engine(latent_BCFhw, timestep_B, conditions, self.ranks.parallel)

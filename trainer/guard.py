"""Notices updates that went wrong, and names the samples that were in flight."""

import statistics
from collections import deque
from collections.abc import Sequence
from typing import Any

import torch.distributed as dist

from model.errors import WorkError
from trainer.job import Job
from trainer.ranks import Ranks
from trainer.report import Silent
from trainer.sample import Example
from trainer.update import Updated

FAILING = 3  # updates in a row whose gradient is not finite, before the run stops
SPIKE = 10.0  # a gradient so many times the usual one is told; clipping has bounded what it did
REMEMBERED, LEAST = 50, 10  # updates whose median is the usual gradient, and how many make a median


class Guard:
    def __init__(self, job: Job, ranks: Ranks, report: Silent):
        self.job, self.ranks, self.report = job, ranks, report
        self.norms: deque[float] = deque(maxlen=REMEMBERED)
        self.failing = 0

    def __call__(self, done: int, examples: Sequence[Example], updated: Updated) -> None:
        """A collective. Raises WorkError where the weights can't be trusted to recover."""
        usual = statistics.median(self.norms) if len(self.norms) >= LEAST else float("inf")
        if updated.applied:
            self.failing = 0
            self.norms.append(updated.grad_norm)
            if updated.grad_norm > SPIKE * usual:
                self.tell(done, examples, updated, f"gradient of norm {updated.grad_norm:.3g}, usual is {usual:.3g}")
            return
        self.failing += 1
        self.tell(done, examples, updated, "loss or gradient not finite; the weights stayed as they were")
        if self.failing == FAILING:
            raise WorkError(
                f"{FAILING} updates in a row were not finite, the last of them step {done}. Go on from the last "
                f"checkpoint with smaller steps: s2v train --resume {self.job.run} --set optimiser.rate=..."
            )

    def tell(self, done: int, examples: Sequence[Example], updated: Updated, what: str) -> None:
        everywhere: list[Any] = [None] * self.ranks.world
        dist.all_gather_object(everywhere, [(e.clip_id, e.epoch) for e in examples])
        self.report.incident(done, what, updated.loss, sorted({clip for of_rank in everywhere for clip in of_rank}))

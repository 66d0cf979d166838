"""`s2v plan`: whether a stage fits on given GPUs, how it is best arranged, how long it takes, what it costs.

All of it is arithmetic. `plan_activations`, `plan_memory`: bytes. `plan_traffic`: what ranks send. `plan_time`: seconds
and FLOPs. `plan_remedies`: what would make it fit. `plan_report`: what is printed.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import get_args

from dataset.config import suggest
from dataset.errors import UsageError
from model.config import S2VConfig
from trainer.budget import CELL
from trainer.plan_activations import Arrangement, Size
from trainer.plan_memory import Memory, Parameters, memory
from trainer.plan_time import GPUS, Gpu, Machines, flops, offload_seconds, seconds
from trainer.plan_traffic import real_tokens
from trainer.ranks import check_batch, degrees
from trainer.recompute import Recompute
from trainer.stages import Stage

SAME = 0.02  # what differs by less, in speed or in share of a GPU's memory, arithmetic doesn't tell apart


@dataclass(frozen=True)
class Case:
    """What is planned: every clip of one size. mfu: see `trainer.plan_time`. encodes: latents are made while training,
    not read from latent shards."""

    stage: Stage
    config: S2VConfig
    machines: Machines
    size: Size
    mfu: float
    encodes: bool = False

    @property
    def parameters(self) -> Parameters:
        return Parameters.of(self.config, self.stage)

    @property
    def tokens(self) -> int:
        return self.size.tokens(self.config)

    @property
    def as_set(self) -> Arrangement:
        """The stage's own."""
        ring, ulysses, _ = degrees(self.stage, self.machines.gpus, self.machines.per_node, self.config.num_heads)
        return Arrangement(ring, ulysses, self.stage.recompute)


@dataclass(frozen=True)
class Plan:
    """waits: seconds of a pass, the forward and backward of one clip, by what is waited for."""

    case: Case
    arrangement: Arrangement
    memory: Memory
    waits: dict[str, float]

    @property
    def free(self) -> float:
        """Bytes of a GPU; where it doesn't fit, less than 0: those that are missing."""
        return self.case.machines.gpu.memory - self.memory.total

    @property
    def fits(self) -> bool:
        return self.free >= 0

    @property
    def passes(self) -> int:
        """Of an update, one after the other."""
        return self.case.stage.batch * self.arrangement.sequence // self.case.machines.gpus

    @property
    def pass_seconds(self) -> float:
        return sum(self.waits.values())

    @property
    def update_seconds(self) -> float:
        case = self.case
        return self.passes * self.pass_seconds + offload_seconds(case.stage, case.parameters, case.machines)

    @property
    def samples_per_second(self) -> float:
        return self.case.stage.batch / self.update_seconds

    @property
    def model_flops(self) -> float:
        """Of a pass."""
        case = self.case
        return flops(case.config, case.size, self.arrangement, case.parameters.blocks_learn).model

    @property
    def mfu(self) -> float:
        machines = self.case.machines
        return self.samples_per_second * self.model_flops / (machines.gpus * machines.gpu.flops)

    @property
    def gpu_hours(self) -> float:
        """Of the stage, without validation and checkpoints."""
        return self.case.stage.steps * self.update_seconds / 3600 * self.case.machines.gpus


def find_gpu(name: str) -> Gpu:
    if name.lower() not in GPUS:
        raise UsageError(f"--gpu {name}: no such GPU is known.{suggest(name.lower(), list(GPUS))}")
    return GPUS[name.lower()]


def parse_size(text: str) -> tuple[int, int]:
    """'1024x768' -> (width, height)."""
    sides = text.lower().replace("*", "x").split("x")
    if len(sides) != 2 or not all(side.strip().isdecimal() for side in sides):
        raise UsageError(f"--size {text}: give WIDTHxHEIGHT, such as 1024x768.")
    width, height = (int(side) for side in sides)
    if width % CELL or height % CELL or not width * height:
        nearest = "x".join(str(max(CELL, CELL * round(side / CELL))) for side in (width, height))
        raise UsageError(f"--size {text}: both sides must be multiples of {CELL}, such as {nearest}.")
    return width, height


def plan(case: Case) -> Plan:
    """The stage as it is set."""
    check(case)
    check_batch(case.stage, case.machines.gpus // case.as_set.sequence)
    return planned(case, case.as_set)


def compare(case: Case) -> list[Plan]:
    """Every possible arrangement, the best first: what fits before what doesn't, then by speed, then by memory."""
    check(case)
    plans = ranked(case)
    if not plans:
        raise UsageError(
            f"batch {case.stage.batch} does not divide over {case.machines.gpus} GPUs, however many of them share a "
            "clip: --set batch=a multiple of their number."
        )
    return plans


def check(case: Case) -> None:
    size, machines = case.size, case.machines
    if size.frames < 4 or size.frames % 4:
        raise UsageError(f"--frames {size.frames}: give a multiple of 4.")
    if machines.gpus < 1 or machines.per_node < 1:
        raise UsageError(f"--gpus {machines.gpus}: there must be at least one, and one to a node.")
    if not 0 < case.mfu <= 1:
        raise UsageError(f"--mfu {case.mfu:g}: give a share of the peak, such as 0.4.")
    if size.height % CELL or size.width % CELL:
        parse_size(f"{size.width}x{size.height}")
    degrees(case.stage, machines.gpus, machines.per_node, case.config.num_heads)  # raises what the trainer would
    if not case.parameters.trained:
        raise UsageError(f"trains={list(case.stage.trains)} matches no parameter of the network.")


def ranked(case: Case) -> list[Plan]:
    plans = [planned(case, arrangement) for arrangement in arrangements(case)]
    fastest = max((plan.samples_per_second for plan in plans if plan.fits), default=0.0)

    def order(plan: Plan) -> tuple[bool, int, int, float]:
        slowness = math.log(fastest / plan.samples_per_second) if plan.fits else 0.0
        full = plan.memory.total / case.machines.gpu.memory
        return not plan.fits, int(slowness / SAME), int(full / SAME), -plan.samples_per_second

    return sorted(plans, key=order)


def planned(case: Case, arrangement: Arrangement) -> Plan:
    stage, config, size, machines, encodes = case.stage, case.config, case.size, case.machines, case.encodes
    held = memory(stage, config, size, arrangement, machines.gpus, machines.per_node, encodes=encodes)
    waits = seconds(stage, config, size, arrangement, machines, case.mfu, encodes=encodes)
    return Plan(case, arrangement, held, waits)


def arrangements(case: Case) -> Iterator[Arrangement]:
    """Ulysses within a node, as heads allow; each rank of a ring with keys of its own."""
    gpus, heads = case.machines.gpus, case.config.num_heads
    for sequence in divisors(gpus):
        if case.stage.batch % (gpus // sequence):
            continue
        for ulysses in divisors(sequence):
            if heads % ulysses or ulysses > case.machines.per_node:
                continue
            if not real_tokens(case.config, case.size, Arrangement(sequence // ulysses, ulysses), sequence - ulysses):
                continue
            for recompute in get_args(Recompute):
                yield Arrangement(sequence // ulysses, ulysses, recompute)


def divisors(number: int) -> list[int]:
    return [n for n in range(1, number + 1) if number % n == 0]

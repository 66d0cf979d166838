"""Who works with whom: ranks that share a sample, ranks that have different ones, and what passes between them.

DeepSpeed is told nothing of this. It shards the weights over all ranks and averages gradients over all of them, which
is right for any arrangement if the loss is scaled for it (see `trainer.update`).
"""

import atexit
import ctypes
import os
import signal
import sys
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from model.errors import InputError
from model.launch import own_device
from model.sequence_parallel import Mesh, SequenceParallel, build_mesh, choose_degrees
from trainer.sample import Example
from trainer.stages import Stage

PATIENCE = timedelta(minutes=30)  # a checkpoint of 260 GB may take so long on one rank while the others wait
PR_SET_PDEATHSIG = 1  # of prctl: the signal that comes when the parent is gone


@dataclass(frozen=True)
class Ranks:
    """This process among all. why: a sentence about the arrangement."""

    rank: int
    world: int
    device: torch.device
    mesh: Mesh
    why: str

    @property
    def parallel(self) -> SequenceParallel:
        return SequenceParallel(self.mesh)

    @property
    def data_rank(self) -> int:
        """Which of the samples of a micro-step this rank works on."""
        return self.rank // self.mesh.sequence.size()

    @property
    def data_ranks(self) -> int:
        return self.world // self.mesh.sequence.size()

    @property
    def leads(self) -> bool:
        return self.rank == 0

    @property
    def reads(self) -> bool:
        """Is this the rank that reads and encodes for those that share its sample?"""
        return self.mesh.sequence.rank() == 0

    def total(self, values: Tensor) -> Tensor:
        """The sum over all ranks."""
        values = values.to(self.device)
        dist.all_reduce(values)
        return values

    def largest(self, values: Tensor) -> Tensor:
        values = values.to(self.device)
        dist.all_reduce(values, dist.ReduceOp.MAX)
        return values

    def any(self, here: bool) -> bool:
        """Is it so on any rank?"""
        return bool(self.largest(torch.tensor(float(here))))

    def share(self, example: Example | None) -> Example:
        """The reading rank's example, on the devices of all ranks that share it. float16 all the way."""
        group, source = self.mesh.sequence, dist.get_global_rank(self.mesh.sequence, 0)
        header: list[Any] = [None]
        if example is not None:
            shapes = {name: tuple(t.shape) for name, t in example.tensors().items()}
            header = [((example.clip_id, example.kind, example.epoch), shapes)]
        dist.broadcast_object_list(header, source, group=group, device=self.device if self.on_gpu else None)
        names, shapes = header[0]
        sizes = [torch.Size(shape).numel() for shape in shapes.values()]
        flat = torch.empty(sum(sizes), dtype=torch.float16, device=self.device)
        if example is not None:
            torch.cat([t.flatten().to(self.device) for t in example.tensors().values()], out=flat)
        dist.broadcast(flat, source, group=group)
        parts = zip(shapes.items(), flat.split(sizes), strict=True)
        return Example(*names, **{name: part.view(shape) for (name, shape), part in parts})

    @property
    def on_gpu(self) -> bool:
        return self.device.type == "cuda"


def join() -> tuple[int, int, torch.device]:
    """(rank, world, device) of the process group that torchrun started, or of this process alone."""
    end_with_agent()
    world, device = int(os.environ.get("WORLD_SIZE", 1)), own_device()
    cuda = device.type == "cuda"
    os.environ.setdefault("LOCAL_RANK", "0")  # DeepSpeed insists on it
    if not dist.is_initialized():
        options: dict[str, Any] = {} if world > 1 else {"store": dist.HashStore(), "rank": 0, "world_size": 1}
        backend = "cpu:gloo,cuda:nccl" if cuda else "gloo"
        dist.init_process_group(backend, timeout=PATIENCE, device_id=device if cuda else None, **options)
    return dist.get_rank(), dist.get_world_size(), device


def end_with_agent() -> None:
    """When torchrun is killed outright, nobody ends what it started, and its GPUs would stay taken. Linux only.

    Killed, not asked to end: the ranks of other nodes would take that for the wish of all, and stop for good.
    """
    if sys.platform == "linux" and "TORCHELASTIC_RUN_ID" in os.environ:
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def end_agent_too() -> None:
    """As this process ends, of a mistake that all ranks know of: torchrun begins again whatever they exit with, unless
    it is asked to end itself. Not when it has begun again already: then a node was lost, and may come back."""
    may_try, tried = (os.environ.get(f"TORCHELASTIC_{name}", "0") for name in ("MAX_RESTARTS", "RESTART_COUNT"))
    if int(may_try) and not int(tried) and os.environ["LOCAL_RANK"] == "0":
        atexit.register(os.kill, os.getppid(), signal.SIGTERM)


def arrange(stage: Stage, num_heads: int) -> Ranks:
    """A collective: every rank calls it. Raises InputError where ranks, heads or batch don't divide."""
    rank, world, device = join()
    node = int(os.environ.get("LOCAL_WORLD_SIZE", world))
    ring, ulysses, why = degrees(stage, world, node, num_heads)
    data_ranks = world // (ring * ulysses)
    check_batch(stage, data_ranks)
    samples = f"{data_ranks} sample{'s' if data_ranks > 1 else ''} at a time"
    return Ranks(
        rank, world, device, build_mesh(ring, ulysses, num_heads, PATIENCE), f"{world} ranks, {samples}. {why}"
    )


def check_batch(stage: Stage, data_ranks: int) -> None:
    if stage.batch % data_ranks:
        raise InputError(
            f"batch={stage.batch} does not divide over {data_ranks} groups of ranks: --set batch= a multiple of them."
        )


def degrees(stage: Stage, world: int, node: int, num_heads: int) -> tuple[int, int, str]:
    """(ring, Ulysses, why), or an InputError that says which setting to change."""
    sequence = stage.sequence or min(world, node)
    if world % sequence:
        raise InputError(
            f"{world} ranks do not divide into groups of {sequence}: --set sequence=one of their divisors."
        )
    if not stage.ulysses:
        chosen = choose_degrees(sequence, num_heads, node)
        return chosen.ring, chosen.ulysses, chosen.why
    if sequence % stage.ulysses or num_heads % stage.ulysses:
        raise InputError(
            f"ulysses={stage.ulysses} must divide the {sequence} ranks that share a sample and the {num_heads} heads."
        )
    ring = sequence // stage.ulysses
    return ring, stage.ulysses, f"Ulysses {stage.ulysses} x ring {ring}, as set."

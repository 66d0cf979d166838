"""One sequence on several ranks: Ulysses (arXiv 2309.14509) inside a node, ring attention across nodes, as in USP
(arXiv 2405.07719).

Everything but self-attention is local: see Layout. Ulysses trades the tokens of a rank for a share of the heads of all
tokens of its group, and moves fewer bytes; the ring moves more, but behind the computation.
Names of sizes: B batch, S tokens held, N noisy tokens held, H heads, K head size.
"""

from dataclasses import dataclass
from datetime import timedelta
from functools import lru_cache, partial
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from model.attention import Attend, attention
from model.errors import InputError
from model.layout import Layout
from model.ring import Ring, ring_attention


@dataclass(frozen=True)
class Degrees:
    """How the ranks of one sequence are arranged, and a sentence that says why."""

    ring: int
    ulysses: int
    why: str


def choose_degrees(ranks: int, num_heads: int, ranks_per_node: int) -> Degrees:
    """Ulysses as wide as heads and node allow; the ring takes the rest."""
    fitting = range(1, min(ranks, ranks_per_node) + 1)
    ulysses = max(n for n in fitting if ranks % n == 0 and num_heads % n == 0)
    ring = ranks // ulysses
    why = (
        f"Ulysses {ulysses} x ring {ring}: {ulysses} is the largest divisor of {ranks} ranks "
        f"that divides {num_heads} heads and fits a node of {ranks_per_node}."
    )
    return Degrees(ring, ulysses, why)


@dataclass(frozen=True)
class Mesh:
    """The ranks of the default process group as (replicas, ring, ulysses), neighbours first in a Ulysses group.

    Each group holds the ranks that differ from this one in that dimension only. `sequence` spans ring and ulysses: the
    ranks that share a sequence. Replicas don't: they have other sequences, or another branch of guidance.
    """

    replicas: dist.ProcessGroup
    ring: dist.ProcessGroup
    ulysses: dist.ProcessGroup
    sequence: dist.ProcessGroup


def build_mesh(ring: int, ulysses: int, num_heads: int, timeout: timedelta | None = None) -> Mesh:
    """A collective: every rank of the default process group calls it, with the same numbers.

    timeout: of its groups, which don't take over that of the default one. None: torch's own.
    """
    world = dist.get_world_size()
    if world % (ring * ulysses):
        raise InputError(f"{world} ranks do not divide into sequences of ring {ring} x Ulysses {ulysses} ranks.")
    if num_heads % ulysses:
        raise InputError(f"{num_heads} heads do not divide over {ulysses} ranks. Choose a Ulysses degree that does.")
    ranks = torch.arange(world).view(-1, ring, ulysses)
    return Mesh(
        replicas=own_group(ranks.flatten(1).T, timeout),
        ring=own_group(ranks.transpose(1, 2).flatten(0, 1), timeout),
        ulysses=own_group(ranks.flatten(0, 1), timeout),
        sequence=own_group(ranks.flatten(1), timeout),
    )


def own_group(groups: Tensor, timeout: timedelta | None) -> dist.ProcessGroup:
    """(groups, ranks) -> the group that this rank is in."""
    return dist.new_subgroups_by_enumeration(groups.tolist(), timeout=timeout)[0]


class SequenceParallel:
    """A `Parallel` whose ranks are the mesh's `sequence`. A gradient is that of the sum of all ranks' losses."""

    def __init__(self, mesh: Mesh):
        self.mesh = mesh
        self.rank, self.world = mesh.sequence.rank(), mesh.sequence.size()

    def attention(self, layout: Layout) -> Attend:
        if self.world == 1:
            return attention
        return partial(self.attend, real_keys(layout, self.mesh.ring.size()))

    def attend(self, real: tuple[Tensor, ...], q_BSHK: Tensor, k_BSHK: Tensor, v_BSHK: Tensor) -> Tensor:
        ring, ulysses = self.mesh.ring, self.mesh.ulysses
        q, k, v = q_BSHK, k_BSHK, v_BSHK
        if ulysses.size() > 1:
            q, k, v = exchange(torch.stack([q, k, v]), split=3, join=2, group=ulysses)
        k, v = (keep(x, real[ring.rank()]) for x in (k, v))
        if ring.size() > 1:
            mixed = ring_attention(q, k, v, Ring(ring, tuple(len(places) for places in real)))
        else:
            mixed = attention(q, k, v)
        return exchange(mixed, split=1, join=2, group=ulysses) if ulysses.size() > 1 else mixed

    def gather(self, tokens_BNC: Tensor) -> Tensor:
        """(B, N, C) of every rank -> (B, world * N, C)"""
        if self.world == 1:
            return tokens_BNC
        return Gather.apply(tokens_BNC, self.mesh.sequence).movedim(0, 1).flatten(1, 2)


@lru_cache(maxsize=64)
@torch.inference_mode(False)  # as in Layout.of
def real_keys(layout: Layout, ring: int) -> tuple[Tensor, ...]:
    """For each rank of the ring, (n,) places of the keys that aren't padding among those its Ulysses group holds.

    Dropped rather than masked: flash attention takes no mask.
    """
    valid = torch.cat([layout.of_rank(rank).valid for rank in range(layout.world)]).view(ring, -1)
    if not valid.any(1).all():
        raise InputError(f"The sequence is too short for a ring of {ring}: a rank would hold padding only.")
    return tuple(block.nonzero()[:, 0] for block in valid)


def keep(x_BSHK: Tensor, places: Tensor) -> Tensor:
    return x_BSHK if len(places) == x_BSHK.shape[1] else x_BSHK[:, places]


def exchange(x: Tensor, split: int, join: int, group: dist.ProcessGroup) -> Tensor:
    """Dimension `split` is dealt out over the ranks of the group; what they deal is joined along dimension `join`."""
    dealt = x.unflatten(split, (group.size(), -1)).movedim(split, 0)
    return AllToAll.apply(dealt, group).movedim(0, join).flatten(join, join + 1)


class AllToAll(torch.autograd.Function):
    """(ranks, ...): slice i goes to rank i, and slice i of the result comes from there. Its own transpose."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, group: dist.ProcessGroup) -> Tensor:
        ctx.group = group
        received = torch.empty_like(x, memory_format=torch.contiguous_format)
        dist.all_to_all_single(received, x.contiguous(), group=group)
        return received

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return AllToAll.apply(gradient, ctx.group), None


class Gather(torch.autograd.Function):
    """(...) of every rank -> (ranks, ...) on all of them. Backward sums, because every rank may use all of it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, group: dist.ProcessGroup) -> Tensor:
        ctx.group = group
        whole = x.new_empty(group.size(), *x.shape)
        dist.all_gather(list(whole), x.contiguous(), group=group)
        return whole

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        own = gradient.new_empty(gradient.shape[1:])
        dist.reduce_scatter(own, list(gradient.contiguous()), group=ctx.group)
        return own, None

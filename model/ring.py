"""Ring attention (Liu et al., arXiv 2310.01889): queries stay, blocks of keys and values travel from rank to rank.

Attention is not causal, so all blocks cost the same and their order doesn't matter.
Names of sizes: B batch, H heads, S queries held, L keys of a block, K head size.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

aten = torch.ops.aten


@dataclass(frozen=True)
class Ring:
    """Blocks on their way around `group`; `lengths` are the keys that each rank contributes.

    At step i, a rank works on the block of the rank i places before it.
    """

    group: dist.ProcessGroup
    lengths: tuple[int, ...]

    def pass_on(self, block_2BHLK: Tensor, step: int) -> Callable[[], Tensor]:
        """Send what was worked on at `step` to the next rank. The result waits for what the previous rank sends."""
        rank, size = self.group.rank(), self.group.size()
        length = self.lengths[(rank - step - 1) % size]
        arriving = block_2BHLK.new_empty(*block_2BHLK.shape[:3], length, block_2BHLK.shape[-1])
        send = dist.P2POp(dist.isend, block_2BHLK.contiguous(), group=self.group, group_peer=(rank + 1) % size)
        receive = dist.P2POp(dist.irecv, arriving, group=self.group, group_peer=(rank - 1) % size)
        transfers = dist.batch_isend_irecv([send, receive])

        def wait() -> Tensor:
            for transfer in transfers:
                transfer.wait()
            return arriving

        return wait

    def blocks(self, block_2BHLK: Tensor) -> Iterator[Tensor]:
        """The blocks of all ranks, this rank's first; the next one arrives while the caller works."""
        for step in range(self.group.size() - 1):
            arrival = self.pass_on(block_2BHLK, step)
            yield block_2BHLK
            block_2BHLK = arrival()
        yield block_2BHLK


def flash(q_BHSK: Tensor, k_BHLK: Tensor, v_BHLK: Tensor) -> tuple[Tensor, Tensor]:
    """Softmax attention, and the log-sum-exp (B, H, S) of its logits in float32. On CUDA: bfloat16 or float16 only."""
    if q_BHSK.is_cuda:
        out, lse, *_ = aten._scaled_dot_product_flash_attention(q_BHSK, k_BHLK, v_BHLK)
    else:
        out, lse = aten._scaled_dot_product_flash_attention_for_cpu(q_BHSK, k_BHLK, v_BHLK)
    return out, lse


def flash_backward(
    d_out: Tensor, q_BHSK: Tensor, k_BHLK: Tensor, v_BHLK: Tensor, out: Tensor, lse: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of q, k, v through one block, given result and log-sum-exp over *all* blocks."""
    inputs = d_out, q_BHSK, k_BHLK, v_BHLK, out, lse
    if not q_BHSK.is_cuda:
        return aten._scaled_dot_product_flash_attention_for_cpu_backward(*inputs, 0.0, False)
    unused = lse.new_empty(0)  # the random state: only dropout reads it
    lengths = q_BHSK.shape[2], k_BHLK.shape[2]
    return aten._scaled_dot_product_flash_attention_backward(*inputs, None, None, *lengths, 0.0, False, unused, unused)


class RingAttention(torch.autograd.Function):
    """Exact: the softmax of a part, weighted by exp(its log-sum-exp), adds up to the softmax of the whole."""

    @staticmethod
    def forward(ctx: Any, q_BHSK: Tensor, kv_2BHLK: Tensor, ring: Ring) -> Tensor:
        out = torch.zeros_like(q_BHSK, dtype=torch.float32)
        lse = out.new_full(out.shape[:3], -math.inf)
        for k, v in ring.blocks(kv_2BHLK):
            part, part_lse = flash(q_BHSK, k, v)
            out = out.lerp(part.float(), torch.sigmoid(part_lse - lse)[..., None])
            lse = torch.logaddexp(lse, part_lse)
        out = out.to(q_BHSK.dtype)
        ctx.ring = ring
        ctx.save_for_backward(q_BHSK, kv_2BHLK, out, lse)
        return out

    @staticmethod
    def backward(ctx: Any, d_out: Tensor) -> tuple[Tensor, Tensor, None]:
        """Every block goes around once more. Its gradient, in float32, follows one rank behind and ends at home."""
        q, kv, out, lse = ctx.saved_tensors
        dq = torch.zeros_like(q, dtype=torch.float32)
        arrival = None
        for step, (k, v) in enumerate(ctx.ring.blocks(kv)):
            dq_part, dk, dv = flash_backward(d_out, q, k, v, out, lse)
            dq += dq_part
            dkv = torch.stack([dk, dv]).float()
            if arrival is not None:
                dkv += arrival()
            arrival = ctx.ring.pass_on(dkv, step)
        assert arrival is not None
        return dq.to(q.dtype), arrival().to(kv.dtype), None


def ring_attention(q_BSHK: Tensor, k_BLHK: Tensor, v_BLHK: Tensor, ring: Ring) -> Tensor:
    """Softmax attention to the keys of all ranks of the ring, -> (B, S, H, K)."""
    kv_2BHLK = torch.stack([k_BLHK, v_BLHK]).transpose(2, 3).contiguous()
    return RingAttention.apply(q_BSHK.transpose(1, 2), kv_2BHLK, ring).transpose(1, 2)

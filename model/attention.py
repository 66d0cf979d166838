"""Attention: one function, one module. What runs on several ranks replaces the function, never the module."""

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn

from model.precision import project

Attend = Callable[[Tensor, Tensor, Tensor], Tensor]


def attention(q_BSHK: Tensor, k_BLHK: Tensor, v_BLHK: Tensor, bias: Tensor | None = None) -> Tensor:
    """Softmax attention, scale 1/sqrt(K), -> (B, S, H, K). `bias` (B, 1, 1, L) is added to the logits."""
    q, k, v = (x.transpose(1, 2) for x in (q_BSHK, k_BLHK, v_BLHK))
    mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=None if bias is None else bias.to(q.dtype))
    return mixed.transpose(1, 2)


class Attention(nn.Module):
    """Projections of multi-head attention; q and k are RMS-normalised over the full width, before the heads part."""

    def __init__(self, dim: int, num_heads: int, eps: float):
        super().__init__()
        self.num_heads = num_heads
        self.q = nn.Linear(dim, dim)
        self.k = nn.Linear(dim, dim)
        self.v = nn.Linear(dim, dim)
        self.o = nn.Linear(dim, dim)
        self.norm_q = nn.RMSNorm(dim, eps=eps)
        self.norm_k = nn.RMSNorm(dim, eps=eps)

    def heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.num_heads, -1))

    def queries(self, x: Tensor) -> Tensor:
        """(..., D) -> (..., H, K)"""
        return self.heads(self.norm_q(project(self.q, x)))

    def keys_values(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(..., D) -> two of (..., H, K)"""
        return self.heads(self.norm_k(project(self.k, x))), self.heads(project(self.v, x))

    def output(self, mixed: Tensor) -> Tensor:
        """(..., H, K) -> (..., D)"""
        return project(self.o, mixed.flatten(-2))

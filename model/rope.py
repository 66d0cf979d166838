"""Rotary position embedding over (time, row, column): adjacent channel pairs turn by position x frequency."""

import torch
from torch import Tensor


def axis_pairs(head_dim: int) -> tuple[int, int, int]:
    """Channel pairs of a head that turn with time, row and column: 22, 21, 21 of a head of 128."""
    third = head_dim // 2 // 3
    return head_dim // 2 - 2 * third, third, third


def angles(positions: Tensor, head_dim: int) -> Tensor:
    """(S, 3) positions -> (S, head_dim / 2) angles in float64. Each axis has a frequency ladder of its own."""
    turned = []
    for axis, pairs in enumerate(axis_pairs(head_dim)):
        frequencies = 10_000.0 ** (-torch.arange(pairs, dtype=torch.float64, device=positions.device) / pairs)
        turned.append(positions[:, axis, None].double() * frequencies)
    return torch.cat(turned, -1)


def rope_table(positions: Tensor, head_dim: int) -> tuple[Tensor, Tensor]:
    """cos and sin, each (S, 1, head_dim / 2) float32, the same for all heads. Angles are float64: times are large."""
    turned = angles(positions, head_dim)[:, None]
    return turned.cos().float(), turned.sin().float()


def rotate(x_BSHK: Tensor, table: tuple[Tensor, Tensor]) -> Tensor:
    """Turn every pair (2i, 2i + 1) of each head; in float32, the table's dtype, returned in x's."""
    cos, sin = table
    even, odd = x_BSHK.unflatten(-1, (-1, 2)).unbind(-1)
    turned = torch.stack((even * cos - odd * sin, even * sin + odd * cos), -1)
    return turned.flatten(-2).to(x_BSHK.dtype)

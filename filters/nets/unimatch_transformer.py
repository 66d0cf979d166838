"""UniMatch's transformer: features of two images, each looking at itself and at the other, in shifted windows.

Source: Xu et al. 2023, arXiv 2211.05783; https://github.com/autonomousvision/unimatch, `unimatch/transformer.py`,
`attention.py` and `position.py`, for the behaviour and the names of the weights.

Names of sizes: B pairs of images, C channels, H x W positions of features, V = splits x splits windows that tile them,
N positions of a window.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

BARRED = -100.0  # logit between positions that only the cyclic shift brought together; upstream's value, not -inf
TEMPERATURE = 10000


class Attention(nn.Module):
    """source, target (B, V, N, C) -> source with what it finds in the target's window at the same place."""

    def __init__(self, channels: int):
        super().__init__()
        self.q_proj = nn.Linear(channels, channels, bias=False)
        self.k_proj = nn.Linear(channels, channels, bias=False)
        self.v_proj = nn.Linear(channels, channels, bias=False)
        self.merge = nn.Linear(channels, channels, bias=False)
        self.norm1 = nn.LayerNorm(channels)

    def message(self, source: Tensor, target: Tensor, mask_VNN: Tensor | None) -> Tensor:
        query, key, value = self.q_proj(source), self.k_proj(target), self.v_proj(target)
        return self.norm1(self.merge(F.scaled_dot_product_attention(query, key, value, mask_VNN)))

    def forward(self, source: Tensor, target: Tensor, mask_VNN: Tensor | None) -> Tensor:
        return source + self.message(source, target, mask_VNN)


class AttentionFFN(Attention):
    """The same with a perceptron over what was there and what was found."""

    def __init__(self, channels: int, expansion: int):
        super().__init__(channels)
        both = 2 * channels
        narrow = nn.Linear(both * expansion, channels, bias=False)
        self.mlp = nn.Sequential(nn.Linear(both, both * expansion, bias=False), nn.GELU(), narrow)
        self.norm2 = nn.LayerNorm(channels)

    def message(self, source: Tensor, target: Tensor, mask_VNN: Tensor | None) -> Tensor:
        found = super().message(source, target, mask_VNN)
        return self.norm2(self.mlp(torch.cat([source, found], -1)))


class Block(nn.Module):
    """source, target (B, V, N, C) -> the source, having looked at itself and then at the target."""

    def __init__(self, channels: int, expansion: int):
        super().__init__()
        self.self_attn = Attention(channels)
        self.cross_attn_ffn = AttentionFFN(channels, expansion)

    def forward(self, source: Tensor, target: Tensor, mask_VNN: Tensor | None) -> Tensor:
        return self.cross_attn_ffn(self.self_attn(source, source, mask_VNN), target, mask_VNN)


class FeatureTransformer(nn.Module):
    """Two images' features (B, C, H, W) -> the same shapes. H and W are multiples of `splits`."""

    def __init__(self, channels: int, layers: int, expansion: int):
        super().__init__()
        self.layers = nn.ModuleList(Block(channels, expansion) for _ in range(layers))

    def forward(self, feature0: Tensor, feature1: Tensor, splits: int) -> tuple[Tensor, Tensor]:
        x_BHWC = torch.cat([feature0, feature1]).movedim(1, -1)
        pairs, (height, width, channels) = len(feature0), x_BHWC.shape[1:]
        window = height // splits, width // splits
        x_BHWC = x_BHWC + positions(*window, channels, x_BHWC.device).repeat(splits, splits, 1)
        shift = window[0] // 2, window[1] // 2
        mask_VNN = shift_mask(height, width, splits, shift, x_BHWC.device)
        for i, layer in enumerate(self.layers):
            shifted = i % 2 == 1
            moved = roll(x_BHWC, (-shift[0], -shift[1])) if shifted else x_BHWC
            source_BVNC = to_windows(moved, splits)
            target_BVNC = source_BVNC.roll(pairs, 0)  # the other image of each pair
            seen_BVNC = layer(source_BVNC, target_BVNC, mask_VNN if shifted else None)
            moved = from_windows(seen_BVNC, splits, window)
            x_BHWC = roll(moved, shift) if shifted else moved
        first, second = x_BHWC.movedim(-1, 1).contiguous().chunk(2)
        return first, second


def positions(height: int, width: int, channels: int, device: torch.device) -> Tensor:
    """(H, W, C): where a position stands in its window. Half of the channels tell the row, half the column, in sines
    and cosines of ever longer waves."""
    pairs = torch.arange(channels // 4, device=device)
    wavelengths = TEMPERATURE ** (4 * pairs / channels)

    def waves(length: int) -> Tensor:
        steps = torch.arange(1, length + 1, device=device) / (length + 1e-6) * (2 * math.pi)
        angles = steps[:, None] / wavelengths
        return torch.stack([angles.sin(), angles.cos()], -1).flatten(1)

    rows, columns = waves(height)[:, None], waves(width)[None]
    return torch.cat([rows.expand(-1, width, -1), columns.expand(height, -1, -1)], -1)


def shift_mask(height: int, width: int, splits: int, shift: tuple[int, int], device: torch.device) -> Tensor:
    """(V, N, N), added to the logits: bars what came in over one edge of the image from what was there."""
    wrapped_H = torch.arange(height, device=device) >= height - shift[0]
    wrapped_W = torch.arange(width, device=device) >= width - shift[1]
    region_HW = 2 * wrapped_H[:, None].long() + wrapped_W.long()
    region_VN = to_windows(region_HW[None, :, :, None], splits)[0, :, :, 0]
    return BARRED * (region_VN[:, :, None] != region_VN[:, None]).float()


def roll(x_BHWC: Tensor, steps: tuple[int, int]) -> Tensor:
    return x_BHWC.roll(steps, (1, 2))


def to_windows(x_BHWC: Tensor, splits: int) -> Tensor:
    """(B, H, W, C) -> (B, V, N, C)."""
    tiles = x_BHWC.unflatten(2, (splits, -1)).unflatten(1, (splits, -1))
    return tiles.transpose(2, 3).flatten(3, 4).flatten(1, 2)


def from_windows(x_BVNC: Tensor, splits: int, window: tuple[int, int]) -> Tensor:
    """(B, V, N, C) -> (B, H, W, C)."""
    tiles = x_BVNC.unflatten(2, window).unflatten(1, (splits, splits))
    return tiles.transpose(2, 3).flatten(3, 4).flatten(1, 2)

"""Latents into tokens: plain patches for the clip, and FramePack, which packs older motion frames more tightly."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.config import MOTION_LATENTS, S2VConfig
from model.layout import PACKED


class PatchEmbedding(nn.Conv3d):
    """A convolution whose kernel is its stride, done as a matrix product so that a rank embeds only its own tokens."""

    def __init__(self, channels: int, dim: int, size: tuple[int, int, int]):
        super().__init__(channels, dim, kernel_size=size, stride=size)

    def forward(self, latent_BCFhw: Tensor, rows: Tensor | None = None) -> Tensor:
        """(B, C, F, h, w) -> (B, tokens, D) float32; of the tokens `rows`, if given."""
        patches = patchify(latent_BCFhw, self.kernel_size)
        if rows is not None:
            patches = patches[:, rows]
        return F.linear(patches.to(self.weight.dtype), self.weight.flatten(1), self.bias).float()


def patchify(x_BCFhw: Tensor, size: tuple[int, ...]) -> Tensor:
    """(B, C, F, h, w) -> (B, tokens, C * patch), in the order of a convolution's weights; an incomplete edge is cut."""
    t, p, q = size
    frames, h, w = x_BCFhw.shape[2] // t, x_BCFhw.shape[3] // p, x_BCFhw.shape[4] // q
    x = x_BCFhw[:, :, : frames * t, : h * p, : w * q]
    x = x.unflatten(4, (w, q)).unflatten(3, (h, p)).unflatten(2, (frames, t))
    return x.permute(0, 2, 4, 6, 1, 3, 5, 7).flatten(4).flatten(1, 3)


def unpatchify(x_BNC: Tensor, grid: tuple[int, int, int], channels: int) -> Tensor:
    """(B, F * H * W, 4 * channels), channel fastest -> (B, channels, F, 2H, 2W)"""
    x = x_BNC.unflatten(2, (2, 2, channels)).unflatten(1, grid)
    return x.permute(0, 6, 1, 2, 4, 3, 5).flatten(5, 6).flatten(3, 4)


class FramePacker(nn.Module):
    """FramePack (paper section 3): the last 19 latent frames as 1 + 2 + 16, in patches of growing size."""

    def __init__(self, config: S2VConfig):
        super().__init__()
        self.proj = PatchEmbedding(config.in_dim, config.dim, (1, 2, 2))
        self.proj_2x = PatchEmbedding(config.in_dim, config.dim, (2, 4, 4))
        self.proj_4x = PatchEmbedding(config.in_dim, config.dim, (4, 8, 8))

    def forward(self, motion_BCFhw: Tensor, levels: tuple[int, ...] = tuple(PACKED), newest: int = 0) -> Tensor:
        """(B, C, F, h, w), oldest first -> (B, tokens, D), newest first. The newest `newest` latents are blanked;
        fewer than 19 latents are preceded by blank ones."""
        missing = MOTION_LATENTS - motion_BCFhw.shape[2]
        history = F.pad(motion_BCFhw[:, :, -MOTION_LATENTS:], (0, 0, 0, 0, max(missing, 0), 0))
        history = torch.cat([history[:, :, : MOTION_LATENTS - newest], torch.zeros_like(history[:, :, :newest])], 2)
        oldest, older, last = history.split((16, 2, 1), 2)
        packed = {1: self.proj(last), 2: self.proj_2x(older), 4: self.proj_4x(oldest)}
        return torch.cat([packed[level] for level in levels], 1)

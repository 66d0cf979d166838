"""ConvNeXt-T and ConvNeXtV2-femto, inflated to video: the aesthetic half of DOVER, and both halves of DOVER-Mobile.

Sources: ConvNeXt (Liu et al. 2022, arXiv 2201.03545), ConvNeXt V2 (Woo et al. 2023, arXiv 2301.00808), and
https://github.com/VQAssessment/DOVER, `dover/models/conv_backbone.py`, for the inflation and the names of the weights.

Names of sizes: B batch, C channels, T x H x W positions in time, height and width.
"""

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

STEM = (2, 4, 4)  # frames and pixels that the first layer takes together
LENGTHS = (1, 3, 1)  # frames that the blocks of a stage look at, in turn
EPS = 1e-6
CLASSES = 1000  # of ImageNet, in the unused classifier that the weights of the second version carry


class ChannelNorm(nn.LayerNorm):
    """Over the channels of (B, C, T, H, W)."""

    def forward(self, x_BCTHW: Tensor) -> Tensor:
        return super().forward(x_BCTHW.movedim(1, -1)).movedim(-1, 1)


class ResponseNorm(nn.Module):
    """ConvNeXt V2's global response normalisation of (B, T, H, W, C).

    Upstream kept the axes of the image version when it moved to video: the response is gathered over T and H, and each
    column W has its own. The weights were trained so.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.gamma = nn.Parameter(torch.zeros(1, 1, 1, channels))
        self.beta = nn.Parameter(torch.zeros(1, 1, 1, channels))

    def forward(self, x_BTHWC: Tensor) -> Tensor:
        response = torch.linalg.vector_norm(x_BTHWC, dim=(1, 2), keepdim=True)
        relative = response / (response.mean(-1, keepdim=True) + EPS)
        return torch.addcmul(self.beta, x_BTHWC, 1 + self.gamma * relative)


class Block(nn.Module):
    """(B, C, T, H, W) -> (B, C, T, H, W), looking at `length` frames and 7x7 positions."""

    def __init__(self, channels: int, length: int):
        super().__init__()
        self.add_gain(channels)
        kernel = (length, 7, 7)
        self.dwconv = nn.Conv3d(channels, channels, kernel, padding=(length // 2, 3, 3), groups=channels)
        self.norm = nn.LayerNorm(channels, eps=EPS)
        self.pwconv1 = nn.Linear(channels, 4 * channels)
        self.pwconv2 = nn.Linear(4 * channels, channels)

    def add_gain(self, channels: int) -> None:
        self.gamma = nn.Parameter(torch.full((channels,), 1e-6))

    def change(self, x_BTHWC: Tensor) -> Tensor:
        return self.gamma * self.pwconv2(F.gelu(self.pwconv1(x_BTHWC)))

    def forward(self, x_BCTHW: Tensor) -> Tensor:
        seen_BTHWC = self.dwconv(x_BCTHW).movedim(1, -1)
        return x_BCTHW + self.change(self.norm(seen_BTHWC)).movedim(-1, 1)


class BlockV2(Block):
    """With response normalisation in place of the learned gain."""

    def add_gain(self, channels: int) -> None:
        self.grn = ResponseNorm(4 * channels)

    def change(self, x_BTHWC: Tensor) -> Tensor:
        return self.pwconv2(self.grn(F.gelu(self.pwconv1(x_BTHWC))))


class ConvNeXt3D(nn.Module):
    """(B, 3, 2 T, 32 H, 32 W) -> (B, C of the last stage, T, H, W)."""

    block: type[Block] = Block

    def __init__(self, depths: tuple[int, ...] = (3, 3, 9, 3), channels: tuple[int, ...] = (96, 192, 384, 768)):
        super().__init__()
        stem = nn.Sequential(nn.Conv3d(3, channels[0], STEM, STEM), ChannelNorm(channels[0], eps=EPS))
        self.downsample_layers = nn.ModuleList([stem])
        for wide, wider in pairwise(channels):
            halve = nn.Conv3d(wide, wider, (1, 2, 2), (1, 2, 2))
            self.downsample_layers.append(nn.Sequential(ChannelNorm(wide, eps=EPS), halve))
        self.stages = nn.ModuleList(
            nn.Sequential(*(self.block(width, LENGTHS[i % len(LENGTHS)]) for i in range(depth)))
            for width, depth in zip(channels, depths, strict=True)
        )
        self.norm = nn.LayerNorm(channels[-1], eps=EPS)

    def forward(self, x_BCTHW: Tensor) -> Tensor:
        for downsample, stage in zip(self.downsample_layers, self.stages, strict=True):
            x_BCTHW = stage(downsample(x_BCTHW))
        return self.norm(x_BCTHW.movedim(1, -1)).movedim(-1, 1)


class ConvNeXtV23D(ConvNeXt3D):
    """The same with the blocks of the second version. Nothing runs `head`; the official file has it."""

    block = BlockV2

    def __init__(self, depths: tuple[int, ...] = (2, 2, 6, 2), channels: tuple[int, ...] = (48, 96, 192, 384)):
        super().__init__(depths, channels)
        self.head = nn.Linear(channels[-1], CLASSES)

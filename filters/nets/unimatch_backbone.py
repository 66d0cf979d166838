"""The convolutional features of UniMatch's flow networks.

Source: Xu et al. 2023, arXiv 2211.05783; https://github.com/autonomousvision/unimatch, `unimatch/backbone.py` and
`trident_conv.py`, for the behaviour and the names of the weights. The norms have no weights of their own.

Names of sizes: B images, C channels, H x W pixels, or positions of features.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

WIDTHS = (64, 96, 128)  # of the three stages


class ResidualBlock(nn.Module):
    """(B, channels_in, H, W) -> (B, channels, H / stride, W / stride)."""

    def __init__(self, channels_in: int, channels: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels, 3, stride, 1, bias=False)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.downsample = nn.Sequential()
        if channels_in != channels or stride > 1:
            self.downsample.append(nn.Conv2d(channels_in, channels, 1, stride))
            self.downsample.append(nn.InstanceNorm2d(channels))

    def forward(self, x_BCHW: Tensor) -> Tensor:
        y_BCHW = F.relu(F.instance_norm(self.conv1(x_BCHW)))
        y_BCHW = F.relu(F.instance_norm(self.conv2(y_BCHW)))
        return F.relu(self.downsample(x_BCHW) + y_BCHW)


class SharedConv(nn.Conv2d):
    """(B, C, H, W) -> the same at half the resolution, and at all of it: one convolution with two strides."""

    def __init__(self, channels: int):
        super().__init__(channels, channels, 3, padding=1, bias=False)

    def forward(self, x_BCHW: Tensor) -> list[Tensor]:  # type: ignore[override]
        return [F.conv2d(x_BCHW, self.weight, stride=stride, padding=1) for stride in (2, 1)]


class Backbone(nn.Module):
    """(B, 3, H, W) -> features (B, C, H/8, W/8), and with two scales also (B, C, H/4, W/4): coarse first."""

    def __init__(self, channels: int, scales: int):
        super().__init__()
        first, second, third = WIDTHS
        self.conv1 = nn.Conv2d(3, first, 7, 2, 3, bias=False)
        self.layer1 = nn.Sequential(ResidualBlock(first, first, 1), ResidualBlock(first, first, 1))
        self.layer2 = nn.Sequential(ResidualBlock(first, second, 2), ResidualBlock(second, second, 1))
        stride = 2 if scales == 1 else 1
        self.layer3 = nn.Sequential(ResidualBlock(second, third, stride), ResidualBlock(third, third, 1))
        self.conv2 = nn.Conv2d(third, channels, 1)
        if scales == 2:
            self.trident_conv = SharedConv(channels)
        self.scales = scales

    def forward(self, images_B3HW: Tensor) -> list[Tensor]:
        x_BCHW = torch.relu(F.instance_norm(self.conv1(images_B3HW)))
        x_BCHW = self.conv2(self.layer3(self.layer2(self.layer1(x_BCHW))))
        return self.trident_conv(x_BCHW) if self.scales == 2 else [x_BCHW]

"""Where networks run: on the worker's GPU if it has one, there in half precision."""

from contextlib import AbstractContextManager
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor, nn

HALF = torch.float16
MEAN, DEVIATION = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)  # of ImageNet's colours, 0 to 255
Net = TypeVar("Net", bound=nn.Module)


def device() -> torch.device:
    """Ray shows a worker no GPU but its own."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def placed(net: Net) -> Net:
    """The network on this worker's device."""
    return net.to(device())


def half(*, allowed: bool = True) -> AbstractContextManager:
    """Autocast to half precision on a GPU; nothing on a CPU, where it would be slow."""
    return torch.autocast(device().type, HALF, enabled=allowed and device().type == "cuda")


def normalised(images: np.ndarray) -> Tensor:
    """(..., 3) uint8 RGB -> float32 by ImageNet's mean and deviation, on this worker's device. Bytes travel there, and
    not four times as many of floats that a CPU reckoned."""
    mean, deviation = (torch.tensor(value, device=device()) for value in (MEAN, DEVIATION))
    return (torch.from_numpy(images).to(device()) - mean) / deviation

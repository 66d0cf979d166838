"""Where networks run: on the worker's GPU if it has one, there in half precision."""

from contextlib import AbstractContextManager
from typing import TypeVar

import torch
from torch import nn

HALF = torch.float16
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

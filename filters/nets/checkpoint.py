"""Official files of weights, read safely and held to the network's own names and shapes."""

from pathlib import Path
from pickle import UnpicklingError
from typing import Any, TypeVar

import torch
from torch import nn

Net = TypeVar("Net", bound=nn.Module)


def read(path: Path, remedy: str) -> Any:
    """What torch saved there, on the CPU. Raises ValueError where it is no file of weights, with the remedy."""
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, UnpicklingError, EOFError) as error:
        raise ValueError(f"{path} can't be read as a file of weights. {remedy}") from error


def filled(net: Net, found: Any, path: Path, what: str, remedy: str) -> Net:
    """The network with the tensors `found` in `path`, ready to run. Raises ValueError where they aren't a mapping with
    exactly its names and shapes. what: the network, in that message."""
    wanted = {name: tensor.shape for name, tensor in net.state_dict().items()}
    held = {name: getattr(it, "shape", None) for name, it in found.items()} if isinstance(found, dict) else {}
    if held != wanted:
        differing = sorted({name for name, _ in wanted.items() ^ held.items()}, key=str)
        raise ValueError(
            f"{path} doesn't hold {what}: {len(differing)} names or shapes differ, such as {differing[0]}. {remedy}"
        )
    net.load_state_dict(found)
    return net.eval().requires_grad_(False)

"""What the benchmarks of the model share: networks and conditions to run, time and memory, numbers to print."""

import statistics
import time
import weakref
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from rich.console import Console
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from model.config import AUDIO_LAYERS, LATENT_STRIDE, MOTION_LATENTS, S2VConfig
from model.network import Conditions, S2VModel

Result = TypeVar("Result")

console = Console(width=120)
CUDA = torch.cuda.is_available()
DEVICE, DTYPE = (torch.device("cuda"), torch.bfloat16) if CUDA else (torch.device("cpu"), torch.float32)
REAL = S2VConfig()
FRAMES = 20  # latent frames of a clip
PROMPT, NEGATIVE = 100, 130  # tokens: a prompt of a few sentences, and the official negative one


def config_of(dim: int, layers: int) -> S2VConfig:
    """The 14B model's proportions: heads of 128, an FFN 2.7 times as wide, audio injected into the same blocks."""
    return S2VConfig(
        dim=dim,
        ffn_dim=dim * REAL.ffn_dim // REAL.dim,
        num_heads=dim // REAL.head_dim,
        num_layers=layers,
        audio_inject_layers=tuple(layer for layer in REAL.audio_inject_layers if layer < layers),
    )


def random_conditions(
    config: S2VConfig, height: int, width: int, device: torch.device, motion: bool = True
) -> tuple[Conditions, Tensor]:
    """A clip's conditions, and the negative prompt."""
    h, w = height // LATENT_STRIDE, width // LATENT_STRIDE
    conditions = Conditions(
        text=[torch.randn(PROMPT, config.text_dim, device=device)],
        audio=torch.randn(1, AUDIO_LAYERS, config.audio_dim, 4 * FRAMES, device=device),
        reference=torch.randn(1, config.in_dim, 1, h, w, device=device),
        motion=torch.randn(1, config.in_dim, MOTION_LATENTS, h, w, device=device) if motion else None,
    )
    return conditions, torch.randn(NEGATIVE, config.text_dim, device=device)


def build(config: S2VConfig) -> S2VModel:
    torch.manual_seed(0)
    with DEVICE:
        return S2VModel(config).to(DTYPE).eval()


def device_name() -> str:
    return torch.cuda.get_device_name() if CUDA else f"CPU, {torch.get_num_threads()} threads"


# ---------------------------------------------------------------- time


def timed(work: Callable[[], Result]) -> tuple[float, Result]:
    """(seconds, what `work` returns)"""
    if CUDA:
        torch.cuda.synchronize()
    began = time.perf_counter()
    result = work()
    if CUDA:
        torch.cuda.synchronize()
    return time.perf_counter() - began, result


def take_turns(works: Sequence[Callable[[], object]], turns: int) -> list[list[float]]:
    """Seconds of each, turn by turn, after one turn that doesn't count."""
    rounds = [[timed(work)[0] for work in works] for _ in range(turns + 1)]
    return [list(column) for column in zip(*rounds[1:], strict=True)]


def spread(values: Sequence[float], unit: str = "", scale: float = 1) -> str:
    low, middle, high = (number(scale * q) for q in statistics.quantiles(values, n=4, method="inclusive"))
    return f"{middle}{unit} ({low} to {high})"


def number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def ratio(slower: Sequence[float], faster: Sequence[float]) -> str:
    return spread([a / b for a, b in zip(slower, faster, strict=True)], "x")


# ---------------------------------------------------------------- memory


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of tensors that exist, on any device: on "meta" they exist without memory.

    Within inference mode an operation such as a norm or attention is one step, and what it holds meanwhile isn't seen.
    """

    def __init__(self) -> None:
        super().__init__()
        self.live, self.peak = 0, 0
        self.known: set[int] = set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        given = {storage_id(t) for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)}
        result = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor) and storage_id(tensor) not in given | self.known:
                self.add(tensor.untyped_storage())
        return result

    def add(self, storage: torch.UntypedStorage) -> None:
        self.live += storage.nbytes()
        self.peak = max(self.peak, self.live)
        self.known.add(storage._cdata)
        weakref.finalize(storage, self.drop, storage._cdata, storage.nbytes())

    def drop(self, key: int, size: int) -> None:
        self.live -= size
        self.known.remove(key)


def storage_id(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata


def peak_bytes(work: Callable[[], object]) -> int:
    """The most memory that `work` takes beyond what is there before it; on CUDA with all that kernels need."""
    if not CUDA:
        with LiveBytes() as tracker:
            work()
        return tracker.peak
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    work()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before

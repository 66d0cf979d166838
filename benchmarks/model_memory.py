"""What memory S2VConfig predicts, what the network's code allocates, and on CUDA what it is measured to take."""

import argparse
from unittest.mock import patch

import torch
import torch.nn.functional as F
from rich.table import Table as Grid
from torch import Tensor

from benchmarks.measuring import (
    CUDA,
    DEVICE,
    FRAMES,
    REAL,
    LiveBytes,
    build,
    config_of,
    console,
    peak_bytes,
    random_conditions,
)
from benchmarks.plain_sampler import padded
from model.config import S2VConfig
from model.network import S2VModel


def flash_attention(q: Tensor, k: Tensor, v: Tensor, attn_mask: Tensor | None = None) -> Tensor:
    """The shape and layout of what flash attention returns; "meta" would otherwise hold all scores."""
    return torch.empty_like(q.transpose(1, 2)).transpose(1, 2)


@torch.inference_mode()
def tracked_bytes(config: S2VConfig, height: int, width: int, motion: bool = True) -> tuple[int, int]:
    """(caches, peak of activations) of one forward pass without memory: this network's code, on "meta" tensors."""
    meta = torch.device("meta")
    with meta:
        network = S2VModel(config).bfloat16()
    conditions, _ = random_conditions(config, height, width, meta, motion)
    conditions = padded(conditions, config.text_len)
    latent = torch.empty(1, config.in_dim, FRAMES, *conditions.reference.shape[-2:], device=meta)
    with patch.object(F, "scaled_dot_product_attention", flash_attention):
        with LiveBytes() as kept:
            encoded = network.listen(network.encode(conditions, FRAMES))
        with LiveBytes() as passing:
            network.denoise(latent, torch.empty(1, device=meta), encoded)
    return kept.live, passing.peak


def memory(arguments: argparse.Namespace) -> None:
    """Predicted by S2VConfig, and what this code allocates; on CUDA also measured, of a network of a few layers."""
    grid = Grid(title="GB in bfloat16: weights, caches of a branch of guidance, activations", title_justify="left")
    columns = ["picture", "motion", "weights", "caches", "tracked", "activations", "tracked", "differ"]
    for name in columns + (["measured", "differ"] if CUDA else []):
        grid.add_column(name, justify="right")
    for width, height in ((832, 448), (704, 1024), (1280, 704)):
        for motion in (False, True):
            grid.add_row(f"{width}x{height}", "yes" if motion else "no", *memory_row(height, width, motion, arguments))
    console.print(grid)


def memory_row(height: int, width: int, motion: bool, arguments: argparse.Namespace) -> list[str]:
    caches, activations = tracked_bytes(REAL, height, width, motion)
    predicted = REAL.activation_bytes(FRAMES, height, width, motion)
    found = [REAL.weight_bytes(), REAL.cache_bytes(FRAMES, height, width, motion), caches, predicted, activations]
    row = [f"{n / 1e9:.2f}" for n in found] + [f"{predicted / activations - 1:+.1%}"]
    if CUDA:
        measured = measured_bytes(config_of(REAL.dim, arguments.layers), height, width, motion)
        row += [f"{measured / 1e9:.2f}", f"{predicted / measured - 1:+.1%}"]
    return row


@torch.inference_mode()
def measured_bytes(config: S2VConfig, height: int, width: int, motion: bool) -> int:
    network = build(config)
    conditions, _ = random_conditions(config, height, width, DEVICE, motion)
    encoded = network.listen(network.encode(conditions, FRAMES))
    latent = torch.randn(1, config.in_dim, FRAMES, *conditions.reference.shape[-2:], device=DEVICE)
    return peak_bytes(lambda: network.denoise(latent, torch.tensor([500.0], device=DEVICE), encoded))

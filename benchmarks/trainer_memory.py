"""What activation memory the planner predicts of a training pass, and what the trainer's code allocates.

    python -m benchmarks.trainer_memory [--all]

Forward and backward of `trainer.objective.FlowMatching`, without memory: tensors on "meta" exist in name only, and
their bytes are counted. So the real network's sizes can be checked on any machine. Ranks that share a sample are rank 0
of a process group whose collectives move nothing. Attention and RMS norm count as the kernels that CUDA runs; weights'
gradients are freed at once, as ZeRO-3 does.
"""

import argparse
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any
from unittest.mock import patch

import torch
import torch.distributed as dist
import torch.nn.functional as F
from rich.table import Table as Grid
from torch import Tensor
from torch.testing._internal.distributed.fake_pg import FakeStore

from benchmarks.measuring import REAL, LiveBytes, config_of, console
from model import sequence_parallel
from model.config import AUDIO_LAYERS, LATENT_STRIDE, MOTION_LATENTS, S2VConfig
from model.layout import Layout
from model.network import S2VModel
from model.parallel import ALONE, Parallel
from model.sequence_parallel import SequenceParallel, build_mesh
from trainer.draws import Draw
from trainer.objective import FlowMatching, squared_error
from trainer.recompute import Recompute, apply_recompute
from trainer.sample import Example

aten = torch.ops.aten
META = torch.device("meta")


@dataclass(frozen=True)
class Case:
    """A training pass. frames: of video."""

    name: str
    config: S2VConfig
    frames: int
    height: int
    width: int
    recompute: Recompute = "all-but-attention"
    ring: int = 1
    ulysses: int = 1
    precision: str = "bf16"


def counted(case: Case) -> int:
    """The most bytes that a pass holds beside weights and their gradients."""
    with META:
        network = S2VModel(case.config).to(torch.bfloat16 if case.precision == "bf16" else torch.float32)
    for parameter in network.parameters():
        parameter.register_post_accumulate_grad_hook(forget)
    apply_recompute(network, case.recompute)
    example = empty_example(case)
    drawn = Draw(0.5, torch.empty(example.latent.shape, device=META))
    with kernels_of_cuda(), shared(case) as parallel, LiveBytes() as tracker:
        squared_error(FlowMatching(network), example, drawn, parallel).backward()
    return tracker.peak


def empty_example(case: Case) -> Example:
    config, latents = case.config, case.frames // 4
    h, w = case.height // LATENT_STRIDE, case.width // LATENT_STRIDE
    shapes = {
        "latent": (config.in_dim, latents, h, w),
        "motion": (config.in_dim, MOTION_LATENTS, h, w),
        "reference": (config.in_dim, 1, h, w),
        "pose": (config.cond_dim, latents, h, w),
        "audio": (AUDIO_LAYERS, config.audio_dim, case.frames),
        "text": (config.text_len, config.text_dim),
        "no_text": (1, config.text_dim),
    }
    tensors = {name: torch.empty(shape, dtype=torch.float16, device=META) for name, shape in shapes.items()}
    return Example("clip", "speech", 0, **tensors)


def forget(parameter: Tensor) -> None:
    parameter.grad = None


# ---------------------------------------------------------------- as on CUDA


@contextmanager
def kernels_of_cuda() -> Iterator[None]:
    with patch.object(F, "scaled_dot_product_attention", fused_attention), patch.object(F, "rms_norm", fused_norm):
        yield


def fused_attention(q: Tensor, k: Tensor, v: Tensor, attn_mask: Tensor | None = None) -> Tensor:
    """No kernel holds scores; the one for masks is another than the one without."""
    if attn_mask is None:
        return aten._scaled_dot_product_flash_attention(q, k, v)[0]
    return aten._scaled_dot_product_efficient_attention(q, k, v, attn_mask.expand(*q.shape[:3], -1), True)[0]


class FusedNorm(torch.autograd.Function):
    """Keeps its input and a number a row. Elsewhere RMS norm is several operations that keep two copies in float32."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight, x.new_empty(x.shape[:-1], dtype=torch.float32))
        return torch.empty_like(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        x, weight, _ = ctx.saved_tensors
        return torch.empty_like(x), torch.empty_like(weight)


def fused_norm(x: Tensor, shape: Any, weight: Tensor, eps: float) -> Tensor:
    return FusedNorm.apply(x, weight)


# ---------------------------------------------------------------- ranks that share the sample


@contextmanager
def shared(case: Case) -> Iterator[Parallel]:
    ranks = case.ring * case.ulysses
    if ranks == 1:
        yield ALONE
        return
    dist.init_process_group("fake", rank=0, world_size=ranks, store=FakeStore())
    try:
        with ExitStack() as patches:
            patches.enter_context(patch.object(sequence_parallel, "real_keys", real_keys_on_meta))
            patches.enter_context(patch.object(dist, "batch_isend_irecv", lambda transfers: [Moving(transfers)]))
            yield SequenceParallel(build_mesh(case.ring, case.ulysses, case.config.num_heads))
    finally:
        dist.destroy_process_group()


@dataclass
class Moving:
    """Holds what is sent and received, as a transfer does."""

    transfers: Any

    def wait(self) -> None:
        self.transfers = None


real_keys = sequence_parallel.real_keys


def real_keys_on_meta(layout: Layout, ring: int) -> tuple[Tensor, ...]:
    """Which keys are padding can't be asked of tensors without content."""
    on_cpu = Layout.of(layout.frames, layout.height, layout.width, layout.levels, layout.rank, layout.world)
    return tuple(places.to(META) for places in real_keys(on_cpu, ring))

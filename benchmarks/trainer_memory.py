"""The memory that the planner predicts for the activations of a training pass, and what the trainer's code allocates.

    python -m benchmarks.trainer_memory [--quick]

Forward and backward of `trainer.objective.FlowMatching`, as DeepSpeed runs it. "counted": on "meta" tensors, which
exist in name only, so that the real network's sizes can be checked on any machine. Attention and RMS norm count as the
kernels that CUDA has; ranks that share a sample belong to a process group that moves nothing. "allocated": what
torch took of a CPU's memory for the same pass, where it is small enough to run. Gradients of weights are freed at once,
as ZeRO-3 does: they aren't activations.
"""

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import accumulate
from typing import Any, Literal, get_args
from unittest.mock import patch

import torch
import torch.distributed as dist
import torch.nn.functional as F
from rich.table import Table as Grid
from torch import Tensor
from torch.profiler import ProfilerActivity, profile
from torch.testing._internal.distributed.fake_pg import FakeStore

from benchmarks.measuring import REAL, LiveBytes, config_of, console
from model import sequence_parallel
from model.config import S2VConfig
from model.layout import Layout
from model.network import S2VModel
from model.parallel import ALONE, Parallel
from model.sequence_parallel import SequenceParallel, build_mesh
from trainer.draws import Draw
from trainer.encoders import Widths
from trainer.objective import FlowMatching, squared_error
from trainer.plan_activations import Arrangement, Share, Size, activations
from trainer.plan_memory import Parameters, element_bytes
from trainer.recompute import Recompute, apply_recompute
from trainer.sample import Example, Shape
from trainer.stages import Stage, audio_encoder
from trainer.zero import ask_for_gradient, deepspeed

aten = torch.ops.aten
META = torch.device("meta")
linear_of_deepspeed = deepspeed.runtime.zero.linear.zero3_linear_wrap  # it keeps inputs where weights don't learn, too


@dataclass(frozen=True)
class Case:
    """A training pass. frames: of video. rank: of those that share the sample."""

    config: S2VConfig
    frames: int
    height: int
    width: int
    recompute: Recompute = "all-but-attention"
    ring: int = 1
    ulysses: int = 1
    trains: tuple[str, ...] = ("*",)
    precision: Literal["bf16", "fp32"] = "bf16"
    rank: int = 0

    @property
    def size(self) -> Size:
        return Size(self.frames, self.height, self.width)

    @property
    def arrangement(self) -> Arrangement:
        return Arrangement(self.ring, self.ulysses, self.recompute)

    @property
    def stage(self) -> Stage:
        return Stage(name="measured", steps=1, trains=self.trains, precision=self.precision)


def predicted(case: Case) -> float:
    learn = Parameters.of(case.config, case.stage).blocks_learn
    return activations(case.config, case.size, case.arrangement, element_bytes(case.stage), learn).total


def counted(case: Case) -> int:
    """The most bytes that a pass holds beside weights and their gradients."""
    network, example, drawn = made(case, META)
    with kernels_of_cuda(), shared(case) as parallel, LiveBytes() as tracker:
        squared_error(FlowMatching(network), example, drawn, parallel).backward()
    return tracker.peak


def allocated(case: Case) -> int:
    """The same, as torch reports what it takes from the CPU's memory and gives back."""
    network, example, drawn = made(case, torch.device("cpu"))
    patches = patch.object(F, "rms_norm", fused_norm), patch.object(F, "linear", linear_of_deepspeed)
    with patches[0], patches[1], profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        squared_error(FlowMatching(network), example, drawn).backward()
    events = [e for e in profiler.profiler.kineto_results.events() if e.name() == "[memory]"]
    return max(accumulate(e.nbytes() for e in sorted(events, key=lambda e: e.start_ns())))


def made(case: Case, device: torch.device) -> tuple[S2VModel, Example, Draw]:
    with device:
        network = S2VModel(case.config).to(torch.bfloat16 if case.precision == "bf16" else torch.float32)
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(case.stage.learns(name))
        if parameter.requires_grad:
            parameter.register_post_accumulate_grad_hook(forget)
    apply_recompute(network, case.recompute)
    network.layers[0].register_forward_pre_hook(ask_for_gradient)
    example = example_of(case.config, case.frames, case.height, case.width, partial(torch.zeros, device=device))
    return network, example, Draw(0.5, torch.zeros(example.latent.shape, device=device))


def example_of(
    config: S2VConfig, frames: int, height: int, width: int, make: Callable[[Sequence[int]], Tensor]
) -> Example:
    """frames: of video; height, width: pixels. make: a tensor of a shape."""
    widths = Widths(config.in_dim, config.audio_dim, config.text_dim, config.text_len)
    shapes = widths.shapes(Shape(frames, 0, height, width))
    return Example("clip", "speech", 0, **{name: make(shape).half() for name, shape in shapes.items()})


def forget(parameter: Tensor) -> None:
    parameter.grad = None


# ---------------------------------------------------------------- as on CUDA


@contextmanager
def kernels_of_cuda() -> Iterator[None]:
    with ExitStack() as patches:
        for name, function in {
            "scaled_dot_product_attention": fused_attention,
            "rms_norm": fused_norm,
            "linear": linear_of_deepspeed,
        }.items():
            patches.enter_context(patch.object(F, name, function))
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
        return torch.empty_like(x), torch.empty_like(weight)  # what it is doesn't matter


def fused_norm(x: Tensor, shape: Any, weight: Tensor, eps: float) -> Tensor:
    return FusedNorm.apply(x, weight)


# ---------------------------------------------------------------- ranks that share the sample


@contextmanager
def shared(case: Case) -> Iterator[Parallel]:
    if case.arrangement.sequence == 1:
        yield ALONE
        return
    dist.init_process_group("fake", rank=case.rank, world_size=case.arrangement.sequence, store=FakeStore())
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


# ---------------------------------------------------------------- the table

DEEP = replace(REAL, num_layers=8, audio_inject_layers=(0, 4, 7))
LARGE, LONG, SMALL = (48, 768, 1024), (80, 448, 832), (16, 256, 256)  # frames, height, width
LISTENING = audio_encoder().trains


def cases(quick: bool) -> Iterator[Case]:
    """quick: those that take seconds, and can be run, too."""
    for recompute in get_args(Recompute):
        yield Case(config_of(512, 4), *SMALL, recompute)
        yield Case(config_of(512, 4), *SMALL, recompute, precision="fp32")
        if quick:
            continue
        for config, shape in ((config_of(1024, 6), LARGE), (DEEP, SMALL), (DEEP, LONG), (DEEP, LARGE)):
            yield Case(config, *shape, recompute)
        for ring, ulysses in ((1, 8), (2, 4), (8, 1), (2, 1)):
            yield Case(DEEP, *LARGE, recompute, ring, ulysses)
        yield Case(DEEP, *LARGE, recompute, 1, 8, LISTENING)
    if not quick:
        yield Case(REAL, *LARGE, "all-but-attention", 1, 8)


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small networks only, in seconds")
    grid = Grid(title="GB of activations, weights in bfloat16 but for fp32", title_justify="left")
    for name in ("width", "layers", "frames", "picture", "computed again", "U x R", "learns"):
        grid.add_column(name)
    for name in ("tokens", "predicted", "counted", "differ", "allocated"):
        grid.add_column(name, justify="right")
    for case in cases(parser.parse_args(arguments).quick):
        grid.add_row(*row(case))
    console.print(grid)


def row(case: Case) -> list[str]:
    config, ranks = case.config, case.arrangement.sequence
    share, guess, count = Share.of(config, case.size, ranks), predicted(case), counted(case)
    runs = config.dim <= 512 and ranks == 1
    return [
        str(config.dim) + (" fp32" if case.precision == "fp32" else ""),
        str(config.num_layers),
        str(case.frames),
        f"{case.width}x{case.height}",
        case.recompute,
        f"{case.ulysses} x {case.ring}",
        "all" if case.trains == ("*",) else "audio",
        f"{share.tokens:,}",
        f"{guess / 1e9:.3f}",
        f"{count / 1e9:.3f}",
        f"{guess / count - 1:+.1%}",
        f"{allocated(case) / 1e9:.3f}" if runs else "",
    ]


if __name__ == "__main__":
    main(sys.argv[1:])

"""How fast single blocks are, with and without torch.compile, and what follows for the whole network."""

import argparse
import os
import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from unittest.mock import patch

import torch
from rich.table import Table as Grid

from benchmarks.measuring import (
    CUDA,
    DEVICE,
    PROMPT,
    REAL,
    config_of,
    console,
    device_name,
    ratio,
    spread,
    take_turns,
    timed,
)
from model.attention import attention
from model.block import Block, Context
from model.config import S2VConfig
from model.layout import PACKED, Layout
from model.rope import rope_table
from trainer.metrics import peak_of

PASSES = 80  # forward passes of a clip: 40 steps, two branches


@dataclass(frozen=True)
class Shape:
    frames: int
    height: int
    width: int
    motion: bool = True

    def tokens(self) -> int:
        return REAL.tokens(self.frames, self.height, self.width, self.motion)

    def layout(self) -> Layout:
        return Layout.of(self.frames, self.height // 16, self.width // 16, tuple(PACKED) * self.motion, device=DEVICE)


@dataclass(frozen=True)
class Race:
    """One block at one shape, with and without compilation. compiling: seconds of the calls that compiled."""

    eager: list[float]
    compiled: list[float]
    compiling: list[float]


@torch.inference_mode()
def race(config: S2VConfig, injects: bool, shapes: Sequence[Shape], turns: int) -> Race:
    """At the last of the shapes, after the others: a second shape makes the compiler look for code that fits all."""
    with DEVICE:
        eager, compiled = (Block(config, injects).to(torch.bfloat16) for _ in range(2))
    compiled.compile()
    compiling = []
    for shape in shapes:
        given = block_inputs(config, eager, shape)
        compiling.append(timed(partial(compiled, *given))[0])
    times = take_turns([partial(eager, *given), partial(compiled, *given)], turns)
    return Race(times[0], times[1], compiling)


def block_inputs(config: S2VConfig, block: Block, shape: Shape) -> tuple:
    layout, d = shape.layout(), config.dim
    context = Context(
        torch.randn(1, PROMPT + 2, d, device=DEVICE),
        torch.zeros(1, 1, 1, PROMPT + 2, device=DEVICE),
        torch.randn(1, shape.frames, config.audio_tokens, d, device=DEVICE),
        torch.randn(1, shape.frames, d, device=DEVICE),
    )
    x = torch.randn(1, layout.tokens, d, device=DEVICE)
    modulation = torch.randn(1, 2, 6, d, device=DEVICE)
    return x, modulation, rope_table(layout.positions, config.head_dim), block.listen(context), layout, attention


def block_tflops(config: S2VConfig, injects: bool, shape: Shape) -> float:
    """Projections and self-attention, and the injection's; attention to the text, under 1 %, isn't counted."""
    one = replace(config, num_layers=1, audio_inject_layers=(0,) * injects)
    parts = one.flops(shape.frames, shape.height, shape.width, shape.motion)
    return (parts["linear"] + parts["self_attention"] + parts["injection"]) / 1e12


def blocks(arguments: argparse.Namespace) -> None:
    """Throughput of blocks of the real width, and what follows for the whole network."""
    config, shapes = reduced_unless_cuda()
    peak = peak_of(DEVICE)
    grid = Grid(title=f"blocks of width {config.dim}, bfloat16, {device_name()}", title_justify="left")
    for name in ("tokens", "block", "", "ms", "tokens/s", "TFLOP/s", "of peak", "speed-up"):
        grid.add_column(name, justify="left" if name in ("block", "") else "right")
    whole = []
    for shape in shapes:
        races = [blocks_raced(config, injects, shape, arguments.turns) for injects in (False, True)]
        for injects, result in enumerate(races):
            work = block_tflops(config, bool(injects), shape)
            for how, seconds in (("eager", result.eager), ("compiled", result.compiled)):
                middle = statistics.median(seconds)
                share = f"{1e12 * work / middle / peak:.0%}" if peak else "n/a"
                gain = ratio(result.eager, result.compiled) if how == "compiled" else ""
                rates = f"{shape.tokens() / middle:,.0f}", f"{work / middle:.3g}", share, gain
                name = "injecting" if injects else "other"
                grid.add_row(f"{shape.tokens():,}", name, how, spread(seconds, scale=1000), *rates)
        whole.append(extrapolated(shape, races))
    console.print(grid)
    console.print("Extrapolated, not measured: 40 blocks, 12 of them injecting, without embedders, head and VAE;")
    console.print(f"a clip is {PASSES} passes (40 steps with guidance).")
    for sentence in whole:
        console.print(sentence)


def blocks_raced(config: S2VConfig, injects: bool, shape: Shape, turns: int) -> Race:
    torch.compiler.reset()
    return race(config, injects, [shape], turns)


def extrapolated(shape: Shape, races: Sequence[Race]) -> str:
    found = []
    for how in ("eager", "compiled"):
        one = whole_pass(*(statistics.median(getattr(r, how)) for r in races))
        found.append(f"{how} {one:.3g} s a pass, {PASSES * one:,.3g} s a clip")
    return f"{shape.tokens():,} tokens: {'; '.join(found)}."


def whole_pass(other: float, injecting: float) -> float:
    count = len(REAL.audio_inject_layers)
    return (REAL.num_layers - count) * other + count * injecting


def compile_command(arguments: argparse.Namespace) -> None:
    """As generation compiles: the first clip has no past, the others do, and all blocks of a kind share their code."""
    config, shapes = reduced_unless_cuda()
    shape = shapes[arguments.shape]
    torch.compiler.reset()
    sequence = [replace(shape, motion=False), shape]
    with tempfile.TemporaryDirectory() as empty, patch.dict(os.environ, TORCHINDUCTOR_CACHE_DIR=empty):
        races = [race(config, injects, sequence, arguments.turns) for injects in (False, True)]
    grid = Grid(title=f"{shape.tokens():,} tokens, width {config.dim}, {device_name()}", title_justify="left")
    for name in ("block", "eager, ms", "compiled, ms", "speed-up", "compiling, s"):
        grid.add_column(name, justify="left" if name == "block" else "right")
    for name, result in zip(("other", "injecting"), races, strict=True):
        times = spread(result.eager, scale=1000), spread(result.compiled, scale=1000)
        took = " + ".join(f"{seconds:.1f}" for seconds in result.compiling)
        grid.add_row(name, *times, ratio(result.eager, result.compiled), took)
    console.print(grid)
    compiling = sum(sum(result.compiling) for result in races)
    eager, compiled = (
        whole_pass(*(statistics.median(getattr(r, how)) for r in races)) for how in ("eager", "compiled")
    )
    saved = PASSES * (eager - compiled)
    console.print(
        f"Compiling takes {compiling:.0f} s. 40 blocks, extrapolated: {saved:.1f} s less a clip of {PASSES} passes."
    )
    if saved > 0:
        console.print(f"It pays from clip {1 + int(compiling / saved)} on.")
    else:
        console.print("It doesn't pay here.")


def reduced_unless_cuda() -> tuple[S2VConfig, list[Shape]]:
    if CUDA:
        return REAL, [Shape(20, 192, 320), Shape(20, 384, 640), Shape(12, 768, 1024)]
    console.print("[yellow]No GPU: a width of 256, to run the same code. It says nothing about a GPU.[/]")
    return config_of(256, 40), [Shape(4, 128, 128), Shape(8, 128, 128), Shape(20, 128, 128)]

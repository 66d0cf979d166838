"""Forward and backward of blocks, with each choice of what is computed again."""

import argparse
import statistics
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import torch
from rich.table import Table as Grid

from benchmarks.measuring import CUDA, DEVICE, REAL, config_of, console, device_name, peak_bytes, spread, take_turns
from benchmarks.trainer_memory import example_of
from model.config import S2VConfig
from model.network import S2VModel
from trainer.draws import Draw
from trainer.metrics import peak_of
from trainer.objective import FlowMatching, squared_error
from trainer.recompute import Recompute, apply_recompute
from trainer.sample import Example

CHOICES: tuple[Recompute, ...] = ("all", "all-but-attention", "nothing")


class Pass:
    """Forward and backward of a network with few blocks. Its embedders and head are there, and count."""

    def __init__(self, config: S2VConfig, example: Example, choice: Recompute):
        with DEVICE:
            network = S2VModel(config).to(torch.bfloat16 if CUDA else torch.float32)
        apply_recompute(network, choice)
        self.objective, self.example = FlowMatching(network), example
        self.drawn = Draw(0.5, torch.randn(example.latent.shape))

    def __call__(self) -> None:
        for parameter in self.objective.parameters():
            parameter.grad = None
        squared_error(self.objective, self.example, self.drawn).backward()


def blocks(arguments: argparse.Namespace) -> None:
    """At the size of the paper on a GPU; on a CPU, narrow and small: it shows that the code runs."""
    layers = arguments.layers
    if CUDA:
        size, config = (48, 1024, 768), replace(REAL, num_layers=layers, audio_inject_layers=(0,))
    else:
        size, config = (16, 192, 128), replace(config_of(256, layers), audio_inject_layers=(0,))
    tokens = config.tokens(size[0] // 4, *size[1:])
    flops = 3 * sum(config.flops(size[0] // 4, *size[1:]).values())
    example, peak = example_of(config, *size, partial(torch.randn, device=DEVICE)), peak_of(DEVICE)
    grid = Grid(
        title=f"{layers} blocks of width {config.dim}, {tokens:,} tokens, {device_name()}", title_justify="left"
    )
    for name in ("computed again", "s, forward and backward", "tokens/s", "MFU", "memory"):
        grid.add_column(name, justify="right")
    passes = [Pass(config, example, choice) for choice in CHOICES]
    times = take_turns(passes, arguments.turns)
    for choice, work, seconds in zip(CHOICES, passes, times, strict=True):
        middle = statistics.median(seconds)
        share = f"{flops / middle / peak:.1%}" if peak else "-"
        memory = f"{peak_bytes(work) / 1e9:.2f} GB"
        grid.add_row(choice, spread(seconds), f"{tokens / middle:,.0f}", share, memory)
    console.print(grid)
    whole = [statistics.median(seconds) / layers * REAL.num_layers for seconds in times]
    if CUDA:
        said = ", ".join(f"{choice} {seconds / 8:.2f} s" for choice, seconds in zip(CHOICES, whole, strict=True))
        console.print(f"Extrapolated to {REAL.num_layers} blocks on 8 GPUs, communication not counted: {said}.")


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--turns", type=int, default=5)
    blocks(parser.parse_args(arguments))

"""What the sampler's caches give, against a plain sampler of the same network that recomputes everything."""

import argparse
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial

import torch
from rich.table import Table as Grid
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.measuring import (
    DEVICE,
    DTYPE,
    FRAMES,
    REAL,
    build,
    config_of,
    console,
    device_name,
    peak_bytes,
    random_conditions,
    ratio,
    spread,
    take_turns,
    timed,
)
from benchmarks.plain_sampler import PlainGuided, padded, plain_steps
from model.config import LATENT_STRIDE
from model.network import Conditions, S2VModel
from model.sampler import BATCHED_TOKENS, Guided, Sampling, Velocity, clip_noise, sample


def caches(arguments: argparse.Namespace) -> None:
    """The sampler with its caches against the plain one, of the same network."""
    width, height = arguments.size
    config = config_of(arguments.dim, arguments.layers)
    network = build(config)
    conditions, negative = random_conditions(config, height, width, DEVICE)
    console.print(f"{device_name()}, {DTYPE}; {config.num_layers} blocks of width {config.dim}", end=", ")
    console.print(f"{len(config.audio_inject_layers)} of them inject audio; {width}x{height}", end=", ")
    console.print(f"{config.tokens(FRAMES, height, width):,} tokens")
    console.print(parts_grid(network, conditions, negative, arguments.turns))
    compare_clips(network, conditions, negative, Sampling(steps=arguments.steps))
    console.print(real_size())


@torch.inference_mode()
def parts_grid(network: S2VModel, conditions: Conditions, negative: Tensor, turns: int) -> Grid:
    """Where a forward pass spends its time, and so what each cache can save."""
    h, w = conditions.reference.shape[-2:]
    latent = torch.randn(1, network.config.in_dim, FRAMES, h, w, device=DEVICE)
    both = replace(conditions, text=[*conditions.text, negative], audio=conditions.audio.expand(2, -1, -1, -1))
    full = padded(conditions, network.config.text_len)
    encoded, encoded_full, encoded_both = (
        network.listen(network.encode(given, FRAMES)) for given in (conditions, full, both)
    )
    times = torch.tensor([500.0], device=DEVICE)
    parts: dict[str, Callable[[], object]] = {
        "plain": partial(network, latent, times, full),
        "  of it the embedders": partial(network.encode, full, FRAMES),
        "  of it keys and values of the blocks": partial(network.listen, encoded_full),
        "with caches": partial(network.denoise, latent, times, encoded),
        "with caches, the text still padded": partial(network.denoise, latent, times, encoded_full),
    }
    if network.config.tokens(FRAMES, LATENT_STRIDE * h, LATENT_STRIDE * w) <= BATCHED_TOKENS:
        latents = latent.expand(2, -1, -1, -1, -1)
        parts["with caches, both branches at once"] = partial(network.denoise, latents, times.expand(2), encoded_both)
    columns = take_turns(list(parts.values()), turns)
    grid = Grid(title="one forward pass", title_justify="left")
    for name in ("", "ms", "of the plain one", "peak memory, MB"):
        grid.add_column(name, justify="right" if name else "left")
    for (name, work), seconds in zip(parts.items(), columns, strict=True):
        share = spread([b / a for a, b in zip(columns[0], seconds, strict=True)], " %", 100)
        grid.add_row(name, spread(seconds, scale=1000), share, f"{peak_bytes(work) / 1e6:,.0f}")
    return grid


@dataclass
class Watched:
    """A velocity, and the seconds of every call."""

    velocity: Velocity
    seconds: list[float] = field(default_factory=list)

    def __call__(self, latent: Tensor, timestep: Tensor) -> Tensor:
        seconds, result = timed(lambda: self.velocity(latent, timestep))
        self.seconds.append(seconds)
        return result


@torch.inference_mode()
def compare_clips(network: S2VModel, conditions: Conditions, negative: Tensor, sampling: Sampling) -> None:
    """Two whole samplings of a clip, which take turns step by step, and must arrive at the same latents."""
    h, w = conditions.reference.shape[-2:]
    noise = clip_noise((network.config.in_dim, FRAMES, h, w), 0, 0, DEVICE)[None]
    prepare, guided = timed(lambda: Guided(network, conditions, negative, sampling.guidance, FRAMES))
    cached = Watched(guided)
    plain = Watched(PlainGuided(network, conditions, negative, sampling.guidance))
    steps = plain_steps(plain, noise, sampling)
    theirs: list[Tensor] = []
    ours = sample(cached, noise, sampling, on_step=lambda: theirs.append(next(steps)))
    difference = float((ours - theirs[-1]).norm() / theirs[-1].norm())
    grid = Grid(title=f"a clip of {sampling.steps} steps with guidance", title_justify="left")
    for name in ("", "s a step", "s a clip", "before the first step, s"):
        grid.add_column(name, justify="right" if name else "left")
    grid.add_row("plain", spread(plain.seconds), f"{sum(plain.seconds):.2f}", "")
    grid.add_row("caches", spread(cached.seconds), f"{prepare + sum(cached.seconds):.2f}", f"{prepare:.2f}")
    total = sum(plain.seconds) / (prepare + sum(cached.seconds))
    console.print(grid)
    console.print(f"{ratio(plain.seconds, cached.seconds)} a step, {total:.2f}x a clip. ", end="")
    console.print(f"Relative difference of the latents: {difference:.1e}.")


@torch.no_grad()  # not inference mode: the counter wouldn't see into operations
def real_size() -> str:
    """What to expect of the 14B model, counted: its ratio is that of the FLOPs where the device is busy throughout."""
    meta = torch.device("meta")
    with meta:
        network = S2VModel(REAL).bfloat16()
    sentences = ["Counted FLOPs of the 14B model's forward pass, plain against cached:"]
    for width, height in ((320, 192), (832, 448), (704, 1024)):
        conditions, _ = random_conditions(REAL, height, width, meta)
        latent = torch.empty(1, REAL.in_dim, FRAMES, *conditions.reference.shape[-2:], device=meta)
        times, full = torch.empty(1, device=meta), padded(conditions, REAL.text_len)
        encoded = network.listen(network.encode(conditions, FRAMES))
        plain, cached = (
            flops(partial(network, latent, times, full)),
            flops(partial(network.denoise, latent, times, encoded)),
        )
        sentences.append(f"{width}x{height} {plain / 1e12:,.1f} and {cached / 1e12:,.1f} TFLOP, {plain / cached:.3f}x.")
    return " ".join(sentences)


def flops(work: Callable[[], object]) -> int:
    with FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops()

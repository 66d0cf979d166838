"""Training on many ranks against training on one: loss, every gradient, weights after three updates, bytes sent.

python -m benchmarks.trainer_parity prints the table of docs/training.md. It starts 2 and 4 processes on the CPU (gloo).
What they are compared with is one process without DeepSpeed and without sequence parallelism. --break ring|scale makes
an error that must be found.
"""

import argparse
import json
import os
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import lru_cache
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
import torch.distributed as dist
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from model.checkpoint import load_network
from model.config import LATENT_STRIDE
from model.launch import run_processes
from model.ring import Ring
from tests.tiny_checkpoint import CONFIG, write_tiny_checkpoint
from tests.trainer.examples import example
from trainer.draws import draw
from trainer.objective import FlowMatching, elements, squared_error
from trainer.plan_activations import Arrangement, Size
from trainer.plan_traffic import traffic
from trainer.sample import Example
from trainer.stages import Drops, Optimiser, Stage, Zero, audio_encoder

Layout = tuple[int, int, int]
LAYOUTS: list[Layout] = [(1, 1, 2), (1, 2, 1), (2, 1, 2), (1, 2, 2), (1, 4, 1), (1, 1, 4)]  # data x ring x Ulysses
UPDATES = 3
AUDIO = audio_encoder().trains  # the stage that trains a part of the network
CLIP = 0.5  # well below the gradient's norm
# Latent frames, height, width.
SIZES = [(3, 8, 8), (5, 8, 24)]


ALL = ("*",)
DROPS = Drops(text=0.4, audio=0.4, reference=0.4, motion=0.4, pose=0.4)


def stage_for(ring: int, ulysses: int, clip: float, trains: tuple[str, ...] = ALL, drops: Drops = DROPS) -> Stage:
    return Stage(
        name="parity",
        trains=trains,
        steps=UPDATES,
        batch=len(SIZES),
        drops=drops,
        optimiser=Optimiser(rate=1e-3, clip=clip, ema=None),
        precision="fp32",
        sequence=ring * ulysses,
        ulysses=ulysses,
        # Even biases are dealt out, and nothing is kept for its next use.
        zero=Zero(stage3_param_persistence_threshold=0, stage3_max_reuse_distance=0, stage3_max_live_parameters=0),
    )


def examples_of(update: int) -> list[Example]:
    """The clips of an update. Of the first one's, each withholds some conditions, and both together all."""
    return [example(f"clip29-{update}-{i}", *size) for i, size in enumerate(SIZES)]


def withheld(stage: Stage) -> set[str]:
    return set().union(*(draw(stage, e).dropped for e in examples_of(0)))


# ---------------------------------------------------------------- one process


@lru_cache
def alone(checkpoint: Path, clip: float, updates: int, trains: tuple[str, ...] = ALL) -> dict[str, Any]:
    """Plain PyTorch: all clips of an update one after another, gradients added up."""
    stage = stage_for(1, 1, clip, trains)
    network = load_network(checkpoint, "cpu", torch.float32)
    objective, o = FlowMatching(network), stage.optimiser
    trained = {name: p for name, p in network.named_parameters() if stage.learns(name)}
    optimiser = torch.optim.AdamW(trained.values(), lr=o.rate, betas=o.betas, weight_decay=o.weight_decay)
    losses, gradients = [], {}
    for update in range(updates):
        batch = examples_of(update)
        count = sum(map(elements, batch))
        errors = [squared_error(objective, e, draw(stage, e)) / count for e in batch]
        optimiser.zero_grad()
        for error in errors:
            error.backward()
        gradients = {name: p.grad.clone() for name, p in trained.items() if p.grad is not None}
        torch.nn.utils.clip_grad_norm_(trained.values(), clip)
        optimiser.step()
        losses.append(float(sum(e.detach() for e in errors)))
    weights = {name: p.detach() for name, p in trained.items()}
    return {"losses": losses, "gradients": gradients, "weights": weights}


# ---------------------------------------------------------------- several ranks


class Collectives(TorchDispatchMode):
    """Calls and bytes by collective: of the larger buffer of each, or of what is sent to one rank."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes: Counter[str] = Counter()
        self.calls: Counter[str] = Counter()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function.namespace == "c10d":
            name = function._schema.name.removeprefix("c10d::").strip("_")
            self.calls[name] += 1
            buffers = [sum(t.nbytes for t in tensors_in(argument)) for argument in args[:2]]
            self.bytes[name] += max(buffers) if name != "send" else buffers[0]
        return function(*args, **kwargs or {})


def tensors_in(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, list | tuple):
        for item in value:
            yield from tensors_in(item)


@contextmanager
def broken(what: str) -> Iterator[None]:
    if what == "ring":  # the neighbour's keys never arrive
        with patch.object(Ring, "pass_on", lambda self, block, step: lambda: block):
            yield
    elif what == "scale":  # as if DeepSpeed averaged over half as many ranks
        from deepspeed.runtime.engine import DeepSpeedEngine

        right = DeepSpeedEngine.backward
        with patch.object(DeepSpeedEngine, "backward", lambda self, loss, **how: right(self, 2 * loss, **how)):
            yield
    else:
        yield


def together(
    layout: Layout,
    checkpoint: Path,
    clip: float,
    updates: int,
    trains: tuple[str, ...] = ALL,
    drops: Drops = DROPS,
) -> dict[str, Any] | None:
    """The same with the trainer's own code; the result on the first rank."""
    from trainer.zero import deepspeed_config, load_parts, make_network, start_engine  # isort: skip - before deepspeed
    from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_optimizer_state

    from model.checkpoint import Checkpoint
    from trainer.ranks import arrange
    from trainer.update import Updater

    _, ring, ulysses = layout
    stage = stage_for(ring, ulysses, clip, trains, drops)
    ranks = arrange(stage, CONFIG.num_heads)
    settings = deepspeed_config(stage, ranks.data_ranks, on_gpu=False)
    objective = make_network(CONFIG, stage, settings)
    load_parts(objective.network, Checkpoint.open(checkpoint))
    engine = start_engine(objective, stage, settings)
    update = Updater(engine, stage, ranks)
    losses, counted, held = [], Collectives(), count_held(engine)
    for number in range(updates):
        mine = examples_of(number)[ranks.data_rank :: ranks.data_ranks]
        with counted if drops != DROPS else nullcontext():  # it is slow
            losses.append(update(number, mine).loss)
    trained = {n: p for n, p in objective.network.named_parameters() if p.requires_grad}
    moments = {n: safe_get_full_optimizer_state(p, "exp_avg") for n, p in trained.items()}
    weights = {n: safe_get_full_fp32_param(p) for n, p in trained.items()}
    # After one update, Adam's first moment is the gradient times 1 - beta.
    gradients = {n: m / (1 - stage.optimiser.betas[0]) for n, m in moments.items()}
    spread = differences_across_ranks(torch.cat([w.flatten() for w in weights.values()]))
    engine.destroy()
    if not ranks.leads:
        return None
    sizes = {"bytes": counted.bytes, "calls": counted.calls, "held": max(held)}
    return {"losses": losses, "gradients": gradients, "weights": weights, "spread": spread} | sizes


def count_held(engine: Any) -> list[int]:
    """After each backward pass, how many parameters of blocks are still whole on this rank."""
    held: list[int] = []
    backward = engine.backward

    def counted(*arguments: Any, **options: Any) -> None:
        backward(*arguments, **options)
        blocks = engine.module.network.blocks.parameters()
        held.append(sum(p.ds_status.name == "AVAILABLE" for p in blocks))

    engine.backward = counted
    return held


def differences_across_ranks(tensor: Tensor) -> float:
    low, high = tensor.clone(), tensor.clone()
    dist.all_reduce(low, dist.ReduceOp.MIN)
    dist.all_reduce(high, dist.ReduceOp.MAX)
    return float((high - low).abs().max())


def difference(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> tuple[float, str]:
    """The largest relative difference of any parameter, and whose it is."""
    assert ours.keys() == theirs.keys()
    found = {n: float((ours[n] - theirs[n]).norm() / theirs[n].norm().clamp(min=1e-12)) for n in theirs}
    worst = max(found, key=lambda name: found[name])
    return found[worst], worst


def sent(layout: Layout, counted: Counter[str]) -> dict[str, float]:
    """Bytes that a rank sends to others in an update, as `trainer.plan_traffic` counts them."""
    data, ring, ulysses = layout
    others = 1 - 1 / (data * ring * ulysses)
    return {
        "ulysses": counted["alltoall_base"] * (1 - 1 / ulysses),
        "ring": float(counted["send"]),
        "weights": counted["allgather_base"] * others,
        "gradients": counted["reduce_scatter_base"] * others,
    }


def predicted(layout: Layout) -> dict[str, float]:
    """The same by arithmetic, for the first rank's clips."""
    data, ring, ulysses = layout
    stage, total = stage_for(ring, ulysses, CLIP), Counter[str]()
    for frames, height, width in SIZES[::data]:
        size = Size(4 * frames, LATENT_STRIDE * height, LATENT_STRIDE * width)
        arrangement = Arrangement(ring, ulysses, stage.recompute)
        total.update(traffic(stage, CONFIG, size, arrangement, data * ring * ulysses))
    return dict(total)


def compare(layout: Layout, checkpoint: Path, wrong: str) -> dict[str, Any] | None:
    """What a row of the tables says; with an error made on purpose, only the gradients."""
    with broken(wrong):
        one = together(layout, checkpoint, 1e9, 1)
    if wrong:
        return one and {"gradient": difference(one["gradients"], alone(checkpoint, 1e9, 1)["gradients"])[0]}
    three = together(layout, checkpoint, CLIP, UPDATES)
    some = together(layout, checkpoint, 1e9, 1, AUDIO)
    plain = together(layout, checkpoint, 1e9, 1, drops=Drops())  # motion tokens count in the arithmetic
    if one is None or three is None or some is None or plain is None:
        return None
    exact, clipped = alone(checkpoint, 1e9, 1), alone(checkpoint, CLIP, UPDATES)
    gradient, parameter = difference(one["gradients"], exact["gradients"])
    losses = [abs(a / b - 1) for a, b in zip(three["losses"], clipped["losses"], strict=True)]
    return {
        "layout": layout,
        "loss": max(losses),
        "gradient": gradient,
        "parameter": parameter,
        "audio": difference(some["gradients"], alone(checkpoint, 1e9, 1, AUDIO)["gradients"])[0],
        "weights": difference(three["weights"], clipped["weights"])[0],
        "spread": max(one["spread"], three["spread"]),
        "held": one["held"] + some["held"],
        "sent": sent(layout, plain["bytes"]),
        "predicted": predicted(layout),
        "calls": dict(plain["calls"]),
    }


def work(layouts: Sequence[Layout], checkpoint: Path, wrong: str, out: Path) -> None:
    rows = [compare(layout, checkpoint, wrong) for layout in layouts]
    if all(row is not None for row in rows):
        out.write_text(json.dumps(rows))


def measure(layouts: Sequence[Layout], checkpoint: Path, wrong: str = "") -> list[dict[str, Any]]:
    """Runs every layout, those with as many ranks in the same processes."""
    rows = []
    for ranks in sorted({data * ring * ulysses for data, ring, ulysses in layouts}):
        chosen = [layout for layout in layouts if layout[0] * layout[1] * layout[2] == ranks]
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder) / "rows.json"
            arguments = ["--work", json.dumps(chosen), "--checkpoint", str(checkpoint), "--out", str(out)]
            code = run_processes(ranks, "benchmarks.trainer_parity", [*arguments, "--break", wrong])
            if code:
                raise RuntimeError(f"{ranks} ranks ended with {code}")
            rows += json.loads(out.read_text())
    return rows


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--break", dest="wrong", default="", choices=["", "ring", "scale"])
    parser.add_argument("--work", help=argparse.SUPPRESS)
    parser.add_argument("--checkpoint", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    if options.work:
        os.environ["TORCHDYNAMO_DISABLE"] = "1"  # DeepSpeed would compile an optimiser that isn't used: seconds a rank
        layouts = [tuple(layout) for layout in json.loads(options.work)]
        work(layouts, options.checkpoint, options.wrong, options.out)
        dist.destroy_process_group()
        return
    with tempfile.TemporaryDirectory() as folder:
        rows = measure(LAYOUTS, write_tiny_checkpoint(Path(folder) / "tiny"), options.wrong)
    table = Table("data x ring x Ulysses", "loss", "worst gradient", "audio stage", "weights after 3", "across ranks")
    for row in rows:
        values = [f"{row[key]:.1e}" for key in ("loss", "gradient", "audio", "weights", "spread")]
        table.add_row(" x ".join(map(str, row["layout"])), *values)
    Console().print(table)
    table = Table("data x ring x Ulysses", *(f"{what}, kB" for what in rows[0]["sent"]), title="sent | predicted")
    for row in rows:
        pairs = [f"{size / 1e3:,.0f} | {row['predicted'][what] / 1e3:,.0f}" for what, size in row["sent"].items()]
        table.add_row(" x ".join(map(str, row["layout"])), *pairs)
    Console().print(table)


if __name__ == "__main__":
    main(sys.argv[1:])

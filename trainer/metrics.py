"""What a step cost and brought: seconds by part, tokens, FLOPs. One line of it for people, one for programs."""

import json
import math
import os
import re
import time
from collections import defaultdict, deque
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from model import ring, sequence_parallel
from model.config import LATENT_STRIDE, S2VConfig
from trainer.run_files import read_rows
from trainer.sample import Example

# Parts of a step, and how the line calls them.
# data: until the examples are here, the time that the rank which reads them takes included.
# forward, backward (what is computed again included), optimiser: DeepSpeed gathers weights and adds up gradients beside
#   them. What of that isn't hidden by computation can't be told from it, and is in the part that waits for it.
# communication: in the collectives that self-attention needs, from when this rank is ready to when it has what it
#   asked for: waiting for slower ranks of the same sample is in it, what the ring moves behind computation is not.
# wait: in what the loop itself adds up over all ranks, mostly until the slowest one is there.
PARTS = {
    "data": "data",
    "forward": "fwd",
    "backward": "bwd",
    "optimiser": "opt",
    "communication": "comm",
    "wait": "wait",
}


# ---------------------------------------------------------------- time


class HostMoment:
    """What `torch.cuda.Event` is to a GPU."""

    def record(self) -> None:
        self.at = time.perf_counter()

    def synchronize(self) -> None:
        pass

    def elapsed_time(self, later: "HostMoment") -> float:
        """Milliseconds."""
        return 1000 * (later.at - self.at)


@dataclass(frozen=True)
class Span:
    part: str
    began: Any
    ended: Any
    within: "Span | None"


@dataclass(frozen=True)
class Lap:
    """Seconds of a step, and of its parts; what is in no part is `other`."""

    seconds: float
    parts: Mapping[str, float]

    @property
    def split(self) -> dict[str, float]:
        return {**self.parts, "other": max(0.0, self.seconds - sum(self.parts.values()))}

    def mean(self, add_up: Callable[[Tensor], Tensor], ranks: int) -> "Lap":
        """A collective: of all ranks. What is in none of PARTS becomes `other`."""
        here = [self.seconds, *(self.parts.get(part, 0.0) for part in PARTS)]
        seconds, *parts = (add_up(torch.tensor(here, dtype=torch.float64)) / ranks).tolist()
        return Lap(seconds, {part: value for part, value in zip(PARTS, parts, strict=True) if value})


class Stopwatch:
    """`with watch("forward"):` as often as there are micro-steps, then `lap()`.

    A part within a part counts for itself only. On a GPU it is the GPU that is timed, by events that are queued with
    the work and read by `lap`: nothing waits before. There, "data" is the time for which the GPU had nothing to do.
    """

    def __init__(self, device: torch.device):
        self.moment: Callable[[], Any] = HostMoment
        if device.type == "cuda":
            self.moment = partial(torch.cuda.Event, enable_timing=True)
        self.restart()

    def restart(self) -> None:
        """Forget what was since the last lap: checkpoints and validation are no part of a step."""
        self.spans: list[Span] = []
        self.open: Span | None = None
        self.last: Any = None
        self.began = time.perf_counter()

    @contextmanager
    def __call__(self, part: str) -> Iterator[None]:
        span = Span(part, self.moment(), self.moment(), self.open)
        self.spans.append(span)
        self.open = span
        span.began.record()
        try:
            yield
        finally:
            span.ended.record()
            self.open, self.last = span.within, span.ended

    def lap(self) -> Lap:
        """The step since the last lap, or restart."""
        if self.last is not None:
            self.last.synchronize()
        parts: dict[str, float] = defaultdict(float)
        for span in self.spans:
            seconds = span.began.elapsed_time(span.ended) / 1000
            parts[span.part] += seconds
            if span.within:
                parts[span.within.part] -= seconds
        lap = Lap(time.perf_counter() - self.began, dict(parts))
        self.restart()
        return lap


class WatchedCollectives:
    """`torch.distributed` as the network finds it, with the time that its ranks wait for one another."""

    BLOCKING = frozenset({"all_to_all_single", "all_gather", "reduce_scatter"})

    def __init__(self, watch: Stopwatch):
        self.watch = watch

    def __getattr__(self, name: str) -> Any:
        attribute = getattr(dist, name)
        return self.watched(attribute) if name in self.BLOCKING else attribute

    def watched(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*arguments: Any, **options: Any) -> Any:
            with self.watch("communication"):
                return call(*arguments, **options)

        return timed

    def batch_isend_irecv(self, operations: list[dist.P2POp]) -> list["WatchedTransfer"]:
        return [WatchedTransfer(self.watched(work.wait)) for work in dist.batch_isend_irecv(operations)]


@dataclass(frozen=True)
class WatchedTransfer:
    wait: Callable[[], Any]


@contextmanager
def collectives_watched(watch: Stopwatch) -> Iterator[None]:
    """Within it, collectives of self-attention are "communication". DeepSpeed's own calls are left alone."""
    modules = [vars(module) for module in (sequence_parallel, ring)]
    before = [names["dist"] for names in modules]
    for names in modules:
        names["dist"] = WatchedCollectives(watch)
    try:
        yield
    finally:
        for names, value in zip(modules, before, strict=True):
            names["dist"] = value


# ---------------------------------------------------------------- work

# Dense bfloat16 FLOP/s as NVIDIA's data sheets have it, for words of the device's name; the first match counts.
PEAKS: tuple[tuple[frozenset[str], float], ...] = (
    (frozenset({"GB200"}), 2500e12),
    (frozenset({"B200"}), 2250e12),
    (frozenset({"B300"}), 2250e12),
    (frozenset({"H200", "NVL"}), 835e12),
    (frozenset({"H200"}), 989e12),
    (frozenset({"GH200"}), 989e12),
    (frozenset({"H100", "PCIe"}), 756e12),
    (frozenset({"H100", "NVL"}), 835e12),
    (frozenset({"H100"}), 989e12),
    (frozenset({"H800", "PCIe"}), 756e12),
    (frozenset({"H800"}), 989e12),
    (frozenset({"H20"}), 148e12),
    (frozenset({"A100"}), 312e12),
    (frozenset({"A800"}), 312e12),
    (frozenset({"L40S"}), 362e12),
)


def peak_of(device: torch.device) -> float | None:
    """FLOP/s of one GPU at most; None for a CPU, and for a GPU that isn't known."""
    return peak_of_name(torch.cuda.get_device_name(device)) if device.type == "cuda" else None


def peak_of_name(name: str) -> float | None:
    words = set(re.split(r"[^A-Za-z0-9]+", name))
    return next((peak for wanted, peak in PEAKS if wanted <= words), None)


def model_flops(forward: Mapping[str, float], blocks_learn: bool) -> float:
    """Of forward and backward, by the parts of `S2VConfig.flops`: three times the forward pass, for results, gradients
    of inputs and of weights. Blocks that don't learn have none of weights, but for attention to tokens and the
    injectors. What is computed again to save memory doesn't count."""
    passes = 3 if blocks_learn else 2
    times = {"linear": passes, "text": passes, "self_attention": 3, "injection": 3}
    return sum(times[part] * flops for part, flops in forward.items())


@dataclass(frozen=True)
class Work:
    """Of any number of samples: tokens of the sequences, and FLOPs of the model."""

    samples: float = 0
    tokens: float = 0
    flops: float = 0

    @classmethod
    def of(
        cls, config: S2VConfig, example: Example, dropped: Collection[str] = (), *, blocks_learn: bool = True
    ) -> "Work":
        """dropped: of `trainer.draws.CONDITIONS`. Without motion, a sequence is shorter."""
        _, frames, h, w = example.latent.shape
        size = frames, h * LATENT_STRIDE, w * LATENT_STRIDE
        motion = "motion" not in dropped
        return cls(1, config.tokens(*size, motion), model_flops(config.flops(*size, motion), blocks_learn))

    def __add__(self, other: "Work") -> "Work":
        return Work(self.samples + other.samples, self.tokens + other.tokens, self.flops + other.flops)

    def total(self, add_up: Callable[[Tensor], Tensor], sharing: int = 1) -> "Work":
        """A collective: of all ranks, where `sharing` of them have the same samples."""
        here = torch.tensor([self.samples, self.tokens, self.flops], dtype=torch.float64)
        return Work(*(add_up(here) / sharing).tolist())


def mfu(work: Work, seconds: float, gpus: int, peak: float | None) -> float | None:
    """The share of what `gpus` GPUs could compute at most that was the model's work: 0 to 1."""
    return work.flops / (seconds * gpus * peak) if peak else None


# ---------------------------------------------------------------- what is told


@dataclass(frozen=True)
class StepRecord:
    """A step over all ranks. step: steps done. samples, tokens: of this step. mfu: 0 to 1, None where no peak is known.
    split: seconds by part, with `other`. left: seconds to the end of the stage. memory: most bytes held on a GPU. gap:
    the newest audio-shuffle gap (see `trainer.validation`)."""

    step: int
    steps: int
    loss: float
    grad_norm: float
    rate: float
    seconds: float
    samples: float
    tokens: float
    split: Mapping[str, float]
    mfu: float | None = None
    left: float | None = None
    memory: float | None = None
    gap: float | None = None

    def row(self) -> dict[str, Any]:
        """For `JsonLines`."""
        return {name: value for name, value in asdict(self).items() if name != "steps"}

    def scalars(self) -> dict[str, float]:
        """For loggers."""
        values = {
            "train/loss": self.loss,
            "train/grad_norm": self.grad_norm,
            "train/rate": self.rate,
            "speed/seconds": self.seconds,
            "speed/samples_per_second": self.samples / self.seconds,
            "speed/tokens_per_second": self.tokens / self.seconds,
            **{f"time/{part}": seconds for part, seconds in self.split.items()},
        }
        optional = {"speed/mfu": self.mfu, "speed/memory_gb": None if self.memory is None else self.memory / 1e9}
        return values | {name: value for name, value in optional.items() if value is not None}


def line(record: StepRecord) -> str:
    """A step in one line; lines of a run stand below one another."""
    steps = f"{record.steps:,}"
    split = (
        f"{PARTS.get(part, part)} {100 * seconds / record.seconds:2.0f}%" for part, seconds in record.split.items()
    )
    fields = [
        f"step {record.step:>{len(steps)},}/{steps}",
        f"loss {record.loss:.4f}",
        f"grad {record.grad_norm:5.2f}",
        f"lr {record.rate:.1e}",
        f"{record.seconds:6.2f} s/iter",
        f"{short(record.samples / record.seconds):>5} samples/s",
        f"{short(record.tokens / record.seconds):>5} tokens/s",
        f"MFU {'-' if record.mfu is None else f'{record.mfu:.1%}':>5}",
        " ".join(split),
    ]
    if record.left is not None:
        fields.append(f"left {clock(record.left)}")
    return "  ".join(fields)


def short(value: float) -> str:
    """Three digits: 0.213, 3.51, 154k, 1.23M."""
    units = ["", "k", "M", "G"]
    while value >= 999.5 and len(units) > 1:
        value, units = value / 1000, units[1:]
    return f"{value:.3g}{units[0]}"


def clock(seconds: float) -> str:
    """h:mm:ss"""
    minutes, s = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{s:02}"


class Left:
    """The time to the end of the stage, at the pace of the last steps: sizes of samples vary from step to step."""

    def __init__(self, over: int = 50):
        self.seconds: deque[float] = deque(maxlen=over)

    def after(self, lap: Lap, steps: int) -> float:
        """steps: how many are left."""
        self.seconds.append(lap.seconds)
        return steps * sum(self.seconds) / len(self.seconds)


class JsonLines:
    """One object a line, on the disk as soon as it is written, each with a `step`.

    after: the step that a resumed run goes on from. Later lines are cut, and so is a torn one: the file of a run that
    was resumed reads as one run. A run that goes on from step 0 begins anew. None leaves the file as it is.
    """

    def __init__(self, path: Path, after: int | None = None):
        if after is not None and path.exists():
            cut(path, after)
        self.file = path.open("a", encoding="utf-8")

    def write(self, row: Mapping[str, Any]) -> None:
        self.file.write(json.dumps(finite(row), allow_nan=False) + "\n")
        self.file.flush()

    def close(self) -> None:
        self.file.close()

    def __enter__(self) -> "JsonLines":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def cut(path: Path, after: int) -> None:
    partial = path.with_name(f".{path.name}.partial")
    with partial.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in read_rows(path) if 0 < after >= row["step"])
    os.replace(partial, path)


def finite(value: Any) -> Any:
    """JSON knows no NaN and no infinity: null."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: finite(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [finite(entry) for entry in value]
    return value

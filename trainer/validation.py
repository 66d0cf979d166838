"""The loss on held-out clips by noise level and by what the network is told, and what it shows of lip sync.

If the loss is higher with another clip's sound than with the clip's own, the network listens: the audio-shuffle gap.
It appears long before lips can be judged by eye. Everything is the same each time, so that only weights differ: clips,
noise levels, noise, and whose sound is whose.

The pose is withheld throughout, as it is in generation by default. Its picture shows the lips, and would tell the
network what it is to hear.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product
from statistics import NormalDist
from typing import Any

import torch
from rich.table import Table
from torch import Tensor

from model.flow import shifted
from trainer.draws import Draw
from trainer.objective import elements
from trainer.sample import Example, torch_generator
from trainer.stages import Stage

WITHHELD = frozenset({"pose"})
FULL, SHUFFLED = "full", "shuffled-audio"
DROPPED: dict[str, frozenset[str]] = {
    FULL: WITHHELD,
    "no-audio": WITHHELD | {"audio"},
    SHUFFLED: WITHHELD,
    "no-text": WITHHELD | {"text"},
    "no-motion": WITHHELD | {"motion"},
}
CONDITIONS = tuple(DROPPED)


@dataclass(frozen=True)
class Cell:
    """A noise level, by number and value, and one of CONDITIONS."""

    level: int
    sigma: float
    condition: str


def levels(stage: Stage) -> tuple[float, ...]:
    """Noise levels in the middle of equally likely parts of what training draws from."""
    times, count = stage.timesteps, stage.validation.levels
    middles = [(i + 0.5) / count for i in range(count)]
    if times.spread is not None:
        middles = [1 / (1 + math.exp(-times.spread * NormalDist().inv_cdf(middle))) for middle in middles]
    return tuple(shifted(torch.tensor(middles, dtype=torch.float64), times.shift).tolist())


def cells(stage: Stage) -> list[Cell]:
    return [Cell(level, sigma, c) for (level, sigma), c in product(enumerate(levels(stage)), CONDITIONS)]


def asked(example: Example, cell: Cell, examples: Sequence[Example]) -> tuple[Example, Draw]:
    """What the network is given in a cell. The noise is the same under all conditions."""
    if cell.condition == SHUFFLED:
        example = replace(example, audio=anothers_sound(example, examples))
    generator = torch_generator("validation", example.clip_id, cell.level)
    return example, Draw(cell.sigma, torch.randn(example.latent.shape, generator=generator), DROPPED[cell.condition])


def anothers_sound(example: Example, examples: Sequence[Example]) -> Tensor:
    """That of the next example of another clip, cut or repeated to length; where there is none, its own, half of it
    later."""
    length, ids = example.audio.shape[-1], [other.clip_id for other in examples]
    after = ids.index(example.clip_id) + 1
    for other in (*examples[after:], *examples[:after]):
        if other.clip_id != example.clip_id:
            times = torch.arange(length, device=other.audio.device) % other.audio.shape[-1]
            return other.audio[..., times].to(example.audio)
    return example.audio.roll(length // 2, -1)


@dataclass(frozen=True)
class Validated:
    """losses (clips, levels, conditions), float64: mean squared errors of the velocity. Every clip counts the same."""

    levels: tuple[float, ...]
    losses: Tensor

    @property
    def loss(self) -> dict[float, dict[str, float]]:
        """Noise level -> condition -> loss."""
        rows = self.losses.mean(0).tolist()
        return {level: dict(zip(CONDITIONS, row, strict=True)) for level, row in zip(self.levels, rows, strict=True)}

    @property
    def means(self) -> dict[str, float]:
        """Condition -> loss, over all noise levels."""
        return dict(zip(CONDITIONS, self.losses.mean((0, 1)).tolist(), strict=True))

    @cached_property
    def gaps(self) -> Tensor:
        """(clips,) loss with another clip's sound less that with its own."""
        means = self.losses.mean(1)
        return means[:, CONDITIONS.index(SHUFFLED)] - means[:, CONDITIONS.index(FULL)]

    @property
    def gap(self) -> float:
        return float(self.gaps.mean())

    @property
    def gap_error(self) -> float | None:
        """The standard error of the gap; None of a single clip."""
        return float(self.gaps.std() / math.sqrt(len(self.gaps))) if len(self.gaps) > 1 else None

    @property
    def relative_gap(self) -> float:
        """The gap as a share of the loss."""
        return self.gap / self.means[FULL] if self.means[FULL] else 0.0

    def scalars(self) -> dict[str, float]:
        """For loggers."""
        values = {f"validation/{condition}": mean for condition, mean in self.means.items()}
        values |= {"validation/audio_gap": self.gap, "validation/audio_gap_relative": self.relative_gap}
        for number, (level, row) in enumerate(self.loss.items(), 1):
            values |= {f"validation_noise_{number}_at_{level:.2f}/{c}": value for c, value in row.items()}
        return values

    def row(self, step: int) -> dict[str, Any]:
        """For RUN/validation.jsonl."""
        by_level = [{"sigma": level, **row} for level, row in self.loss.items()]
        gap = {"gap": self.gap, "gap_error": self.gap_error, "relative_gap": self.relative_gap}
        return {"step": step, "clips": len(self.losses), **gap, "loss": self.means, "levels": by_level}

    def table(self) -> Table:
        spread = "" if self.gap_error is None else f" ± {self.gap_error:.4f}"
        caption = f"audio-shuffle gap {self.gap:+.4f}{spread} ({self.relative_gap:+.1%} of the loss)"
        table = Table(caption=caption, caption_justify="left")
        for name in ("noise", *CONDITIONS):
            table.add_column(name, justify="right")
        for level, row in self.loss.items():
            table.add_row(f"{level:.2f}", *(f"{row[c]:.4f}" for c in CONDITIONS))
        table.add_section()
        table.add_row("mean", *(f"{mean:.4f}" for mean in self.means.values()), style="bold")
        return table


@torch.no_grad()
def validate(
    loss_of: Callable[[Example, Draw], Tensor],
    examples: Sequence[Example],
    stage: Stage,
    *,
    add_up: Callable[[Tensor], Tensor] = lambda values: values,
    data_rank: int = 0,
    data_ranks: int = 1,
) -> Validated:
    """A collective. All ranks give the same examples, at least one.

    loss_of: this rank's sum of squared errors, such as `FlowMatching` returns. add_up: the sum over all ranks, those
    that share a sample included. Data ranks take turns at the cells of an example, so that what they do at a time is
    equally long; ZeRO-3 wants equally many forward passes of all, so some repeat the last cell, which doesn't count.
    """
    tasks = list(product(range(len(examples)), cells(stage)))
    sums = torch.zeros(len(examples), stage.validation.levels, len(CONDITIONS), dtype=torch.float64)
    errors: dict[tuple[int, Cell], Tensor] = {}
    for turn in range(data_rank, data_rank + math.ceil(len(tasks) / data_ranks) * data_ranks, data_ranks):
        number, cell = tasks[min(turn, len(tasks) - 1)]
        error = loss_of(*asked(examples[number], cell, examples))
        if turn < len(tasks):
            errors[number, cell] = error
    for (number, cell), error in errors.items():  # after the last pass: reading a number waits for the GPU
        sums[number, cell.level, CONDITIONS.index(cell.condition)] = error.double().cpu() / elements(examples[number])
    return Validated(levels(stage), add_up(sums).cpu())

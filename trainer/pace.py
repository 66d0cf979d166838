"""How far a run is, and how fast it goes, from its folder alone. Changes nothing, and does without torch."""

import json
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from trainer.run_files import name_of, read_rows

OVER = 50  # steps whose mean is told: a single one says little


@dataclass(frozen=True)
class Pace:
    """step: steps done, of `steps`. losses: of every step, in order; None where it was not finite. samples, tokens: a
    second. seconds: of a step. validation: the last row of validation.jsonl. checkpoint: the newest finished one, saved
    at `saved`. incidents: rows of incidents.jsonl. Moments are seconds since 1970."""

    step: int
    steps: int
    losses: tuple[float | None, ...]
    samples: float
    tokens: float
    seconds: float
    left: float | None
    validation: dict[str, Any] | None
    checkpoint: Path | None
    saved: float
    incidents: tuple[dict[str, Any], ...]
    written: float

    @property
    def finished(self) -> bool:
        return self.step >= self.steps and self.checkpoint is not None and self.checkpoint.name == name_of(self.steps)

    @property
    def done(self) -> str:
        return f"step {self.step:,} of {self.steps:,} ({100 * self.step // self.steps}%)"

    @property
    def rate(self) -> str:
        return f"{self.seconds:.3g} s/step" if self.seconds else ""

    @property
    def failures(self) -> str:
        count = len(self.incidents)
        return f"{count:,} {'incident' if count == 1 else 'incidents'}" if count else ""

    def loss(self, back: int = 0) -> float | None:
        """The mean over OVER steps, the last of them `back` steps ago; None: there are none, or none is finite."""
        end = len(self.losses) - back
        found = [loss for loss in self.losses[max(0, end - OVER) : max(0, end)] if loss is not None]
        return fmean(found) if found else None


def pace(run: str | Path) -> Pace | None:
    """None: there is no run, or this machine doesn't see its folder."""
    folder = Path(run)
    try:
        steps = json.loads((folder / "run.json").read_text())["stage"]["steps"]
    except (OSError, ValueError, KeyError):
        return None
    rows = rows_of(folder / "metrics.jsonl")
    validations = rows_of(folder / "validation.jsonl")
    incidents = tuple(rows_of(folder / "incidents.jsonl"))
    saved = sorted((moment(file), file.parent) for file in folder.glob("step-*/checkpoint.json"))
    last = rows[-OVER:]
    took = sum(row["seconds"] for row in last)
    files = [folder / name for name in ("run.json", "metrics.jsonl", "validation.jsonl")]
    return Pace(
        step=rows[-1]["step"] if rows else 0,
        steps=steps,
        losses=tuple(row["loss"] for row in rows),
        samples=sum(row["samples"] for row in last) / took if took else 0.0,
        tokens=sum(row["tokens"] for row in last) / took if took else 0.0,
        seconds=took / len(last) if last else 0.0,
        left=rows[-1]["left"] if rows else None,
        validation=validations[-1] if validations else None,
        checkpoint=saved[-1][1] if saved else None,
        saved=saved[-1][0] if saved else 0.0,
        incidents=incidents,
        written=max(*map(moment, files), saved[-1][0] if saved else 0.0),
    )


def rows_of(path: Path) -> list[dict[str, Any]]:
    """None where there is no file, or none that can be read."""
    try:
        return list(read_rows(path))
    except OSError:
        return []


def moment(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0

"""Where the numbers of a run go besides its own files: TensorBoard always, others if asked for.

Only the first rank has loggers.
"""

import uuid
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from torch.utils.tensorboard import SummaryWriter

from dataset.errors import UsageError

TENSORBOARD = "tensorboard"
WANDB_ID = "wandb-run-id"  # in RUN: a resumed run goes on with the same one

# Weights & Biases would send along the command line, the git remote and diff, the packages, the host and what is
# printed: all of these can hold names and paths of the environment.
PRIVATE = {
    "console": "off",
    "disable_code": True,
    "disable_git": True,
    "save_code": False,
    "x_disable_machine_info": True,
    "x_disable_meta": True,
    "x_save_requirements": False,
}


class Logger(Protocol):
    def scalars(self, step: int, values: Mapping[str, float]) -> None: ...

    def image(self, step: int, name: str, picture: np.ndarray) -> None:
        """picture (H, W, 3) uint8"""
        ...

    def video(self, step: int, name: str, path: Path) -> None: ...

    def close(self) -> None: ...


class TensorBoard:
    """RUN/tensorboard. What was logged after step `after` is not shown any more. It has no videos."""

    def __init__(self, run: Path, after: int | None = None):
        self.writer = SummaryWriter(str(run / TENSORBOARD), purge_step=after + 1 if after else 0, flush_secs=30)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)

    def image(self, step: int, name: str, picture: np.ndarray) -> None:
        self.writer.add_image(name, picture, step, dataformats="HWC")

    def video(self, step: int, name: str, path: Path) -> None:
        pass

    def close(self) -> None:
        self.writer.close()


class WeightsAndBiases:
    """project: PROJECT or ENTITY/PROJECT. Steps that the service has already are not sent again: it takes none twice,
    so of a run that was resumed it shows what was logged first."""

    def __init__(self, run: Path, project: str, settings: Mapping[str, Any]):
        check_wandb()
        import wandb

        self.wandb = wandb
        entity, _, name = project.rpartition("/")
        try:
            self.run = wandb.init(
                entity=entity or None,
                project=name,
                name=run.name,
                id=run_id(run),
                resume="allow",
                dir=str(run),
                config=dict(settings),
                settings=wandb.Settings(**PRIVATE),
            )
        except wandb.Error as error:
            raise UsageError(f"Weights & Biases: {error} Log in with `wandb login`, or leave out --wandb.") from error

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        self.log(step, values)

    def image(self, step: int, name: str, picture: np.ndarray) -> None:
        self.log(step, {name: self.wandb.Image(picture)})

    def video(self, step: int, name: str, path: Path) -> None:
        self.log(step, {name: self.wandb.Video(str(path), format="mp4")})

    def log(self, step: int, values: Mapping[str, Any]) -> None:
        if step >= self.run.step:
            self.run.log(dict(values), step=step)

    def close(self) -> None:
        self.run.finish()


def check_wandb() -> None:
    """To be called before a run begins, by whoever is to tell the user."""
    spec = find_spec("wandb")
    if spec is None or spec.origin is None:  # a folder `wandb`, such as it leaves behind, is no package
        raise UsageError("--wandb needs Weights & Biases, which is not installed: pip install wandb")


def run_id(run: Path) -> str:
    file = run / WANDB_ID
    if not file.exists():
        file.write_text(uuid.uuid4().hex[:12] + "\n")
    return file.read_text().strip()


class Loggers:
    """All of them as one."""

    def __init__(self, loggers: Sequence[Logger] = ()):
        self.loggers = loggers

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        for logger in self.loggers:
            logger.scalars(step, values)

    def image(self, step: int, name: str, picture: np.ndarray) -> None:
        for logger in self.loggers:
            logger.image(step, name, picture)

    def video(self, step: int, name: str, path: Path) -> None:
        for logger in self.loggers:
            logger.video(step, name, path)

    def close(self) -> None:
        with ExitStack() as stack:
            for logger in self.loggers:
                stack.callback(logger.close)


def open_loggers(
    run: Path, settings: Mapping[str, Any], *, after: int | None = None, wandb: str = "", more: Sequence[Logger] = ()
) -> Loggers:
    """after: the step that a resumed run goes on from; None or 0 for one that begins. settings: of the stage, shown
    beside the numbers."""
    loggers: list[Logger] = [WeightsAndBiases(run, wandb, settings)] if wandb else []
    return Loggers([TensorBoard(run, after), *loggers, *more])

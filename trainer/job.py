"""What a run is told to do, kept in RUN/run.json, so that the folder alone is enough to go on."""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from dataset.errors import UsageError
from model.checkpoint import Checkpoint, check_network
from model.config import S2VConfig
from model.errors import CheckpointError
from model.network import S2VModel
from model.tensor_files import on_meta, read_json
from trainer import checkpoints
from trainer.checkpoints import read_saved
from trainer.corpus import split_place
from trainer.stages import Stage, find_stage, with_changes

FILE = "run.json"
ORDER = ("batch", "mixture", "seed", "tokens", "frames", "trains")  # settings that a run keeps


@dataclass(frozen=True)
class Start:
    """Where weights come from: a checkpoint folder, or one of a run. parts: the folder that has VAE and encoders."""

    weights: Path
    config: S2VConfig
    parts: Path

    @property
    def of_a_run(self) -> bool:
        return checkpoints.is_checkpoint(self.weights)


@dataclass(frozen=True)
class Job:
    stage: Stage
    data: tuple[str, ...]
    init: str
    run: Path
    wandb: str = ""

    @classmethod
    def new(cls, stage: str, data: Sequence[str], init: str, run: str, changes: Sequence[str], wandb: str) -> "Job":
        if not data:
            raise UsageError("--data: give the shards to train on, such as --data DATASET.")
        if not init:
            raise UsageError("--init: give a checkpoint folder, or RUN/step-N of an earlier stage.")
        if not run:
            raise UsageError("--out: give the folder of the new run.")
        folder = Path(run).absolute()
        job = cls(find_stage(stage, changes), tuple(map(absolute, data)), absolute(init), folder, wandb)
        if (folder / FILE).is_file():
            job.check_same(cls.resumed(run, (), wandb))
        elif folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise UsageError(f"{run} exists and is no run: give a new folder.")
        return job

    def check_same(self, before: "Job") -> None:
        """The same command again goes on; another one would mix two runs in one folder."""
        ours, theirs = ({"data": job.data, "init": job.init} | job.stage.model_dump() for job in (self, before))
        if changed := [name for name in ours if ours[name] != theirs[name]]:
            raise UsageError(
                f"{self.run} is a run with another {', '.join(changed)}: give another --out, or go on with "
                f"`s2v train --resume {self.run} --set ...`."
            )

    @classmethod
    def resumed(cls, run: str, changes: Sequence[str], wandb: str) -> "Job":
        folder = Path(run).absolute()
        if not (folder / FILE).is_file():
            raise UsageError(f"{run} is no run: it has no {FILE}. Start one with `s2v train --stage ... --out {run}`.")
        content = read_json(folder / FILE)
        try:
            stage = Stage.model_validate(content["stage"])
            job = cls(stage, tuple(content["data"]), content["init"], folder, wandb or content["wandb"])
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(f"{folder / FILE} makes no sense ({error}).") from error
        changed = with_changes(stage, changes)
        if fixed := [name for name in ORDER if getattr(changed, name) != getattr(stage, name)]:
            raise UsageError(
                f"--set {fixed[0]}: it says which clip comes when, and can't change within a run. Start another one "
                f"from its weights: --init {run} --out ..."
            )
        return replace(job, stage=changed)

    def write(self) -> None:
        self.run.mkdir(parents=True, exist_ok=True)
        content = {"stage": self.stage.model_dump(), "data": self.data, "init": self.init, "wandb": self.wandb}
        partial = self.run / f".{FILE}.partial"
        partial.write_text(json.dumps(content, indent=2) + "\n")
        partial.rename(self.run / FILE)

    def start(self) -> tuple[Start, list[str]]:
        """The newest whole checkpoint of the run, or else --init; and what is wrong with newer ones."""
        found, complaints = checkpoints.newest(self.run) if self.run.is_dir() else (None, [])
        if complaints and found is None:
            raise CheckpointError(
                f"{self.run} has checkpoints, and none is whole: {' '.join(complaints)} Remove them to begin again."
            )
        start = start_from(found or Path(self.init))
        names = [name for name, _ in on_meta(lambda: S2VModel(start.config), start.weights).named_parameters()]
        if not any(map(self.stage.learns, names)):
            known = ", ".join(sorted({name.split(".")[0] for name in names}))
            raise UsageError(f"trains={list(self.stage.trains)} matches no parameter. They begin with {known}.")
        return start, complaints


def start_from(folder: Path) -> Start:
    """Headers and manifests are read, no weights."""
    if (folder / FILE).is_file():
        newest, complaints = checkpoints.newest(folder)
        if newest is None:
            raise CheckpointError(f"The run {folder} has no whole checkpoint. {' '.join(complaints)}".rstrip())
        folder = newest
    if checkpoints.is_checkpoint(folder):
        saved = read_saved(folder)
        return Start(folder, saved.config, Path(saved.parts))
    config, *_ = check_network(Checkpoint.open(folder))
    return Start(folder, config, folder)


def absolute(place: str) -> str:
    """A place that means the same from any folder: `[KIND=]PATH`, or an URL."""
    kind, path = split_place(place)
    path = path if "://" in path else os.path.abspath(path)
    return f"{kind}={path}" if kind else path

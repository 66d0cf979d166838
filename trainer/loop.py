"""A run, from its start or its newest checkpoint to the end of its stage."""

import os
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from typing import Any

import torch
from rich.console import Console

from model.checkpoint import Checkpoint
from model.errors import CheckpointError, WorkError
from model.vae import load_vae
from trainer.checkpoints import Parts, newest
from trainer.draws import draw_settings
from trainer.feed import Data, Feed
from trainer.guard import Guard
from trainer.job import Job, Start
from trainer.metrics import Left, StepRecord, Stopwatch, Work, collectives_watched, mfu, peak_of
from trainer.ranks import arrange
from trainer.report import Report, Silent
from trainer.sample import Example
from trainer.state import State, load_weights
from trainer.update import Updated, Updater
from trainer.validation import validate
from trainer.videos import sample_videos
from trainer.zero import deepspeed_config, load_parts, make_network, start_engine

ECHO = 5.0  # seconds within which a signal is the same: Ctrl-C reaches a process from its terminal and its launcher


class Run:
    """One process's side of a run: every method is a collective."""

    def __init__(self, job: Job, start: Start, data: Data, console: Console):
        self.job, self.stage, self.data = job, job.stage, data
        self.ranks = ranks = arrange(job.stage, start.config.num_heads)
        saved = Parts(start.weights) if start.of_a_run else None
        self.first = saved.saved.step if saved and start.weights.parent == job.run else 0
        self.report: Silent = Report(job, self.first, console) if ranks.leads else Silent()
        if saved and self.first and saved.saved.data not in ("", data.digest):
            self.report.note(
                "the clips are not those that the run began with: their order is another one from here on."
            )
        settings = deepspeed_config(job.stage, ranks.data_ranks, on_gpu=ranks.on_gpu)
        objective = make_network(start.config, job.stage, settings)
        self.network, self.parts = objective.network, Checkpoint.open(start.parts)
        if saved:
            load_weights(self.network, saved)
        else:
            load_parts(self.network, Checkpoint.open(start.weights))
        engine = start_engine(objective, job.stage, settings)
        self.state = State(self.network, engine, job.stage)
        trained = self.state.trained
        self.blocks_learn = any(name.startswith("blocks.") and "audio_injector" not in name for name in trained)
        if saved and self.first:
            self.state.restore(saved)
        self.update = Updater(engine, job.stage, ranks)
        self.feed = Feed(data, job.stage, start.config, start.parts, job.run, ranks, self.report.note)
        self.watch = Stopwatch(ranks.device)
        self.guard = Guard(job, ranks, self.report)
        self.held_out: list[Example] | None = None
        self.gap: float | None = None

    def train(self) -> bool:
        """To the end of the stage; False if it was asked to stop before."""
        stage, left = self.stage, Left()
        feed = closing(self.feed.from_step(self.first))
        with closing(self.report), stop_signals() as asked, collectives_watched(self.watch), feed as examples_of_steps:
            if self.first == 0:
                self.validate(0)
            self.watch.restart()
            for done in range(self.first + 1, stage.steps + 1):
                with self.watch("data"):
                    examples = next(examples_of_steps)
                updated = self.update(done - 1, examples, stop=lambda: bool(asked), watch=self.watch)
                self.report.step(self.record(done, examples, updated, left))
                self.guard(done, examples, updated)
                del examples  # or they would lie on the GPU while the next ones arrive
                last = done == stage.steps
                if last or updated.stop or done % stage.save_every == 0:
                    self.save(done, must=last or updated.stop)
                if updated.stop and not last:
                    return False
                if last or (stage.validation.every and done % stage.validation.every == 0):
                    self.validate(done)
                self.watch.restart()
        return True

    def record(self, done: int, examples: Sequence[Example], updated: Updated, left: Left) -> StepRecord:
        ranks, config = self.ranks, self.network.config
        lap = self.watch.lap().mean(ranks.total, ranks.world)
        drops = (draw_settings(self.stage, example)[1] for example in examples)
        works = [Work.of(config, e, d, blocks_learn=self.blocks_learn) for e, d in zip(examples, drops, strict=True)]
        work = sum(works, Work()).total(ranks.total, ranks.mesh.sequence.size())
        return StepRecord(
            step=done,
            steps=self.stage.steps,
            loss=updated.loss,
            grad_norm=updated.grad_norm,
            rate=updated.rate,
            seconds=lap.seconds,
            samples=work.samples,
            tokens=work.tokens,
            split=lap.split,
            mfu=mfu(work, lap.seconds, ranks.world, peak_of(ranks.device)),
            left=left.after(lap, self.stage.steps - done),
            memory=torch.cuda.max_memory_allocated() if ranks.on_gpu else None,
            gap=self.gap,
        )

    def save(self, done: int, *, must: bool) -> None:
        complaint = self.state.save(
            self.job.run, done, self.stage, str(self.parts.folder), self.ranks, data=self.data.digest
        )
        if complaint and must:
            raise WorkError(f"{complaint}. Earlier checkpoints are whole: make room, and go on with --resume.")
        if complaint:
            self.report.note(
                f"{complaint}. Training goes on; the next one is tried after {self.stage.save_every} steps."
            )

    @property
    def newest(self) -> str:
        return str(newest(self.job.run)[0])

    def validate(self, done: int) -> None:
        if not self.stage.validation.every or not self.feed.data.held_out:
            return
        self.held_out = self.held_out if self.held_out is not None else self.feed.held_out()
        if not self.held_out:
            return
        found = validate(
            lambda example, drawn: self.update.error(self.placed(example), drawn),
            self.held_out,
            self.stage,
            add_up=self.ranks.total,
            data_rank=self.ranks.data_rank,
            data_ranks=self.ranks.data_ranks,
        )
        self.gap = found.gap
        self.report.validation(done, found)
        if done:
            self.sample(done)

    def sample(self, done: int) -> None:
        """Videos of held-out clips, where there is a VAE to decode them."""
        chosen = [self.placed(example) for example in (self.held_out or [])[: self.stage.validation.videos]]
        if not chosen or self.parts.lacks("vae"):
            return
        vae = None
        try:
            vae = load_vae(self.parts.path("vae"), self.ranks.device) if self.ranks.leads else None
        except (CheckpointError, torch.OutOfMemoryError) as error:
            self.report.note(f"no videos: the VAE can't be loaded ({error}).")
        sample_videos(
            self.update.velocity,
            chosen,
            self.stage,
            vae,
            self.job.run,
            done,
            logger=self.report.loggers,
            complain=self.report.note,
        )

    def placed(self, example: Example) -> Example:
        return example.with_tensors({n: t.to(self.ranks.device) for n, t in example.tensors().items()})


@contextmanager
def stop_signals() -> Iterator[list[float]]:
    """Signals that ask to stop. One that comes later than the first, which may come twice, kills."""
    asked: list[float] = []

    def note(number: int, frame: Any) -> None:
        asked.append(time.monotonic())
        if asked[-1] - asked[0] > ECHO:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)

    before = {number: signal.signal(number, note) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

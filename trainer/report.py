"""What a run tells: on the console, in files beside the checkpoints, to loggers. Only the first rank does."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from trainer import prometheus
from trainer.gap_plot import write_gap_plot
from trainer.job import Job
from trainer.loggers import Loggers, open_loggers
from trainer.metrics import JsonLines, StepRecord, line
from trainer.prometheus import Prometheus
from trainer.validation import Validated

METRICS, VALIDATION, INCIDENTS = "metrics.jsonl", "validation.jsonl", "incidents.jsonl"


class Silent:
    """Of all ranks but the first."""

    loggers = Loggers()

    def step(self, record: StepRecord) -> None:
        pass

    def validation(self, done: int, found: Validated) -> None:
        pass

    def incident(self, done: int, what: str, loss: float, clips: list[tuple[str, int]]) -> None:
        pass

    def note(self, text: str) -> None:
        pass

    def close(self) -> None:
        pass


class Report(Silent):
    """first: steps that were done before. A file's lines beyond them are of a run that was cut off, and go."""

    def __init__(self, job: Job, first: int, console: Console):
        self.run: Path = job.run
        self.console = console
        self.metrics, self.validations, self.incidents = (
            JsonLines(job.run / name, after=first) for name in (METRICS, VALIDATION, INCIDENTS)
        )
        self.failed = False
        self.loggers = open_loggers(job.run, job.stage.model_dump(), after=first, wandb=job.wandb, more=self.served())

    def served(self) -> list[Prometheus]:
        try:
            return prometheus.asked_for(self.run)
        except (OSError, OverflowError, ValueError) as error:
            self.note(f"no metrics for Prometheus: {error}. Give another --metrics-port (or {prometheus.PORT}).")
            return []

    def step(self, record: StepRecord) -> None:
        with self.failures_told():
            self.metrics.write(record.row())
            self.loggers.scalars(record.step, record.scalars())
        self.console.print(escape(line(record)), soft_wrap=True)

    def validation(self, done: int, found: Validated) -> None:
        with self.failures_told():
            self.validations.write(found.row(done))
            self.loggers.scalars(done, found.scalars())
            write_gap_plot(self.run)
        self.console.print(found.table())

    def incident(self, done: int, what: str, loss: float, clips: list[tuple[str, int]]) -> None:
        names = ", ".join(name for name, _ in clips[:8])
        self.note(f"step {done}: {what}. Clips: {names}; all of them in {self.run / INCIDENTS}.")
        with self.failures_told():
            self.incidents.write({"step": done, "what": what, "loss": loss, "clips": clips})

    @contextmanager
    def failures_told(self) -> Iterator[None]:
        """A full disk, or a service that is away, costs some lines and not the run."""
        try:
            yield
        except OSError as error:
            if not self.failed:
                self.note(f"{self.run} can't be written to ({error}): lines of the log will be missing.")
            self.failed = True

    def note(self, text: str) -> None:
        self.console.print(f"[yellow]Note:[/] {escape(text)}", soft_wrap=True)

    def close(self) -> None:
        for log in (self.metrics, self.validations, self.incidents, self.loggers):
            with self.failures_told():
                log.close()

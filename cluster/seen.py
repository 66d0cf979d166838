"""A job as it is now: what its place says, and what its dataset or run tells."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from rich.markup import escape

from cluster.job import Condition, State
from cluster.places import backend
from cluster.progress import Pace, at_once, look, reason, warning
from cluster.records import Record

PATIENCE = 15.0  # seconds that places and datasets have to answer
COLOURS = {
    State.WAITING: "yellow",
    State.RUNNING: "green",
    State.SUCCEEDED: "bold green",
    State.FAILED: "bold red",
    State.STOPPED: "yellow",
    State.GONE: "magenta",
}


@dataclass(frozen=True)
class Seen:
    """What can't be found out is the reason why. pace: None where there is nothing to be seen."""

    record: Record
    condition: Condition | Exception
    pace: Pace | Exception | None

    @property
    def state(self) -> str:
        """With its colour."""
        if isinstance(self.condition, Exception):
            return "[bold magenta]unknown[/]"
        return f"[{COLOURS[self.condition.state]}]{self.condition.state}[/]"

    @property
    def running(self) -> bool:
        return isinstance(self.condition, Condition) and self.condition.state is State.RUNNING

    @property
    def troubles(self) -> list[str]:
        """What its place says of it, red where that is bad news, and what is alarming of its dataset or run."""
        told = []
        if isinstance(self.condition, Exception):
            told.append(f"[red]{escape(reason(self.condition))}[/]")
        elif self.condition.detail:
            colour = "red" if self.condition.state in (State.FAILED, State.GONE) else "yellow"
            told.append(f"[{colour}]{escape(self.condition.detail)}[/]")
        if isinstance(self.pace, Exception):
            told.append(f"[red]{escape(self.record.home)} can't be looked at: {escape(reason(self.pace))}[/]")
        elif self.pace and self.running and (alarm := warning(self.pace)):
            told.append(f"[bold red]{escape(alarm)}[/]")
        return told


def see(records: Sequence[Record]) -> list[Seen]:
    """All places and datasets are asked at once: one that doesn't answer costs the others nothing."""
    conditions: list[Callable[[], Condition]] = [partial(condition, record) for record in records]
    paces: list[Callable[[], Pace | None]] = [partial(look, record.home) for record in records]
    calls: list[Callable[[], Condition | Pace | None]] = [*conditions, *paces]
    answers = at_once(calls, PATIENCE)
    pairs = zip(records, answers[: len(records)], answers[len(records) :], strict=True)
    return [Seen(record, told, pace) for record, told, pace in pairs]  # type: ignore[arg-type]


def condition(record: Record) -> Condition:
    return backend(record.to, record.cluster).condition(record.job_id)

"""What a dataset or a run tells of its own progress, whoever works on it: no record and no cluster is asked."""

import threading
import time
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Protocol, TypeVar

from dataset.errors import RunError, UsageError
from trainer.pace import pace as pace_of_run

Result = TypeVar("Result")
QUIET = 900.0  # seconds without a new file after which a job that runs may be stuck
GLYPHS = "▁▂▃▄▅▆▇█"


class Pace(Protocol):
    """Of curation (`curation.pace`) or training (`trainer.pace`)."""

    @property
    def done(self) -> str:
        """How much of what: measure 41,230 of 98,000 clips."""
        ...

    @property
    def rate(self) -> str:
        """With its unit; empty: not known yet."""
        ...

    @property
    def left(self) -> float | None:
        """Seconds, at this rate."""
        ...

    @property
    def failures(self) -> str:
        """What went wrong, in number; empty: nothing."""
        ...

    @property
    def written(self) -> float:
        """When the last file was, in seconds since 1970."""
        ...

    @property
    def finished(self) -> bool: ...


def look(home: str) -> Pace | None:
    """None: nothing is there (yet), or this machine doesn't see it."""
    if not home:
        return None
    if "://" not in home and (found := pace_of_run(home)):
        return found
    from curation.pace import pace as pace_of_dataset

    return pace_of_dataset(home)


def warning(pace: Pace, now: float | None = None) -> str:
    """What is alarming of a job that runs; empty: nothing."""
    quiet = (time.time() if now is None else now) - pace.written
    return f"nothing was written for {span(quiet)}: it may be stuck" if quiet > QUIET and not pace.finished else ""


def span(seconds: float) -> str:
    """A length of time in two units: 25 s, 12 min, 1 h 54 min, 3 d 4 h."""
    minutes = int(seconds) // 60
    if minutes < 1:
        return f"{max(0, int(seconds))} s"
    if minutes < 60:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 24:
        return f"{hours} h {minutes} min" if minutes else f"{hours} h"
    days, hours = divmod(hours, 24)
    return f"{days} d {hours} h" if hours else f"{days} d"


def ago(moment: float) -> str:
    """In one unit. moment: seconds since 1970."""
    return " ".join([*span(time.time() - moment).split()[:2], "ago"])


def sparkline(values: Sequence[float | None], width: int) -> str:
    """The means of `width` equal parts of the values, as a picture of one line; a part without any is a blank."""
    width = max(1, min(width, len(values)))
    edges = [len(values) * i // width for i in range(width + 1)]
    groups = [[v for v in values[a:b] if v is not None] for a, b in pairwise(edges)]
    means = [sum(group) / len(group) if group else None for group in groups]
    known = [mean for mean in means if mean is not None]
    if not known:
        return ""
    low, high = min(known), max(known)
    scale = (len(GLYPHS) - 1) / (high - low) if high > low else 0.0
    return "".join(" " if mean is None else GLYPHS[round((mean - low) * scale)] for mean in means)


def reason(error: Exception) -> str:
    """Sentences of ours as they are, others with their kind, on one line."""
    text = " ".join(str(error).split())
    return text if isinstance(error, RunError | UsageError | TimeoutError) else f"{type(error).__name__}: {text}"


def at_once(calls: Sequence[Callable[[], Result]], seconds: float) -> list[Result | Exception]:
    """What each call returns or raises, and TimeoutError for those that take longer: nobody waits for them any more."""
    answers: list[Result | Exception] = [TimeoutError(f"no answer within {seconds:.0f} s") for _ in calls]

    def ask(number: int, call: Callable[[], Result]) -> None:
        try:
            answers[number] = call()
        except Exception as e:
            answers[number] = e

    threads = [threading.Thread(target=ask, args=(i, call), daemon=True) for i, call in enumerate(calls)]
    for thread in threads:
        thread.start()
    end = time.monotonic() + seconds
    for thread in threads:
        thread.join(max(0.0, end - time.monotonic()))
    return list(answers)

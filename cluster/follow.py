"""`s2v jobs JOB --follow`: what a job prints and how far it is, until it ends."""

import time
from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape

from cluster.job import State
from cluster.places import backend
from cluster.progress import look, reason, span
from cluster.records import Record, again
from dataset.errors import RunError

PAUSE, BETWEEN = 2.0, 30.0  # seconds between looks at a log, and at a dataset or run
REMEMBERED = 1000  # lines of a log that are compared to find the new ones


class Teller:
    """Says how far a dataset or a run is, now and then, and nothing twice in a row."""

    def __init__(self, home: str, console: Console):
        self.home, self.console = home, console
        self.last, self.looked = "", float("-inf")

    def tell(self, text: str) -> None:
        if text and text != self.last:
            self.console.print(f"[cyan]{time.strftime('%H:%M:%S')}  {escape(text)}[/]", soft_wrap=True)
            self.last = text

    def look(self) -> bool:
        """False: it has come to its end."""
        if time.monotonic() - self.looked < BETWEEN:
            return True
        self.looked = time.monotonic()
        try:
            pace = look(self.home)
        except Exception as e:
            self.tell(reason(e))
            return True
        if pace:
            left = "" if pace.left is None else f"{span(pace.left)} left"
            self.tell("   ".join(filter(None, (pace.done, pace.rate, left, pace.failures))))
        return pace is None or not pace.finished


def follow_job(record: Record, shown: Sequence[str], console: Console) -> None:
    """shown: lines of its log that are known. Raises RunError if the job fails. A place that doesn't answer for a while
    is asked again."""
    there, teller = backend(record.to, record.cluster), Teller(record.home, console)
    while True:
        try:
            condition = there.condition(record.job_id)
            log = there.logs(record.job_id, REMEMBERED).splitlines()
        except Exception as e:
            teller.tell(reason(e))
            time.sleep(PAUSE)
            continue
        for line in fresh(shown, log):
            console.print(line, markup=False, highlight=False, soft_wrap=True)
        shown = log
        if condition.ended:
            break
        teller.look()
        time.sleep(PAUSE)
    detail = f": {condition.detail}" if condition.detail else ""
    if condition.state is State.FAILED:
        raise RunError(f"{record.name} failed{detail}. To go on where it was: {again(record)}")
    console.print(f"{escape(record.name)} {condition.state}{escape(detail)}.", soft_wrap=True)


def follow_home(home: str, console: Console) -> None:
    """Whoever works on it: until it comes to its end, or Ctrl-C."""
    teller = Teller(home, console)
    while teller.look():
        time.sleep(PAUSE)


def fresh(before: Sequence[str], now: Sequence[str]) -> Sequence[str]:
    """The lines of `now` that come after those of `before`; both are the end of one log, whose last line may grow."""
    for known in (before, before[:-1]):
        for count in range(min(len(known), len(now)), 0, -1):
            if known[-count:] == now[:count]:
                return now[count:]
    return now

"""`s2v jobs JOB`: how one job stands, what is wrong with it, and what to do. A dataset or a run alone is enough."""

import os
import shlex
from collections.abc import Iterator

from rich.console import Console
from rich.markup import escape

from cluster.follow import REMEMBERED, follow_home, follow_job
from cluster.job import Condition, State
from cluster.places import backend
from cluster.progress import Pace, ago, look, reason, span, sparkline
from cluster.records import Record, again, find
from cluster.seen import Seen, see
from curation.pace import Pace as PaceOfDataset
from dataset.errors import RunError, UsageError
from trainer.pace import OVER
from trainer.pace import Pace as PaceOfRun


def show_job(name: str, console: Console, lines: int, *, follow: bool = False) -> None:
    """lines: of its log. follow: until it ends; raises RunError if it fails."""
    try:
        record = find(name)
    except UsageError:
        home = name.rstrip("/") if "://" in name else os.path.abspath(name)
        if not show_home(home, console):
            raise
        if follow:
            follow_home(home, console)
        return
    (seen,) = see([record])
    called = "" if record.job_id == record.name else f" ({escape(record.job_id)})"
    what = f"{record.kind} on {record.to}{called}, handed in {ago(record.submitted.timestamp())}"
    console.print(f"[bold]{escape(record.name)}[/]  {seen.state}  [bright_black]{what}[/]", soft_wrap=True)
    show_pace(seen, console)
    log = [] if isinstance(seen.condition, Exception) else show_log(record, console, lines, follow=follow)
    show_commands(seen, console)
    if follow:
        follow_job(record, log, console)


def show_home(home: str, console: Console) -> bool:
    """A dataset or a run that nobody here handed in. False: there is none."""
    try:
        pace = look(home)
    except Exception as e:
        raise RunError(f"{home} can't be looked at: {reason(e)}") from e
    if pace:
        console.print(f"[bold]{escape(home)}[/]  [bright_black]last written {ago(pace.written)}[/]", soft_wrap=True)
        print_pace(home, pace, console, running=True)
    return pace is not None


def show_pace(seen: Seen, console: Console) -> None:
    for text in seen.troubles:
        console.print(text, soft_wrap=True)
    home = seen.record.home
    if isinstance(seen.pace, Exception) or not home:
        return
    if seen.pace is None:
        console.print(f"Nothing is to be seen of {escape(home)} yet, or not from this machine.", soft_wrap=True)
    else:
        console.print(f"[bright_black]{escape(home)}, last written {ago(seen.pace.written)}[/]", soft_wrap=True)
        print_pace(home, seen.pace, console, running=seen.running)


def print_pace(home: str, pace: Pace, console: Console, *, running: bool) -> None:
    """running: speed and time left mean something."""
    if isinstance(pace, PaceOfRun):
        for line in training(pace, console.width, running=running):
            console.print(line, soft_wrap=True)
    elif isinstance(pace, PaceOfDataset):
        for line in curating(pace, running=running):
            console.print(line, soft_wrap=True)
        print_losses(home, console)


def curating(pace: PaceOfDataset, *, running: bool) -> Iterator[str]:
    for stage in pace.stages:
        words = [str(stage)]
        if stage.failed:
            words.append(f"[yellow]{stage.failed:,} failed[/]")
        now = running and stage is pace.now and not pace.finished
        if now:
            words += moving(pace)
        yield f"{'[green]>[/]' if now else ' '} " + "   ".join(words)


def moving(pace: Pace) -> list[str]:
    """The speed, and how long it will take."""
    return [*filter(None, [pace.rate]), *([] if pace.left is None else [f"{span(pace.left)} left"])]


def training(pace: PaceOfRun, width: int, *, running: bool) -> Iterator[str]:
    words = [pace.done]
    if running and not pace.finished:
        words += moving(pace)
    if pace.step:
        words.append(f"{pace.samples:.3g} samples/s   {pace.tokens:,.0f} tokens/s")
    yield "   ".join(words)
    if pace.losses:
        loss, before = pace.loss(), pace.loss(OVER)
        told = "[bold red]not finite[/]" if loss is None else f"{loss:.4f}"
        earlier = "" if before is None else f"; {before:.4f} over those before"
        yield f"loss {told} over the last {min(OVER, len(pace.losses))} steps{earlier}"
        yield f"[cyan]{sparkline(pace.losses, min(72, width))}[/]"
    if (row := pace.validation) and row["gap"] is not None:
        error = f" ± {row['gap_error']:.4f}" if row["gap_error"] is not None else ""
        yield f"audio-shuffle gap {row['gap']:+.4f}{error} at step {row['step']:,}"
    yield f"checkpoint {pace.checkpoint.name}, {ago(pace.saved)}" if pace.checkpoint else "no checkpoint yet"
    if pace.incidents:
        last = pace.incidents[-1]
        yield f"[yellow]{pace.failures}[/], the last one at step {last['step']:,}: {escape(last['what'])}"


def print_losses(dataset: str, console: Console) -> None:
    """The funnel, and the failures with what to do."""
    from curation import status

    try:
        status.print_funnel(dataset, console)
        status.print_failures(dataset, console)
    except Exception as e:  # parts may be replaced meanwhile
        console.print(f"[yellow]No funnel: {escape(reason(e))}[/]", soft_wrap=True)


def show_log(record: Record, console: Console, lines: int, *, follow: bool) -> list[str]:
    """Returns what was read of it."""
    if not lines and not follow:
        return []
    try:
        there = backend(record.to, record.cluster)
        log = there.logs(record.job_id, max(lines, REMEMBERED) if follow else lines).splitlines()
    except Exception as e:
        console.print(f"[yellow]No log: {escape(reason(e))}[/]", soft_wrap=True)
        return []
    if lines:
        console.rule("the end of its log" if log else "its log is empty", style="bright_black", align="left")
        print_plain("\n".join(log[-lines:]), console)
        console.rule(style="bright_black")
    return log


def print_plain(text: str, console: Console) -> None:
    if text:
        console.print(text, markup=False, highlight=False, soft_wrap=True)


def title(condition: Condition | Exception) -> str:
    if isinstance(condition, Exception) or not condition.ended:
        return "To hand it in again, once it has ended:"
    return "To hand it in again:" if condition.state is State.SUCCEEDED else "To go on where it was:"


def show_commands(seen: Seen, console: Console) -> None:
    record = seen.record
    console.print("What runs:" if seen.running else "What was run:", style="bright_black")
    print_plain(f"  {shlex.join(('s2v', *record.argv))}", console)
    if command := again(record):
        console.print(title(seen.condition), style="bright_black")
        print_plain(f"  {command}", console)

"""`s2v jobs`: all that were handed in from this machine; and the request to end."""

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from cluster.places import backend
from cluster.progress import ago, span
from cluster.records import Record, again, find, read_all
from cluster.seen import Seen, condition, see

SHOWN = 40  # jobs in the list


def list_jobs(console: Console) -> None:
    """The newest jobs, the newest one last: just above the prompt."""
    records, complaints = read_all()
    for complaint in complaints:
        console.print(f"[yellow]{escape(complaint)}[/]", soft_wrap=True)
    if not records:
        console.print("No job was handed in from this machine: `s2v submit --help` says how.", soft_wrap=True)
        console.print("`s2v jobs DATASET` and `s2v jobs RUN` show how far anybody's dataset or run is.", soft_wrap=True)
        return
    grid = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False)
    grid.add_column("job", overflow="fold")
    grid.add_column("state", no_wrap=True)
    grid.add_column("progress")
    grid.add_column("pace", no_wrap=True)
    for seen in reversed(see(records[:SHOWN])):
        grid.add_row(named(seen.record), seen.state, progress(seen), speed(seen))
    console.print(grid)
    if len(records) > SHOWN:
        console.print(f"{len(records) - SHOWN} older ones: s2v jobs JOB shows any.", style="bright_black")


def named(record: Record) -> str:
    what = record.to if record.name.startswith(record.kind) else f"{record.kind}, {record.to}"
    return f"{escape(record.name)}\n[bright_black]{what}, {ago(record.submitted.timestamp())}[/]"


def progress(seen: Seen) -> str:
    done = [seen.pace.done] if seen.pace and not isinstance(seen.pace, Exception) else []
    return "\n".join([*done, *seen.troubles]) or "[bright_black]-[/]"


def speed(seen: Seen) -> str:
    if seen.pace is None or isinstance(seen.pace, Exception):
        return ""
    lines = [f"[yellow]{seen.pace.failures}[/]"] if seen.pace.failures else []
    if seen.running and not seen.pace.finished:
        lines += [seen.pace.rate, "" if seen.pace.left is None else f"{span(seen.pace.left)} left"]
    return "\n".join(filter(None, lines))


def stop_job(name: str, console: Console) -> None:
    """Ask it to end, and say how it goes on. Raises where its place can't be asked."""
    record = find(name)
    now = condition(record)
    if now.ended:
        console.print(f"{escape(record.name)} has ended already: {now.state}.", soft_wrap=True)
        return
    backend(record.to, record.cluster).stop(record.job_id)
    kept = "training saves a checkpoint first" if record.kind == "train" else "what is finished is kept"
    kept = "" if record.kind == "caption-server" else f"; {kept}"
    console.print(f"{escape(record.name)} is asked to end{kept}. To start it again:", soft_wrap=True)
    console.print(f"  {again(record)}", markup=False, highlight=False, soft_wrap=True)

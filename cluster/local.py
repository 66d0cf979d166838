"""This machine: a job is a process of its own session, which goes on when the terminal is closed."""

import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

from cluster import keep
from cluster.job import Condition, Job, State, clash
from cluster.records import state
from cluster.settings import Cluster
from dataset.tables import write_atomically

LOG, PROCESS, CODE, ASKED = "log", "process", "code", "stop-asked"
BLOCK = 1 << 16


class LocalJobs:
    """A folder for each job in `s2v`'s state: what it prints, which process it is, how it ended. Of the cluster's
    settings nothing holds here."""

    def __init__(self, cluster: Cluster):
        self.cluster = cluster

    def render(self, job: Job) -> str:
        return f"{shlex.join((*program(), *job.argv))}\n"

    def submit(self, job: Job) -> str:
        folder = self.folder(job.name)
        if alive(folder):
            raise clash(job.name, "runs here already")
        folder.mkdir(parents=True, exist_ok=True)
        for name in (PROCESS, CODE, ASKED):
            (folder / name).unlink(missing_ok=True)
        with (folder / LOG).open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-I", keep.__file__, str(folder / CODE), *program(), *job.argv],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        write_atomically(str(folder), PROCESS, identity(process.pid).encode())
        return job.name

    def condition(self, job_id: str) -> Condition:
        folder = self.folder(job_id)
        if not (folder / LOG).exists():
            return Condition(State.GONE, f"{folder} is not there: it may run on another machine that shares this home")
        asked = (folder / ASKED).exists()
        if alive(folder):
            return Condition(State.RUNNING, "it was asked to stop, and is about to" if asked else "")
        if not (folder / CODE).exists():
            told = "it ended without a word: it was killed, or this machine was restarted"
            return Condition(State.STOPPED if asked else State.FAILED, "" if asked else told)
        code = int((folder / CODE).read_text())
        if asked:
            return Condition(State.STOPPED)
        return Condition(State.FAILED, explain(code, self.logs(job_id, 20))) if code else Condition(State.SUCCEEDED)

    def logs(self, job_id: str, lines: int) -> str:
        try:
            with (self.folder(job_id) / LOG).open("rb") as log:
                return tail(log, lines)
        except FileNotFoundError:
            return ""

    def stop(self, job_id: str) -> None:
        folder = self.folder(job_id)
        if not alive(folder) or (folder / ASKED).exists():  # a second request would cut short what the first one saves
            return
        (folder / ASKED).touch()
        with suppress(ProcessLookupError):
            os.kill(int((folder / PROCESS).read_text().split()[0]), signal.SIGTERM)

    def folder(self, name: str) -> Path:
        """Of this machine's own: a home directory may be shared by many, on which the job isn't to be seen."""
        return state() / "local" / socket.gethostname() / name


def program() -> tuple[str, ...]:
    """`s2v` of this environment, in words that hold in any shell of this machine."""
    ours = Path(sys.executable).with_name("s2v")
    if not ours.is_file():
        return (sys.executable, "-P", "-m", "cli")  # -P: whatever is called cli.py where you are isn't it
    found = shutil.which("s2v")
    return ("s2v",) if found and os.path.samefile(found, ours) else (str(ours),)


def alive(folder: Path) -> bool:
    """Whether the very process that was started is there: its number may be another's by now."""
    try:
        kept = (folder / PROCESS).read_text()
        return bool(kept) and kept == identity(int(kept.split()[0]))
    except FileNotFoundError:
        return False


def identity(pid: int) -> str:
    """Number, start (ticks since the machine's) and which start of the machine; empty: no such process, or a dead one
    that nobody asked about."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return ""
    if fields[0] in "ZX":
        return ""
    return f"{pid} {fields[19]} {Path('/proc/sys/kernel/random/boot_id').read_text().strip()}"


def explain(code: int, log: str) -> str:
    if code == -signal.SIGKILL:
        return "it was killed (SIGKILL): often for want of memory, which `dmesg` tells"
    if code < 0:
        return f"it was ended by {signal.Signals(-code).name}"
    said = [line.strip() for line in log.splitlines() if line.strip()]
    return f"exit code {code}" + (f"; its last words: {said[-1][:300]}" if said else "")


def tail(file, lines: int) -> str:  # type: ignore[no-untyped-def]
    """The last lines, without reading what is before them."""
    end, found = file.seek(0, os.SEEK_END), b""
    while end and found.count(b"\n") <= lines:
        start = max(0, end - BLOCK)
        file.seek(start)
        found = file.read(end - start) + found
        end = start
    return "\n".join(found.decode(errors="replace").splitlines()[-lines:]) if lines else ""

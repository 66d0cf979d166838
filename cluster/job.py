"""A job: a command of s2v that runs somewhere else, and what a place that runs jobs can be asked."""

import hashlib
import re
import shlex
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Literal, Protocol

from dataset.errors import RunError, UsageError

Kind = Literal["curate", "train", "caption-server", "preflight"]
NAME = re.compile(r"[a-z]([-a-z0-9]{0,38}[a-z0-9])?")  # a DNS label, with room for what Kubernetes appends
ATTACHED = "/etc/s2v/job"  # where pods find the files of a job
MOST_ATTACHED = 700_000  # bytes; a ConfigMap holds 1 MiB


@dataclass(frozen=True)
class Job:
    """One command. A name is one job at a time: an ended one is replaced, one that runs is a clash.

    argv: of `s2v`, such as ("curate", "s3://raw/*.mp4", "--out", "s3://b/data"). home: the dataset or run directory; ''
    for a server. files: small ones of this machine that argv names (recipe, policy, manifest, stage); they travel.
    """

    kind: Kind
    name: str
    argv: tuple[str, ...]
    home: str = ""
    files: tuple[Path, ...] = field(default=())

    def __post_init__(self) -> None:
        if not NAME.fullmatch(self.name):
            raise UsageError(f"--name {self.name}: lower-case letters, digits and '-', at most 40, a letter first.")

    @property
    def for_training(self) -> bool:
        """Does it want the nodes of `training`, not those of curation?"""
        return self.kind == "train" or (self.kind == "preflight" and "--train" in self.argv)

    def attached(self, folder: str) -> tuple[str, ...]:
        """argv where the job's files lie in `folder`."""
        moved = {str(path): f"{folder}/{path.name}" for path in self.files}
        return tuple(replaced(word, moved) for word in self.argv)

    def command(self, folder: str = "") -> str:
        """For a shell. folder: of the job's files; empty: where they lie here."""
        return shlex.join(("s2v", *(self.attached(folder) if folder else self.argv)))


def replaced(word: str, moved: dict[str, str]) -> str:
    option, equals, value = word.partition("=")
    if word in moved:
        return moved[word]
    return f"{option}={moved[value]}" if equals and option.startswith("--") and value in moved else word


def clash(name: str, where: str) -> RunError:
    """Of a name that is taken by a job that has not ended."""
    return RunError(
        f"A job {name} {where}. Watch it: s2v jobs {name}. "
        f"Or end it: s2v jobs {name} --stop. Or give this one another --name."
    )


def default_name(kind: Kind, home: str) -> str:
    """Of the kind and the last word of the home, told apart from others of that word by a few digits of a hash."""
    word = re.sub(r"[^a-z0-9]+", "-", home.rstrip("/").rsplit("/", 1)[-1].lower()).strip("-")[:20].strip("-")
    return "-".join(
        filter(None, (kind, word, hashlib.blake2b(home.encode(), digest_size=2).hexdigest() if home else ""))
    )


class State(StrEnum):
    WAITING = "waiting"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    STOPPED = "stopped"
    GONE = "gone"  # the place knows nothing of it any more


@dataclass(frozen=True)
class Condition:
    """What the place says of a job. detail: a sentence of its own, such as why it waits; may be empty."""

    state: State
    detail: str = ""

    @property
    def ended(self) -> bool:
        return self.state not in (State.WAITING, State.RUNNING)


class Backend(Protocol):
    """A place that runs jobs. Whatever it refuses becomes a RunError or UsageError of one sentence and the remedy."""

    def render(self, job: Job) -> str:
        """Exactly what `submit` sends. Talks to nobody, and is the same for the same job and settings."""
        ...

    def submit(self, job: Job) -> str:
        """Hand it in. Returns what the place calls it. Raises where a job of that name runs."""
        ...

    def condition(self, job_id: str) -> Condition: ...

    def logs(self, job_id: str, lines: int) -> str:
        """The last lines of what it printed; empty: nothing yet."""
        ...

    def stop(self, job_id: str) -> None:
        """Ask it to end: curation keeps what is finished, training saves a checkpoint first."""
        ...

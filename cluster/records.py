"""What was handed in, and where: one small file a job, on the machine that handed it in."""

import os
import shlex
from datetime import datetime
from pathlib import Path

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from cluster.job import Kind
from cluster.settings import Cluster, Place
from dataset.config import suggest
from dataset.errors import UsageError
from dataset.tables import write_atomically

VARIABLE = "S2V_STATE"


class Record(BaseModel):
    """A job as it was handed in. job_id: what the place calls it. argv: of `s2v`. cluster: to reach the place again."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    kind: Kind
    to: Place
    job_id: str
    home: str
    argv: tuple[str, ...]
    cluster: Cluster
    submitted: datetime  # with its time zone


def state() -> Path:
    """$S2V_STATE, or s2v/ where the desktop standard keeps state. Its owner's alone: logs and addresses are in it."""
    chosen = os.environ.get(VARIABLE)
    base = os.environ.get("XDG_STATE_HOME") or "~/.local/state"
    folder = Path(chosen or f"{base}/s2v").expanduser().absolute()
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as e:
        raise UsageError(f"{folder} can't be made ({e.strerror}): name another folder in {VARIABLE}.") from e
    return folder


def jobs() -> Path:
    return state() / "jobs"


def save(record: Record) -> None:
    """A job of the same name is forgotten. Its settings lie beside the record, to be handed in with again."""
    settings = yaml.safe_dump(record.cluster.model_dump(mode="json", exclude_defaults=True), sort_keys=False)
    write_atomically(str(jobs()), settings_file(record.name).name, settings.encode())
    write_atomically(str(jobs()), f"{record.name}.json", record.model_dump_json(indent=2).encode())


def settings_file(name: str) -> Path:
    """The cluster file that the job was handed in with."""
    return jobs() / f"{name}.cluster.yaml"


def read_all() -> tuple[list[Record], list[str]]:
    """All records, newest first, and what is wrong with those that can't be read."""
    records, complaints = [], []
    for file in jobs().glob("*.json"):
        try:
            records.append(Record.model_validate_json(file.read_bytes()))
        except (OSError, ValidationError):
            complaints.append(f"{file} can't be read: another version wrote it, or it is damaged. Remove it.")
    return sorted(records, key=lambda record: record.submitted, reverse=True), sorted(complaints)


def find(name: str) -> Record:
    """The record of that name; else the newest one that works on that dataset or run. Raises UsageError."""
    records, _ = read_all()
    home = name.rstrip("/") if "://" in name else os.path.abspath(name)
    for record in [r for r in records if r.name == name] + [r for r in records if r.home == home]:
        return record
    hint = suggest(name, [record.name for record in records]) if records else " No job was handed in from this machine."
    raise UsageError(f"There is no job, dataset or run '{name}'.{hint}")


def again(record: Record) -> str:
    """The command that hands the same in again, to the same place; empty where none does."""
    if record.kind == "preflight":
        return ""
    words = () if record.kind == "caption-server" else record.argv[1:]
    settings = str(settings_file(record.name))
    where = ("--to", record.to, "--name", record.name, "--cluster", settings)
    return shlex.join(("s2v", "submit", record.kind, *words, *where))

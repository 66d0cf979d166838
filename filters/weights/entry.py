"""What the registry says of a checkpoint: its files, its source, its licence."""

from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Protocol

WHOLE = 64  # digits of a sha256


class MissingWeights(Exception):
    """Weights that are not there, not to be had, not what they should be, or not to be used yet."""

    def __init__(self, name: str, remedy: str):
        super().__init__(f"weights {name!r}: {remedy}")
        self.name = name
        self.remedy = remedy


class Unavailable(Exception):
    """What a source says when a file can't be had from it."""


@dataclass(frozen=True)
class File:
    """One file. `name`: its path in the cache, in `$S2V_WEIGHTS` and on a mirror."""

    name: str
    sha256: str = ""  # its first digits where only those are known; the digest of the first fetch settles the rest
    size: int | None = None  # bytes

    def __post_init__(self) -> None:
        if PurePosixPath(self.name).is_absolute() or ".." in PurePosixPath(self.name).parts:
            raise ValueError(f"{self.name!r} would lie outside the cache")

    @property
    def basename(self) -> str:
        return self.name.rsplit("/", 1)[-1]


class Source(Protocol):
    """Where files come from. `advice`: what may help when they can't be had; may be empty."""

    @property
    def advice(self) -> str: ...

    def __str__(self) -> str: ...

    def fetch(self, wanted: File, into: Path) -> None:
        """Put `wanted`, whole and checked, at `into / wanted.name`. Raises `Unavailable`."""


@dataclass(frozen=True)
class Entry:
    """One name of the registry. It stands for the file of that name, or for a directory of files (a snapshot)."""

    name: str
    source: Source
    files: tuple[File, ...]
    licence: str
    about_mb: float | None = None  # where sizes are not known exactly
    must_accept: bool = False  # the licence forbids uses that people may have in mind

    @property
    def megabytes(self) -> float | None:
        sizes = [f.size for f in self.files if f.size]
        return self.about_mb or (sum(sizes) / 1e6 if sizes else None)

    @property
    def settled(self) -> bool:
        """Is the digest known before the first fetch?"""
        return all(len(f.sha256) == WHOLE for f in self.files)

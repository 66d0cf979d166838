"""Where weights lie on this machine, and whether they are what they should be.

The cache is `$S2V_CACHE/weights`, by default `~/.cache/s2v/weights`. `$S2V_WEIGHTS` may name a directory of the same
layout that is looked into first and never written to. Beside a file without a published digest lies `NAME.sha256`, the
digest of its first use; beside one whose licence was accepted, `NAME.accepted`.
"""

import hashlib
import os
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from dataset.tables import write_atomically
from filters.weights.entry import WHOLE, Entry, File, MissingWeights


def cache_dir() -> Path:
    return Path(os.environ.get("S2V_CACHE") or Path.home() / ".cache" / "s2v") / "weights"


def stand_in() -> Path | None:
    """`$S2V_WEIGHTS`."""
    given = os.environ.get("S2V_WEIGHTS")
    return Path(given) if given else None


def roots() -> list[Path]:
    given = stand_in()
    return [given, cache_dir()] if given else [cache_dir()]


# ---------------------------------------------------------------- digests


def sha256_of(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def remembered_sha256(path: Path) -> str:
    """The same, computed again only when the file's size or time changed: workers start often, and files are large."""
    noted, now = read(note_of(path)), state_of(path)
    if noted.startswith(now):
        return noted.removeprefix(now)
    found = sha256_once(path, now)
    remember(path, found)
    return found


@cache
def sha256_once(path: Path, state: str) -> str:
    """For a process whose cache can't be written to. state: a changed file is another one."""
    return sha256_of(path)


def remember(path: Path, sha256: str) -> None:
    write(note_of(path), state_of(path) + sha256)


def state_of(path: Path) -> str:
    return f"{path.stat().st_size} {path.stat().st_mtime_ns} "


def note_of(path: Path) -> Path:
    return cache_dir() / ".hashes" / hashlib.sha256(str(path.absolute()).encode()).hexdigest()[:32]


def expected(file: File) -> str:
    """The digest to hold a file to: published, or of its first use, or the digits that are known of it."""
    if len(file.sha256) == WHOLE:
        return file.sha256
    recorded = (read(root / f"{file.name}.sha256").strip() for root in roots())
    return next(filter(None, recorded), file.sha256)


def record(entry: Entry, root: Path) -> list[str]:
    """Hold files without a published digest to what they are now. Returns the digests of all."""
    found = []
    for file in entry.files:
        one = expected(file)
        if len(one) < WHOLE:
            one = remembered_sha256(root / file.name)
            write(cache_dir() / f"{file.name}.sha256", one)
        found.append(one)
    return found


# ---------------------------------------------------------------- files


@dataclass(frozen=True)
class Checked:
    """A file that is there, and what it is."""

    path: Path
    sha256: str
    expected: str

    @property
    def good(self) -> bool:
        return self.sha256.startswith(self.expected)


def check(file: File, root: Path, *, afresh: bool = False) -> Checked | None:
    """None where the file isn't there. afresh: read it, whatever is remembered of it."""
    path = root / file.name
    if not path.is_file():
        return None
    return Checked(path, sha256_of(path) if afresh else remembered_sha256(path), expected(file))


def locate(entry: Entry) -> Path | None:
    """The root under which the entry lies, complete and as it should be. Raises `MissingWeights` where `$S2V_WEIGHTS`
    has another file; what is wrong in the cache may be fetched again."""
    for root in roots():
        found = [check(file, root) for file in entry.files]
        if not all(found):
            continue
        wrong = [one for one in found if one and not one.good]
        if not wrong:
            return root
        if root == stand_in():
            raise MissingWeights(
                entry.name,
                f"{wrong[0].path} in $S2V_WEIGHTS is another file than the one we know (sha256 {wrong[0].sha256}, "
                f"expected {wrong[0].expected}). Replace it by the one of {entry.source}, or remove it.",
            )
    return None


# ---------------------------------------------------------------- licences


def accepted(entry: Entry) -> bool:
    return not entry.must_accept or any((root / f"{entry.name}.accepted").is_file() for root in roots())


def accept(entry: Entry) -> None:
    note = cache_dir() / f"{entry.name}.accepted"
    note.parent.mkdir(parents=True, exist_ok=True)
    note.write_text(f"{entry.licence}\n")


# ---------------------------------------------------------------- small notes


def read(note: Path) -> str:
    try:
        return note.read_text()
    except OSError:
        return ""


def write(note: Path, text: str) -> None:
    """In place at once; not at all where the cache can't be written to, as in an image that brings its weights."""
    try:
        write_atomically(str(note.parent), note.name, text.encode())
    except OSError:
        return

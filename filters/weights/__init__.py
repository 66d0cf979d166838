"""Where network weights come from: a registry of names, each with its source, digest and licence.

Filters ask for `path(name)`. Files are looked for in `$S2V_WEIGHTS`, then in the cache, then fetched; whatever place
they come from, they are held to the digest that is known of them.
"""

import fcntl
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from filters.weights import store
from filters.weights.entry import WHOLE, Entry, MissingWeights, Unavailable
from filters.weights.registry import REGISTRY
from filters.weights.store import cache_dir
from filters.weights.web import Mirror

__all__ = ["REGISTRY", "Entry", "MissingWeights"]


def entry(name: str) -> Entry:
    if name not in REGISTRY:
        raise MissingWeights(name, f"no such name in the registry; known are: {', '.join(sorted(REGISTRY))}.")
    return REGISTRY[name]


def available(name: str) -> bool:
    """Can it be used now, without fetching anything? Raises `MissingWeights` where `$S2V_WEIGHTS` has another file."""
    wanted = entry(name)
    return store.accepted(wanted) and store.locate(wanted) is not None


def digest(name: str) -> str:
    """sha256 of the file, or of the names and digests of a snapshot's files. Known without the files where it was
    published or they were here before; else `MissingWeights` is raised."""
    wanted = entry(name)
    found = [store.expected(file) for file in wanted.files]
    if not all(len(one) == WHOLE for one in found):
        root = store.locate(wanted)
        if root is None:
            raise MissingWeights(name, f"its digest isn't known before it is here. {how_to_get(wanted)}")
        found = store.record(wanted, root)
    if wanted.name == wanted.files[0].name:
        return found[0]
    lines = (f"{one} {file.basename}\n" for one, file in zip(found, wanted.files, strict=True))
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def path(name: str) -> Path:
    """The file, or the directory of a snapshot, fetched first where it is absent. Raises `MissingWeights` where it
    can't be had, or where its licence is to be accepted first."""
    wanted = entry(name)
    if not store.accepted(wanted):
        raise MissingWeights(
            name,
            f"its licence is to be accepted first. {wanted.licence}. If that suits you: "
            f"`s2v weights pull {name} --accept-licence`",
        )
    root = store.locate(wanted)
    if root is None:
        fetch(wanted)
        root = cache_dir()
    store.record(wanted, root)
    return root / name


def accepted(name: str) -> bool:
    """Was the licence accepted, or need it not be?"""
    return store.accepted(entry(name))


def accept(name: str) -> None:
    """Note in the cache that the user agrees to the licence."""
    store.accept(entry(name))


def checked() -> Iterator[store.Checked]:
    """Every file of the registry that is here, read again."""
    for root in store.roots():
        for file in (file for known in REGISTRY.values() for file in known.files):
            if found := store.check(file, root, afresh=True):
                yield found


def fetch(wanted: Entry) -> None:
    """Get the entry's files into the cache. Safe from many processes at once."""
    mirror = os.environ.get("S2V_WEIGHTS_MIRROR")
    source = Mirror(mirror) if mirror else wanted.source
    try:
        with locked(wanted):
            for file in wanted.files:
                found = store.check(file, cache_dir())
                if found is None or not found.good:
                    source.fetch(replace(file, sha256=store.expected(file)), cache_dir())
    except Unavailable as e:
        raise MissingWeights(wanted.name, f"not here, and {e}. {how_to_get(wanted)}") from e
    except OSError as e:
        raise MissingWeights(wanted.name, f"{cache_dir()} can't be written to ({e}); S2V_CACHE moves it.") from e


@contextmanager
def locked(wanted: Entry) -> Iterator[None]:
    """Let one worker of a node fetch while the others wait for its files. Wheels bring several entries at once."""
    locks = cache_dir() / ".locks"
    locks.mkdir(parents=True, exist_ok=True)
    with open(locks / wanted.name.split("/")[0], "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def how_to_get(wanted: Entry) -> str:
    advice = f" {wanted.source.advice}" if wanted.source.advice else ""
    return (
        f"Run `s2v weights pull {wanted.name}` where its official source, {wanted.source}, can be reached; it goes on "
        f"where it stopped.{advice} Without that network, copy it to $S2V_WEIGHTS/{wanted.name}, or name a server that "
        "has it under that path in S2V_WEIGHTS_MIRROR."
    )

"""What is looked at before a run. A check is a small function that returns what it found and what to do about it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

Verdict = Literal["ok", "warn", "bad", "skipped"]


@dataclass(frozen=True)
class Check:
    """what: a phrase. Its `{}` stand for `numbers`, which may differ between nodes that are alike otherwise."""

    name: str
    verdict: Verdict
    what: str
    remedy: str = ""
    numbers: tuple[float, ...] = ()


def guarded(name: str, check: Callable[[], Check]) -> Check:
    """A check that can't be made is one that failed."""
    try:
        return check()
    except Exception as e:  # whatever a strange machine makes of it
        return Check(name, "bad", f"can't be checked: {type(e).__name__}: {e}", "see the message")

"""Where the dataset lies: can every node write, read, list and delete there, how fast, and do they see the same?"""

import os
import time
import uuid
from collections.abc import Callable
from email.utils import parsedate_to_datetime
from functools import partial
from typing import Any

import fsspec

from cluster.checks import Check
from dataset.errors import RunError, UsageError
from dataset.tables import write_atomically

NAME = "object store"
SMALL, LARGE = 1_000, 16_000_000  # bytes
PATIENT, SLOW = 1000.0, 5.0  # ms of a small object, MB/s of a large one
MARK = "mark"
ASTRAY, REFUSED = 5.0, 300.0  # seconds between clocks: S3 refuses signatures that are off by 900


def folder(home: str, token: str) -> str:
    """Where a preflight leaves its objects: in the dataset, and nothing takes them for its own."""
    return f"{home}/.preflight-{token}"


def round_trip(home: str, token: str) -> Check:
    """A small object and one of 16 MB, written as tables and shards are."""
    fs, place = fsspec.core.url_to_fs(folder(home, token))
    name = uuid.uuid4().hex
    path = f"{place}/{name}"

    def there() -> bool:
        fs.invalidate_cache()
        try:
            return any(entry.rstrip("/").endswith(name) for entry in fs.ls(place, detail=False))
        except FileNotFoundError:  # an object store has no empty folders
            return False

    try:
        seconds: list[float] = []
        for data in (os.urandom(SMALL), os.urandom(LARGE)):
            put, _ = timed(partial(write_atomically, folder(home, token), name, data))
            get, back = timed(partial(fs.cat_file, path))
            if back != data:
                return Check(NAME, "bad", "other bytes came back than were put", "don't use this place")
            seconds += [put, get]
        listed = there()
        fs.rm_file(path)
        if not listed or there():
            what = "a new object isn't listed" if not listed else "a deleted object is still listed"
            return Check(NAME, "bad", what, "the store must list what was just written; choose another one")
    except (RunError, UsageError) as e:  # it says what to do
        return Check(NAME, "bad", str(e))
    except Exception as e:  # every store raises its own kinds
        return Check(NAME, "bad", f"{home}: {in_words(e)}", remedy(e, home))
    numbers = 1000 * seconds[0], 1000 * seconds[1], LARGE / seconds[2] / 1e6, LARGE / seconds[3] / 1e6
    what = f"put {{}} ms, get {{}} ms; {LARGE // 10**6} MB: put {{}} MB/s, get {{}} MB/s"
    if max(numbers[:2]) > PATIENT or min(numbers[2:]) < SLOW:
        return Check(NAME, "warn", what, "slow: is the store in the same region, and the network not shared?", numbers)
    return Check(NAME, "ok", what, numbers=numbers)


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    began = time.perf_counter()
    result = work()
    return time.perf_counter() - began, result


def leave_mark(home: str, token: str) -> None:
    write_atomically(folder(home, token), MARK, token.encode())


def sees_mark(home: str, token: str) -> Check:
    """Is it the same place that the first node wrote to?"""
    try:
        with fsspec.open(f"{folder(home, token)}/{MARK}", "rb") as f:
            same = f.read() == token.encode()
    except FileNotFoundError:
        same = False
    if same:
        return Check("same place", "ok", f"{home} is the same everywhere")
    remedy = "mount the same file system under this path on all nodes, or use s3://"
    return Check("same place", "bad", f"what the first node wrote to {home} isn't seen", remedy)


def sweep(home: str, token: str) -> None:
    """Remove what the checks left behind, and the dataset's folder if it is empty, as it was before."""
    fs, place = fsspec.core.url_to_fs(folder(home, token))
    fs.invalidate_cache()
    if fs.exists(place):
        fs.rm(place, recursive=True)
    if "://" not in home and os.path.isdir(home) and not os.listdir(home):
        os.rmdir(home)


def store_clock(home: str) -> Check:
    """The node's clock against the store's, which must be close for requests to be let in."""
    name = "clock of the store"
    if not home.startswith("s3://"):
        return Check(name, "skipped", "not an object store")
    fs, place = fsspec.core.url_to_fs(home)
    try:
        began = time.time()
        answer = fs.call_s3("head_bucket", Bucket=place.split("/")[0])
        middle = (began + time.time()) / 2
    except Exception as e:
        return Check(name, "skipped", f"the store doesn't answer: {in_words(e)}")
    date = parsedate_to_datetime(answer["ResponseMetadata"]["HTTPHeaders"]["date"])
    return judge_clock(name, middle - date.timestamp() - 0.5)  # it tells whole seconds


def judge_clock(name: str, seconds: float) -> Check:
    off = abs(seconds)
    if off < ASTRAY:
        return Check(name, "ok", f"within {ASTRAY:g} s")
    what = f"{{}} s {'ahead' if seconds > 0 else 'behind'}"
    return Check(name, "bad" if off >= REFUSED else "warn", what, "start chrony or ntpd on the node", (off,))


# ---------------------------------------------------------------- what went wrong


def in_words(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:200]


def remedy(error: Exception, home: str) -> str:
    """What to do about what a file system or a store says."""
    remote = "://" in home
    if isinstance(error, FileNotFoundError) and remote:
        return "make the bucket, or check its name and region"
    if isinstance(error, PermissionError) or "Credentials" in type(error).__name__:
        if not remote:
            return "let the user of the job write there"
        return "check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY: they must allow get, put, list and delete there"
    if "Connect" in type(error).__name__ or isinstance(error, TimeoutError):
        return "check AWS_ENDPOINT_URL, the network and its proxies"
    return "write there by hand to see more"

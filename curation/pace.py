"""How far the curation of a dataset is, and how fast it goes, from the dataset alone. Changes nothing.

Counts come from footers of Parquet parts, speed from when parts were written: both are quick for any number of clips.
"""

import os
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import yaml

from curation.layout import CAPTIONS, CLIPS, FAILURES, SCORES, SHARDS, SOURCES, VERDICTS

WINDOW = 900.0  # seconds of the recent past, whose speed is told
THREADS = 32  # opening files of an object store waits more than it computes
STAGES = {"ingest": CLIPS, "measure": SCORES, "caption": CAPTIONS, "pack": SHARDS}  # and what each of them writes


@dataclass(frozen=True)
class Stage:
    """Of clips; while sources are looked through, of sources. total: None where it can't be told."""

    name: str
    done: int
    failed: int
    total: int | None
    unit: str = "clips"

    @property
    def complete(self) -> bool:
        return self.total is not None and self.done + self.failed >= self.total

    def __str__(self) -> str:
        if not self.total:
            return f"{self.name} {self.done:,} {self.unit}"
        share = 100 * (self.done + self.failed) // self.total  # 100 only when it is
        return f"{self.name} {self.done:,} of {self.total:,} {self.unit} ({share}%)"


@dataclass(frozen=True)
class Pace:
    """stages: those of the run, in order. now: the one that is going on. speed: what it did a second in the last few
    minutes; None: nothing was finished yet. written: when the last file was, in seconds since 1970. finished: the last
    run came to its end. failed: rows of failures/."""

    stages: tuple[Stage, ...]
    now: Stage
    speed: float | None
    written: float
    finished: bool
    failed: int

    @property
    def done(self) -> str:
        return f"{self.stages[-1].done:,} clips packed" if self.finished else str(self.now)

    @property
    def failures(self) -> str:
        return f"{self.failed:,} failed" if self.failed else ""

    @property
    def rate(self) -> str:
        return "" if self.speed is None else f"{self.speed:.3g} {self.now.unit}/s"

    @property
    def left(self) -> float | None:
        """Seconds to the end of the stage that is going on."""
        if not self.speed or self.now.total is None or self.now.complete:
            return None
        return (self.now.total - self.now.done - self.now.failed) / self.speed


@dataclass(frozen=True)
class File:
    path: str
    written: float
    rows: int = 0


def pace(dataset: str, now: float | None = None) -> Pace | None:
    """None: there is no dataset. now: seconds since 1970."""
    now = time.time() if now is None else now
    fs, root = fsspec.core.url_to_fs(dataset)
    fs.invalidate_cache()
    began = written_at(fs, f"{root}/recipe.yaml")  # at the start of every run
    if began is None:
        return None
    with fs.open(f"{root}/recipe.yaml", "rb") as f:
        captions = bool((yaml.safe_load(f).get("captioning") or {}).get("servers"))
    tables = {name: list(parts(fs, f"{root}/{name}")) for name in (*STAGES.values(), VERDICTS, FAILURES)}
    stages, counted, failed = count(fs, tables, captions)
    newest = {name: max((f.written for f in files), default=0.0) for name, files in tables.items()}
    finished = (written_at(fs, f"{root}/{SHARDS}/index.parquet") or 0.0) >= max(began, *newest.values())
    current = going_on(stages, newest, began)
    if current.name == "ingest":  # it alone is told in sources: to count them takes more than a footer
        with ThreadPoolExecutor(THREADS) as pool:
            counted[CLIPS] = list(pool.map(lambda f: with_sources(fs, f), tables[CLIPS]))
        done, total = sum(f.rows for f in counted[CLIPS]), read_total(fs, f"{root}/{SOURCES}")
        stages = (Stage("ingest", done, current.failed, total, "sources"), *stages[1:])
        current = going_on(stages, newest, began)
    since = max(began, now - WINDOW, *(newest[t] for s, t in STAGES.items() if s != current.name))
    speed = sum(f.rows for f in counted[STAGES[current.name]] if f.written > since) / max(1.0, now - since)
    return Pace(stages, current, speed or None, max(began, *newest.values()), finished, failed)


def written_at(fs: Any, path: str) -> float | None:
    try:
        return seconds(fs.info(path))
    except (FileNotFoundError, NotADirectoryError):
        return None


def seconds(info: dict[str, Any]) -> float:
    """When a file was written: `mtime` of a file system, `LastModified` of an object store."""
    at = info.get("mtime") or info.get("LastModified") or info.get("updated") or 0.0
    if isinstance(at, str):
        at = datetime.fromisoformat(at)
    return at.timestamp() if isinstance(at, datetime) else float(at)


def parts(fs: Any, folder: str) -> Iterator[File]:
    """The parts of a table, and the indexes of shards, with one request for all of them."""
    try:
        listed = fs.ls(folder, detail=True)
    except FileNotFoundError:
        return
    for info in listed:
        name = os.path.basename(info["name"])
        if name.endswith(".index.parquet") or (name.startswith("part-") and name.endswith(".parquet")):
            yield File(info["name"], seconds(info))


def count(
    fs: Any, tables: dict[str, list[File]], captions: bool
) -> tuple[tuple[Stage, ...], dict[str, list[File]], int]:
    """The stages, the parts with their rows, and how many failures there are."""
    with ThreadPoolExecutor(THREADS) as pool:
        verdicts = pool.map(lambda f: column(fs, f, "keep"), tables[VERDICTS])
        failures = pool.map(lambda f: column(fs, f, "stage"), tables[FAILURES])
        counted = {name: list(pool.map(lambda f: with_rows(fs, f), tables[name])) for name in STAGES.values()}
        kept = sum(pc.sum(keep).as_py() or 0 for keep in verdicts if keep is not None)
        failed = Counter(stage for rows in failures if rows is not None for stage in rows.to_pylist())
    rows = {name: sum(f.rows for f in files) for name, files in counted.items()}
    totals = {"ingest": None, "measure": rows[CLIPS]} | dict.fromkeys(("caption", "pack"), kept)
    if not tables[VERDICTS]:
        totals |= {"caption": None, "pack": None}
    names = [name for name in STAGES if name != "caption" or captions or rows[CAPTIONS]]
    return tuple(Stage(n, rows[STAGES[n]], failed[n], totals[n]) for n in names), counted, failed.total()


def with_rows(fs: Any, file: File) -> File:
    """A part that was removed meanwhile has none."""
    try:
        with fs.open(file.path, "rb") as f:
            return File(file.path, file.written, pq.read_metadata(f).num_rows)
    except FileNotFoundError:
        return file


def column(fs: Any, file: File, name: str) -> pa.ChunkedArray | None:
    try:
        with fs.open(file.path, "rb") as f:
            return pq.ParquetFile(f).read([name])[name]
    except FileNotFoundError:
        return None


def with_sources(fs: Any, file: File) -> File:
    found = column(fs, file, "source")
    return file if found is None else replace(file, rows=pc.count_distinct(found).as_py())


def read_total(fs: Any, path: str) -> int | None:
    try:
        with fs.open(path, "rb") as f:
            return yaml.safe_load(f)["count"]
    except FileNotFoundError:
        return None


def going_on(stages: Iterable[Stage], newest: dict[str, float], began: float) -> Stage:
    """The stage that wrote last in this run; before any has, and between two of them, the first that has work."""
    wrote = max(stages, key=lambda stage: newest[STAGES[stage.name]])
    again = wrote.name == "measure" and newest[SCORES] > newest[VERDICTS]  # stale rows are replaced, not added
    if newest[STAGES[wrote.name]] > began and (again or not wrote.complete):
        return wrote
    return next((s for s in stages if s.total is not None and not s.complete), wrote)

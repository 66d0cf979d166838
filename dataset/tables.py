"""Append-only Parquet tables: immutable parts, named by the keys they hold, put in place atomically.

A task that is retried writes the same keys, so it overwrites its own part and never duplicates a row. There is no
index, lock or ledger beside the parts: a crash leaves whole parts or none.
"""

import hashlib
import os
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from fsspec import AbstractFileSystem

from dataset.store import put, size_of, told

Result = TypeVar("Result")


def short_hash(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=12).hexdigest()


def part_name(keys: Iterable[str]) -> str:
    """Name of the part that a task over exactly these keys writes."""
    return f"part-{short_hash(chr(10).join(sorted(keys)))}.parquet"


def write_atomically(root: str, name: str, data: bytes) -> None:
    """Put a file in place whole: rename on a file system, one put on an object store, where it is then looked for."""
    fs, path = fsspec.core.url_to_fs(root)
    target = f"{path.rstrip('/')}/{name}"
    if "file" not in fs.protocol:
        with told(root):
            put(fs, target, data)
        return
    os.makedirs(os.path.dirname(target), exist_ok=True)
    temporary = f"{os.path.dirname(target)}/.{os.path.basename(target)}.{uuid.uuid4().hex}"
    try:
        with open(temporary, "wb") as f:
            f.write(data)
            f.flush()
            os.fsync(f.fileno())
        os.replace(temporary, target)
    except BaseException:
        if os.path.exists(temporary):
            os.unlink(temporary)
        raise


def to_parquet(table: pa.Table, row_group: int | None = None) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd", row_group_size=row_group)
    return sink.getvalue().to_pybytes()


@contextmanager
def parquet(fs: AbstractFileSystem, path: str) -> Iterator[pq.ParquetFile]:
    """An open file. From an object store all of it comes at once: ours are small, and every request takes time."""
    remote = "file" not in fs.protocol
    with pa.BufferReader(fs.cat_file(path)) if remote else fs.open(path, "rb") as f:
        yield pq.ParquetFile(f)


class Table:
    """One kind of row under DATASET/name, told apart by the column `key`.

    Rows that are `heavy` (pictures, keypoints) are stored so that a few of a part can be read without the others.
    """

    def __init__(self, dataset: str, name: str, key: str = "clip_id", *, heavy: bool = False):
        self.root = f"{dataset.rstrip('/')}/{name}"
        self.key = key
        self.row_group = 16 if heavy else None  # rows that are read together; one by one, finding them takes longer
        self.fs, self.path = fsspec.core.url_to_fs(self.root)

    def parts(self) -> list[str]:
        """Names of all parts, sorted."""
        self.fs.invalidate_cache()  # others write parts, too
        with told(self.root):
            if not self.fs.isdir(self.path):
                return []
            names = [os.path.basename(p) for p in self.fs.ls(self.path, detail=False)]
        return sorted(n for n in names if n.startswith("part-") and n.endswith(".parquet"))

    def write(self, rows: pa.Table, name: str | None = None) -> str:
        """Write one part; `name` defaults to the hash of the rows' keys. Returns the part's name."""
        name = name or part_name(rows[self.key].to_pylist())
        write_atomically(self.root, name, to_parquet(rows, self.row_group))
        return name

    def read_part(self, name: str, columns: Sequence[str] | None = None) -> pa.Table:
        with told(self.root), parquet(self.fs, f"{self.path}/{name}") as file:
            wanted = columns and [c for c in columns if c in file.schema_arrow.names]
            return file.read(columns=wanted)

    def read_rows(self, name: str, keys: set[str]) -> list[dict[str, Any]]:
        """The rows of a part that have one of the keys; no such part: none."""
        try:
            with told(self.root), parquet(self.fs, f"{self.path}/{name}") as file:
                held = np.isin(np.array(file.read([self.key])[self.key].to_pylist(), dtype=str), list(keys))
                ends = np.cumsum([file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)])
                groups = np.unique(np.searchsorted(ends, np.flatnonzero(held), side="right"))
                rows = file.read_row_groups(groups.tolist()).to_pylist()
        except FileNotFoundError:
            return []
        return [row for row in rows if row[self.key] in keys]

    def read(self, columns: Sequence[str] | None = None) -> pa.Table:
        """All rows. Parts with different columns are merged; what a part lacks is null. No parts: no columns."""
        names = self.parts()
        if not names:
            return pa.table({})
        tables = in_threads(lambda name: self.read_part(name, columns), names)
        return pa.concat_tables(tables, promote_options="permissive").combine_chunks()

    def keys(self) -> pa.Array:
        """The keys of all rows."""
        table = self.read([self.key])
        return table[self.key].combine_chunks() if table.num_columns else pa.array([], pa.string())

    def has(self, name: str) -> bool:
        with told(self.root):
            return size_of(self.fs, f"{self.path}/{name}") is not None

    def drop(self, name: str) -> None:
        """Remove a part, if there is one."""
        with told(self.root), suppress(FileNotFoundError):
            self.fs.rm_file(f"{self.path}/{name}")


def in_threads(work: Callable[[str], Result], names: Iterable[str]) -> list[Result]:
    """Do the same to many files: reading and writing them waits more than it computes."""
    with ThreadPoolExecutor(8) as pool:
        return list(pool.map(work, names))

"""SOURCE arguments -> the videos they name: files, directories, globs, manifests, tars, URLs."""

import csv
import gc
import io
import json
import os
import posixpath
import tarfile
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import BinaryIO

import fsspec
import pyarrow.parquet as pq

from dataset.errors import UsageError
from dataset.media import MediaError
from dataset.store import told

LARGE, BLOCK = 64 << 20, 4 << 20  # bytes: of a file that isn't copied whole, and that are fetched at a time
BLOCKS = 16  # that are kept: sound and pictures of a place may lie apart
VIDEO = {
    ".mp4",
    ".mov",
    ".m4v",
    ".mkv",
    ".webm",
    ".avi",
    ".ts",
    ".mts",
    ".mpg",
    ".mpeg",
    ".flv",
    ".wmv",
    ".3gp",
    ".ogv",
}
MANIFEST = {".csv", ".tsv", ".jsonl", ".ndjson", ".parquet"}
PATH_COLUMNS = ("path", "url", "video", "source", "file", "video_path")
CAPTION_COLUMNS = ("caption", "text", "prompt")


@dataclass(frozen=True)
class Item:
    """One video to ingest. uri: a local path, a URL, or `tar://member::path-or-url`."""

    uri: str
    caption: str | None = None


def expand(sources: Iterable[str]) -> Iterator[Item]:
    """All videos that the SOURCE arguments name, each once, in a stable order."""
    seen: set[str] = set()
    for source in sources:
        with told(source):
            for item in expand_one(source):
                if item.uri not in seen:
                    seen.add(item.uri)
                    yield item


def expand_one(source: str) -> Iterator[Item]:
    fs, path = open_filesystem(source)
    suffix = posixpath.splitext(path.lower())[1]
    if any(c in path for c in "*?["):
        found = sorted(fs.glob(path))
        if not found:
            raise UsageError(f"No file matches {source}.")
        for match in found:
            yield from expand_one(full_name(fs, match))
    elif suffix in MANIFEST:
        yield from read_manifest(source, suffix)
    elif suffix == ".tar":
        yield from read_tar(source)
    elif fs.isdir(path):
        yield from list_videos(fs, path, source)
    elif suffix in VIDEO or not local(fs) or fs.exists(path):
        # A file of any name may be a video; ingest opens it and says so if it isn't.
        if local(fs) and not os.path.lexists(path):
            raise UsageError(f"SOURCE {source} does not exist.")
        yield Item(full_name(fs, path))
    else:
        raise UsageError(f"SOURCE {source} does not exist.")


def open_filesystem(source: str) -> tuple[fsspec.AbstractFileSystem, str]:
    try:
        return fsspec.core.url_to_fs(source)
    except (ValueError, ImportError) as e:
        raise UsageError(f"SOURCE {source}: {e}") from e


def local(fs: fsspec.AbstractFileSystem) -> bool:
    return "file" in fs.protocol


def full_name(fs: fsspec.AbstractFileSystem, path: str) -> str:
    return os.path.abspath(path) if local(fs) else fs.unstrip_protocol(path)


def list_videos(fs: fsspec.AbstractFileSystem, path: str, source: str) -> Iterator[Item]:
    names = sorted(n for n in fs.find(path) if posixpath.splitext(n.lower())[1] in VIDEO)
    if not names:
        raise UsageError(f"SOURCE {source} holds no video files ({', '.join(sorted(VIDEO))}).")
    for name in names:
        yield Item(full_name(fs, name))


def read_manifest(source: str, suffix: str) -> Iterator[Item]:
    """Rows of a CSV, TSV, JSONL or Parquet manifest; relative paths are relative to the manifest."""
    base = posixpath.dirname(source)
    for number, row in enumerate(manifest_rows(source, suffix), 1):
        name = next((row[c] for c in PATH_COLUMNS if row.get(c)), None)
        if name is None:
            raise UsageError(f"{source}, row {number}: needs a column {' or '.join(PATH_COLUMNS[:2])}.")
        caption = next((row[c] for c in CAPTION_COLUMNS if row.get(c)), None)
        uri = str(name)
        if "://" not in uri and not os.path.isabs(uri):
            uri = posixpath.join(base, uri) if "://" in base else os.path.abspath(os.path.join(base, uri))
        yield Item(uri, str(caption) if caption is not None else None)


def manifest_rows(source: str, suffix: str) -> Iterator[dict]:
    try:
        with fsspec.open(source, "rb") as f:
            if suffix == ".parquet":
                for batch in pq.ParquetFile(f).iter_batches():
                    yield from batch.to_pylist()
                return
            text = io.TextIOWrapper(f, encoding="utf-8-sig", newline="")
            if suffix in (".jsonl", ".ndjson"):
                yield from (json.loads(line) for line in text if line.strip())
            else:
                yield from csv.DictReader(text, delimiter="\t" if suffix == ".tsv" else ",")
    except (OSError, ValueError) as e:
        raise UsageError(f"Manifest {source} can't be read: {e}") from e


def read_tar(source: str) -> Iterator[Item]:
    """Videos of a WebDataset tar, with the caption of the same sample (.json `caption`/`text`, or .txt)."""
    captions: dict[str, str] = {}
    videos: list[str] = []
    try:
        with fsspec.open(source, "rb") as f, tarfile.open(fileobj=f, mode="r|") as tar:
            for member in tar:
                stem, suffix = os.path.splitext(member.name)
                if not member.isfile():
                    continue
                if suffix.lower() in VIDEO:
                    videos.append(member.name)
                elif suffix in (".json", ".txt") and member.size < 1 << 20:
                    content = tar.extractfile(member)
                    captions[stem] = caption_of(content.read() if content else b"", suffix)
    except (OSError, tarfile.TarError) as e:
        raise UsageError(f"Tar {source} can't be read: {e}") from e
    name = source if "://" in source else os.path.abspath(source)
    for video in videos:
        yield Item(f"tar://{video}::{name}", captions.get(os.path.splitext(video)[0]) or None)


def caption_of(data: bytes, suffix: str) -> str:
    text = data.decode("utf-8", "replace").strip()
    if suffix == ".txt":
        return text
    try:
        row = json.loads(text)
    except ValueError:
        return ""
    return next((str(row[c]) for c in CAPTION_COLUMNS if row.get(c)), "") if isinstance(row, dict) else ""


@contextmanager
def local_copy(uri: str) -> Iterator[str]:
    """A local path with the bytes of `uri`; a remote file or a tar's member is copied to a temporary one."""
    if "://" not in uri:
        yield uri
        return
    with tempfile.NamedTemporaryFile(prefix="s2v-", suffix=os.path.splitext(uri.split("::")[0])[1]) as copy:
        with fetching():
            with fsspec.open(uri, "rb") as f:
                while block := f.read(1 << 22):
                    copy.write(block)
            copy.flush()
        yield copy.name


@contextmanager
def random_access(uri: str) -> Iterator["str | Ranges"]:
    """As `local_copy`, but of a large object in a store only what is read is fetched: a clip is little of a film."""
    whole = "://" not in uri or "::" in uri or uri.startswith("http")  # not all web servers send a part of a file
    if not whole:
        with fetching():
            fs, path = fsspec.core.url_to_fs(uri)
            whole = local(fs) or (fs.size(path) or 0) < LARGE
    if whole:
        with local_copy(uri) as copied:
            yield copied
        return
    with fetching():
        file = fs.open(path, "rb", block_size=BLOCK, cache_type="blockcache", cache_options={"maxblocks": BLOCKS})
    try:
        yield Ranges(file)
    finally:
        file.close()
        gc.collect()  # the blocks hold on to one another


class Ranges:
    """A file in a store, read here and there. What goes wrong is the store's fault, not the video's."""

    def __init__(self, file: BinaryIO):
        self.file = file
        self.seek, self.tell = file.seek, file.tell
        self.error: FetchError | None = None

    def read(self, size: int) -> bytes:
        self.check()
        try:
            with fetching():
                return self.file.read(size)
        except FetchError as e:
            self.error = e
            raise

    def check(self) -> None:
        """Raises where a read has failed: libav may have taken that for the end of the file, and said nothing."""
        if self.error:
            raise self.error


def check(file: "str | Ranges") -> None:
    """Raises FetchError where some of it could not be read, whatever was made of the rest."""
    if isinstance(file, Ranges):
        file.check()


@contextmanager
def unbroken(file: "str | Ranges") -> Iterator[None]:
    try:
        yield
    except Exception:
        check(file)
        raise
    check(file)


@contextmanager
def fetching() -> Iterator[None]:
    try:
        yield
    except MediaError:
        raise
    except Exception as e:  # every fsspec backend raises its own kinds
        error = f"can't be fetched: {type(e).__name__}: {e}"
        raise FetchError(error, "check the address and the network; the next run tries again") from e


class FetchError(MediaError):
    """A source that could not be fetched now; the next run may have more luck."""

    def __reduce__(self):
        return FetchError, (str(self), self.remedy)

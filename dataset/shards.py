"""WebDataset shards: plain tars that any WebDataset reader plays, and where each sample lies in them."""

import io
import os
import tarfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import fsspec


@dataclass(frozen=True)
class Sample:
    """One training sample: `key`, and file contents by extension (`mp4`, `json`, `pose.npz`)."""

    key: str
    files: dict[str, bytes]


def make_shard(samples: Iterable[Sample]) -> tuple[bytes, dict[str, int]]:
    """A tar of the samples, and the byte offset of each. The same samples give the same bytes."""
    out = io.BytesIO()
    offsets = {}
    with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for sample in samples:
            offsets[sample.key] = out.tell()
            for extension, data in sample.files.items():
                info = tarfile.TarInfo(f"{sample.key}.{extension}")
                info.size, info.mode = len(data), 0o644
                tar.addfile(info, io.BytesIO(data))
    return out.getvalue(), offsets


def read_samples(shard: str, offset: int = 0) -> Iterator[Sample]:
    """Samples of a shard (path or URL) in order, from the one at byte `offset` on. Reads; never extracts."""
    with fsspec.open(shard, "rb") as f:
        f.seek(offset)
        size = size_of(f)
        with tarfile.open(fileobj=f, mode="r|") as tar:
            key, files = None, {}
            for member in tar:
                stem, _, extension = member.name.partition(".")
                if member.isfile() and key is not None and stem != key:
                    yield Sample(key, files)
                    files = {}
                check_size(member, None if size is None else size - offset)
                if member.isfile():
                    content = tar.extractfile(member)
                    assert content
                    key, files[extension] = stem, content.read()
            if key is not None:
                yield Sample(key, files)


def size_of(f: Any) -> int | None:
    """None: a server that does not tell."""
    if (size := getattr(f, "size", None)) is not None:
        return size
    try:
        return os.fstat(f.fileno()).st_size
    except OSError:
        return None


def check_size(member: tarfile.TarInfo, end: int | None) -> tarfile.TarInfo:
    """The member. Refuses one that claims more bytes than there are up to `end`: it would fill the memory, or read for
    ever. Holes of sparse members are such bytes."""
    if member.issparse():
        raise tarfile.ReadError(f"{member.name} is sparse: pack it as a plain file")
    if member.size < 0 or (end is not None and member.offset_data + member.size > end):
        raise tarfile.ReadError(f"{member.name} claims {member.size:,} bytes, which the shard does not have")
    return member

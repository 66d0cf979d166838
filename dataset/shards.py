"""WebDataset shards: plain tars that any WebDataset reader plays, and where each sample lies in them."""

import io
import tarfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

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
        with tarfile.open(fileobj=f, mode="r|") as tar:
            key, files = None, {}
            for member in tar:
                if not member.isfile():
                    continue
                stem, _, extension = member.name.partition(".")
                if key is not None and stem != key:
                    yield Sample(key, files)
                    files = {}
                content = tar.extractfile(member)
                assert content
                key, files[extension] = stem, content.read()
            if key is not None:
                yield Sample(key, files)

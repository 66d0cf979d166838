"""--data -> the clips of a stage: from the indexes of shards, or from the shards themselves.

[KIND=]PATH   PATH: a dataset, a folder of shards, a shard (.tar) or a glob of them; local, or an URL
"""

import json
import math
import os
import tarfile
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from itertools import groupby
from typing import Any

import av
import fsspec
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from dataset.config import suggest
from dataset.errors import RunError, UsageError
from dataset.media import Counters, MediaError, Painter, open_source
from dataset.scan import probe
from dataset.shards import check_size, size_of
from dataset.tables import in_threads
from model.config import S2VConfig
from trainer.budget import fit
from trainer.reading import on_disk
from trainer.sample import Clip, seed_of
from trainer.stages import Stage

INDEX = "index.parquet"
COLUMNS = pa.schema(
    [
        ("clip_id", pa.string()),
        ("shard", pa.string()),
        ("offset", pa.int64()),
        ("seconds", pa.float64()),
        ("width", pa.int64()),
        ("height", pa.int64()),
    ]
)
AGAIN = "copy it again, or run `s2v curate` again"
DAMAGED = "damaged or unreadable"  # samples of a shard without an index

Row = tuple[str, str, int, float, int, int]  # the values of COLUMNS
Tell = Callable[[str], None]


def read_corpus(
    data: Sequence[str], stage: Stage, config: S2VConfig = S2VConfig(), tell: Tell = lambda _: None
) -> list[Clip]:
    """The clips that the stage can use, by kind and id. `tell` hears in sentences what was left out."""
    clips: dict[tuple[str, str], Clip] = {}
    left: dict[str, Counter[str]] = {}
    for kind, path in places(data, stage):
        counts = left.setdefault(f"{kind}={path}", Counter())
        for row in read_place(path, counts):
            clip_id, shard, offset, seconds, width, height = row
            if fit(seconds, width, height, stage, config) is None:
                counts["too short, too long or without a size"] += 1
            elif (kind, clip_id) in clips:
                counts["there twice under one id"] += 1
            else:
                clips[kind, clip_id] = Clip(clip_id, kind, shard, offset, seconds, width, height)
    for place, counts in left.items():
        for why, count in sorted(counts.items()):
            tell(f"{place}: {count:,} clips are left out, because they are {why}.")
    for kind in stage.mixture:
        if not any(kind == used for used, _ in clips):
            raise UsageError(f"No clip of {kind} can be used. {told(left, kind)}".rstrip())
    return [clips[key] for key in sorted(clips)]


def told(left: dict[str, Counter[str]], kind: str) -> str:
    """Why a kind has no clips, a sentence a place."""
    why = {place: counts for place, counts in left.items() if place.startswith(f"{kind}=")}
    return " ".join(
        f"{place}: {', '.join(f'{n:,} are {w}' for w, n in counts.items())}." for place, counts in why.items()
    )


def split_place(text: str) -> tuple[str, str]:
    """`[KIND=]PATH` -> (kind, path); kind '' where none is given. A path may have a = of its own."""
    kind, equals, path = text.partition("=")
    return (kind, path) if equals and "/" not in kind else ("", text)


def places(data: Sequence[str], stage: Stage) -> list[tuple[str, str]]:
    """(kind, path) of each argument."""
    kinds = sorted(stage.mixture)
    example = " ".join(f"--data {kind}=PATH" for kind in kinds)
    found = []
    for text in data:
        kind, path = split_place(text)
        if not kind:
            if len(kinds) > 1:
                raise UsageError(f"--data {text}: say of which kind it is: {example}.")
            kind = kinds[0]
        elif kind not in kinds:
            raise UsageError(f"--data {text}: the stage has no kind of data '{kind}'.{suggest(kind, kinds)}")
        if not path:
            raise UsageError(f"--data {text}: the path is missing.")
        found.append((kind, path))
    if missing := [kind for kind in kinds if kind not in {kind for kind, _ in found}]:
        raise UsageError(f"--data: the stage {stage.name} needs {' and '.join(missing)}: {example}.")
    return found


# ---------------------------------------------------------------- places


def read_place(path: str, left: Counter[str]) -> list[Row]:
    """The rows of a place. `left`: counts what can't be used."""
    try:
        fs, root = fsspec.core.url_to_fs(path)
        if any(c in root for c in "*?["):
            shards = sorted(name for name in fs.glob(root) if name.endswith(".tar"))
            if not shards:
                raise UsageError(f"--data: no .tar matches {path}.")
            return read_shards(fs, shards, left)
        root = root.rstrip("/")
        if root.endswith(".tar") and not fs.isdir(root):
            if not fs.exists(root):
                raise UsageError(f"--data: there is no {path}.")
            return read_shards(fs, [root], left)
        return read_folder(fs, root, path, left)
    except (UsageError, RunError):
        raise
    except Exception as e:  # every fsspec backend raises its own kinds
        raise UsageError(f"--data: {path} can't be read ({type(e).__name__}: {e}).") from e


def read_folder(fs: Any, root: str, path: str, left: Counter[str]) -> list[Row]:
    for folder in (f"{root}/shards", root):
        if fs.exists(f"{folder}/{INDEX}"):
            return read_index(fs, folder, left)
    if shards := sorted(fs.glob(f"{root}/*.tar")):
        return read_shards(fs, shards, left)
    if fs.isdir(f"{root}/shards"):
        raise UsageError(f"--data: {path} has no shards/{INDEX}: run the same `s2v curate` again, it did not end.")
    if fs.exists(root):
        raise UsageError(f"--data: {path} holds no shards: give a dataset, a folder of .tar files, or a .tar file.")
    raise UsageError(f"--data: there is no {path}.")


def address(fs: Any, name: str) -> str:
    """What `fsspec.open` finds it by."""
    return name if "file" in fs.protocol else fs.unstrip_protocol(name)


# ---------------------------------------------------------------- with an index


def read_index(fs: Any, folder: str, left: Counter[str], only: Collection[str] | None = None) -> list[Row]:
    """only: names of shards."""
    name = address(fs, f"{folder}/{INDEX}")
    try:
        with fs.open(f"{folder}/{INDEX}", "rb") as f:
            file = pq.ParquetFile(f)
            if missing := [c for c in COLUMNS.names if c not in file.schema_arrow.names]:
                raise UsageError(
                    f"{name} lacks {', '.join(missing)}: it is no index of shards. Run `s2v curate` again."
                )
            table = file.read(columns=COLUMNS.names).select(COLUMNS.names).cast(COLUMNS)
    except (pa.ArrowException, OSError) as e:
        raise UsageError(f"{name} is truncated or damaged ({e}): {AGAIN}.") from e
    if only is not None:
        table = table.filter(pc.is_in(table["shard"], pa.array(only, pa.string())))
    if not table.num_rows:
        raise UsageError(f"{name} lists no clip{' of these shards' if only else ''}: {AGAIN}, with a milder policy.")
    whole = table.drop_null()
    if table.num_rows > whole.num_rows:
        left["rows of the index with gaps"] += table.num_rows - whole.num_rows
    check_shards(fs, folder, whole)
    columns = [column.to_pylist() for column in whole.columns]
    paths = {shard: address(fs, f"{folder}/{shard}") for shard in set(columns[1])}
    columns[1] = [paths[shard] for shard in columns[1]]
    return list(zip(*columns, strict=True))


def check_shards(fs: Any, folder: str, table: pa.Table) -> None:
    """That all shards are there, and none ends before its last sample begins. One listing, no shard is opened."""
    sizes = {os.path.basename(entry["name"]): entry["size"] for entry in fs.ls(folder, detail=True)}
    if INDEX not in sizes:  # a store that doesn't list, such as some web servers
        return
    last = table.group_by("shard").aggregate([("offset", "max")])
    for shard, offset in zip(last["shard"].to_pylist(), last["offset_max"].to_pylist(), strict=True):
        name = address(fs, f"{folder}/{shard}")
        if shard not in sizes:
            raise UsageError(f"{name} is missing, and {INDEX} lists it: {AGAIN}.")
        if sizes[shard] is not None and (sizes[shard] <= offset or sizes[shard] % tarfile.BLOCKSIZE):
            raise UsageError(f"{name} is truncated at {sizes[shard]:,} bytes: {AGAIN}.")


# ---------------------------------------------------------------- without


def read_shards(fs: Any, shards: Sequence[str], left: Counter[str]) -> list[Row]:
    """By the index beside them where there is one; else they are read from end to end."""
    rows = []
    for folder, names in groupby(shards, os.path.dirname):
        here = list(names)
        if fs.exists(f"{folder}/{INDEX}"):
            rows += read_index(fs, folder, left, [os.path.basename(name) for name in here])
            continue
        for found, broken in in_threads(scan, [address(fs, name) for name in here]):
            rows += found
            if broken:
                left[DAMAGED] += broken
    return rows


def scan(shard: str) -> tuple[list[Row], int]:
    """(rows, number of samples that can't be used) of a shard."""
    rows, broken = [], 0
    try:
        for key, offset, files in samples(shard):
            if "mp4" in files:
                try:
                    rows.append((key, shard, offset, *facts(files)))
                except (MediaError, av.FFmpegError, ValueError, TypeError, AttributeError, RecursionError):
                    broken += 1
    except (tarfile.TarError, EOFError) as e:
        raise UsageError(f"{shard} is truncated or no tar ({e}): copy it again, or leave it out.") from e
    if not rows and not broken:
        raise UsageError(f"{shard} holds no sample with an .mp4: name the files KEY.mp4, KEY.json, KEY.pose.npz.")
    return rows, broken


def samples(shard: str) -> Iterator[tuple[str, int, dict[str, bytes]]]:
    """(key, offset, files) of a shard, with those files that tell about size and length."""
    with fsspec.open(shard, "rb") as f, tarfile.open(fileobj=f, mode="r:") as tar:
        members = (checked for member in tar if (checked := check_size(member, size_of(f))).isfile())
        for key, group in groupby(members, lambda member: member.name.partition(".")[0]):
            offset, files = None, {}
            for member in group:
                offset = member.offset if offset is None else offset
                extension = member.name.partition(".")[2]
                if extension in ("mp4", "json"):
                    files[extension] = tar.extractfile(member).read()  # type: ignore[union-attr]
            assert offset is not None
            yield key, offset, files


def facts(files: dict[str, bytes]) -> tuple[float, int, int]:
    """(seconds, width, height): upright, as frames are read."""
    with on_disk(files["mp4"]) as path:
        seconds = probe(path, Counters()).duration
        with open_source(path, Counters()) as source:
            first = next(source.frames(), None)
            if first is None:
                raise MediaError("no frame could be decoded", "export the video again")
            height, width, _ = Painter(source, None)(first[1]).shape
    said = json.loads(files.get("json", b"{}")).get("seconds")
    if said is not None and not math.isfinite(said):
        raise ValueError(said)
    return seconds if said is None else min(said, seconds), width, height


# ---------------------------------------------------------------- held out


def split(clips: Sequence[Clip], stage: Stage) -> tuple[list[Clip], list[Clip]]:
    """(to train on, to validate on), by the hash of the ids.

    A clip that is held out is so in all kinds, and every kind keeps one at least. held_out=False: all, the first of
    them.
    """
    ordered = sorted(clips, key=lambda clip: (seed_of(clip.clip_id), clip.clip_id, clip.kind))
    validation = stage.validation
    if not validation.held_out:
        return list(clips), ordered[: validation.clips]
    most = min(validation.clips, len({clip.clip_id for clip in clips}) // 5)
    kept = Counter(clip.kind for clip in clips)
    chosen: dict[str, Clip] = {}
    for clip_id, same in groupby(ordered, lambda clip: clip.clip_id):
        here = list(same)
        if len(chosen) < most and all(kept[clip.kind] > 1 for clip in here):
            chosen[clip_id] = here[0]
            kept.subtract(clip.kind for clip in here)
    return [clip for clip in clips if clip.clip_id not in chosen], list(chosen.values())

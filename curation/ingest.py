"""Ingest: sources -> clips. Probe, text screen, shot split, content id: one open and one decode a source."""

import hashlib
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from curation.layout import CLIPS, FAILURES, PICTURES, POSTERS, clips_of, read, rows_of, save, table
from curation.metrics import Tally
from curation.policy import Policy
from curation.recipe import Recipe
from curation.shots import Posters, ShotSplitter
from curation.sources import FetchError, Item, local_copy
from dataset.isolate import Child, ChildDied, ChildHung
from dataset.media import Counters, MediaError
from dataset.records import Clip, Failure, MediaFacts, make_clip_id
from dataset.scan import probe, scan
from dataset.tables import part_name
from filters.caption import Caption

SOURCE_LIMIT = 3600.0  # seconds to look through one source; a film takes minutes
SAME = "same bytes as"  # begins the error of a copy
SOURCES_PER_PART = 128


# ---------------------------------------------------------------- the child: one source


Found = tuple[list[Clip], list[bytes]]  # the clips of a source in order, and a JPEG of each (none if not decoded)


def look(recipe: Recipe, policy: Policy) -> Callable[[Item], Iterator[Found | str]]:
    reader = next((f for f in recipe.build() if isinstance(f, Caption)), None) if recipe.cascade else None

    def handle(item: Item) -> Iterator[Found | str]:
        with local_copy(item.uri) as path:
            yield "fetched"
            if reader and policy.stops(reader.name(), reader.read(item.caption)):
                yield uncut(item, path)
            else:
                yield cut(item, path, recipe)

    return handle


def uncut(item: Item, path: str) -> Found:
    """The whole source as one clip: the chain drops it for its caption, so the decode is spared."""
    media = probe(path, Counters())
    return clips_of_source(item, path, media, [(0.0, round(media.duration, 3))]), []


def cut(item: Item, path: str, recipe: Recipe) -> Found:
    """The shots of a source. Raises MediaError when it can't be used."""
    splitter, posters = ShotSplitter(recipe.shots), Posters()

    def see(time: float, image: np.ndarray) -> None:
        splitter.see(time, image)
        posters.see(time, image)

    media = scan(path, Counters(), see)
    spans = splitter.spans(media.duration)
    return clips_of_source(item, path, media, spans), [posters.of(*span) for span in spans]


def clips_of_source(item: Item, path: str, media: MediaFacts, spans: list[tuple[float, float]]) -> list[Clip]:
    with open(path, "rb") as f:
        source_id = hashlib.file_digest(f, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
    return [
        Clip(
            clip_id=make_clip_id(source_id, start, end),
            source=item.uri,
            source_id=source_id,
            start=start,
            end=end,
            media=media,
            caption=item.caption,
        )
        for start, end in spans
    ]


# ---------------------------------------------------------------- the worker: one part


@dataclass
class IngestWorker:
    """Turns a list of sources into one part of `clips/` and one of `failures/`."""

    dataset: str
    recipe: Recipe
    policy: Policy
    child: Child = field(init=False)
    tally: Tally = field(init=False)

    def __post_init__(self) -> None:
        self.tally = Tally(self.dataset, "ingest")
        self.child = Child("curation.ingest:look", self.recipe, self.policy)

    def __call__(self, items: list[Item]) -> dict[str, int]:
        began = time.monotonic()
        clips: list[Clip] = []
        pictures: list[dict[str, str | bytes]] = []
        failures: list[Failure] = []
        for item in items:
            found = self.ingest(item)
            if isinstance(found, Failure):
                failures.append(found)
                continue
            clips += found[0]
            pictures += [{"clip_id": c.clip_id, "jpeg": jpeg} for c, jpeg in zip(*found, strict=False)]
        name = part_name(item.uri for item in items)
        save(table(self.dataset, FAILURES), rows_of(FAILURES, failures), name)
        save(table(self.dataset, POSTERS), pa.Table.from_pylist(pictures, schema=PICTURES), name)
        save(table(self.dataset, CLIPS), rows_of(CLIPS, clips), name)
        self.tally.count("s2v_sources_total", len(items) - len(failures), outcome="done")
        self.tally.count("s2v_sources_total", len(failures), outcome="failed")
        self.tally.clips("done", clips)
        self.tally.failures(failures, {})
        self.tally.part(name, len(clips), began)
        return {"done": len(items), "clips": len(clips), "failed": len(failures)}

    def ingest(self, item: Item) -> Found | Failure:
        try:
            return self.child.answer(item, first=self.recipe.fetch_limit, later=SOURCE_LIMIT)
        except MediaError as e:
            return failure(item, str(e), e.remedy, transient=isinstance(e, FetchError))
        except ChildHung:
            error, remedy = "reading it did not end in time", "re-encode the file, or raise the recipe's limits"
            return failure(item, error, remedy, transient="://" in item.uri)
        except ChildDied as e:
            error = f"reading it ended the reader twice ({e})"
            remedy = "re-encode the file; when memory ran out, use fewer workers"
            return failure(item, error, remedy, transient=e.from_outside)
        except Exception as e:
            return failure(item, f"{type(e).__name__}: {e}", "report this: ingest should have named the cause")


def failure(item: Item, error: str, remedy: str, *, transient: bool = False) -> Failure:
    return Failure(key=item.uri, source=item.uri, stage="ingest", error=error, remedy=remedy, transient=transient)


# ---------------------------------------------------------------- the driver: what is left to do


@dataclass(frozen=True)
class Plan:
    """groups: sources to ingest, of one part each. total: how many there are with those that are ingested or failed."""

    groups: list[list[Item]]
    total: int


def plan(dataset: str, items: Iterable[Item], workers: int) -> Plan:
    failures = read(dataset, FAILURES, ["key", "stage"])
    known = set(failures.filter(pc.equal(failures["stage"], "ingest"))["key"].to_pylist())
    known |= set(read(dataset, CLIPS, ["source"])["source"].to_pylist())
    todo = [item for item in items if item.uri not in known]
    size = min(SOURCES_PER_PART, max(1, len(todo) // (8 * workers)))
    return Plan([todo[i : i + size] for i in range(0, len(todo), size)], len(known) + len(todo))


def drop_copies(dataset: str) -> int:
    """Sources with the same bytes give the same clips: keep the first source, and say so of the others."""
    clips = table(dataset, CLIPS)
    rows = read(dataset, CLIPS, ["clip_id", "source"])
    if not rows.num_rows or pc.count_distinct(rows["clip_id"]).as_py() == rows.num_rows:
        return 0
    first: dict[str, str] = {}
    for row in rows.sort_by("source").to_pylist():
        first.setdefault(row["clip_id"], row["source"])
    copies, rewritten = {}, {}
    for name in clips.parts():
        records = clips_of(clips.read_part(name))
        kept = [c for c in records if first[c.clip_id] == c.source]
        if len(kept) == len(records):
            continue
        rewritten[name] = rows_of(CLIPS, kept)
        for clip in (c for c in records if first[c.clip_id] != c.source):
            error = f"{SAME} {first[clip.clip_id]}"
            copies[clip.source] = failure(Item(clip.source), error, "nothing to do: the other copy is used")
    # The failures first: a crash in between leaves the copies, and the next run comes back here.
    save(table(dataset, FAILURES), rows_of(FAILURES, list(copies.values())), part_name(copies))
    for name, kept_rows in rewritten.items():
        save(clips, kept_rows, name)
    return len(copies)

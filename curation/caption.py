"""Caption: kept clips -> captions. A child process reads their pictures, servers are asked about many at a time."""

import json
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field
from math import ceil
from threading import Lock
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from captioning import prompt
from captioning.client import Captioned, Refused, Suspect
from captioning.desk import AHEAD, Desk
from captioning.frames import Frames, Sight, read_frames
from captioning.lint import Facts
from captioning.preflight import Ready
from captioning.protocol import Key
from captioning.render import render
from captioning.settings import Captioning
from curation.layout import (
    CAPTION,
    CAPTIONS,
    CLIPS,
    FAILURES,
    SCORES,
    TRACKS,
    VERDICTS,
    homes,
    read,
    rows_of,
    save,
    stored_rows,
    table,
)
from curation.measure import chunks_of_source
from curation.metrics import Tally
from curation.recipe import Recipe
from curation.sources import FetchError, random_access, unbroken
from dataset.isolate import Child, ChildDied, ChildHung
from dataset.media import MediaError
from dataset.records import Clip, Failure
from dataset.tables import part_name, short_hash
from dataset.tracks import Tracks

CLIPS_PER_PART = 32  # a caption takes seconds of a large GPU: little is lost with a worker


@dataclass(frozen=True)
class Wanted:
    """A clip, its row of `scores/`, and that of `tracks/` if somebody is to be marked."""

    clip: Clip
    scores: dict[str, Any]
    tracks: dict[str, Any] | None


# ---------------------------------------------------------------- the child: the clips of one source


def reader(sight: Sight) -> Callable[[tuple[str, list[Wanted]]], Iterator[Frames | Failure | str]]:
    def handle(request: tuple[str, list[Wanted]]) -> Iterator[Frames | Failure | str]:
        source, wanted = request
        with random_access(source) as file:
            yield "fetched"
            for one in wanted:
                tracks = Tracks.from_row(one.tracks) if one.tracks else None
                try:
                    with unbroken(file):
                        seen = read_frames(file, one.clip, sight, measured=one.scores.get("frames") or 0, tracks=tracks)
                    yield seen
                except FetchError:
                    raise
                except MediaError as e:
                    yield Failure.of_clip(one.clip, "caption", str(e), e.remedy)
                except Exception as e:  # libav raises many kinds for damaged files
                    error = f"reading it failed ({type(e).__name__}: {e})"
                    yield Failure.of_clip(one.clip, "caption", error, "re-encode the source")

    return handle


# ---------------------------------------------------------------- the worker: one part


@dataclass(frozen=True)
class Part:
    """One task: the clips of the part `name` of `captions/`, and the parts that hold their other rows."""

    name: str
    clips: list[str]  # ids
    homes: list[str]  # parts of `clips/`
    scores: list[str]  # parts of `scores/` and `tracks/`


@dataclass
class CaptionWorker:
    """Captions parts, two at a time: while one waits for its last answers, the next one's clips are asked for.

    limit: requests in flight on each server. alone: this is the only worker, for clips that may be what ended servers.
    """

    dataset: str
    recipe: Recipe
    ready: Ready
    limit: int
    key: Key
    alone: bool = False
    settings: Captioning = field(init=False)
    child: Child = field(init=False)
    desk: Desk = field(init=False)
    turn: Lock = field(init=False)
    tally: Tally = field(init=False)

    def __post_init__(self) -> None:
        self.tally = Tally(self.dataset, "caption")
        self.settings = self.recipe.captioning
        self.child = Child("curation.caption:reader", self.settings.sight)
        self.desk = Desk(self.settings, self.ready, self.limit, self.key, alone=self.alone)
        self.turn = Lock()

    def __call__(self, part: Part) -> dict[str, int]:
        began = time.monotonic()
        clips = stored_rows(self.dataset, CLIPS, part.homes, part.clips)
        scores = stored_rows(self.dataset, SCORES, part.scores, part.clips)
        marks = stored_rows(self.dataset, TRACKS, part.scores, part.clips) if self.settings.sight.mark else {}
        wanted = [Wanted(Clip.model_validate(clips[i]), scores[i], marks.get(i)) for i in part.clips]
        wanted.sort(key=lambda w: (w.clip.source, w.clip.start))
        with self.turn:
            asked, failures, error = self.ask(wanted)
        rows: list[dict[str, Any]] = []
        suspects = 0
        for clip, frames, future in asked:
            try:
                rows.append(self.row(clip, frames, future.result()))
            except Suspect:
                suspects += 1  # still without a caption when the others are done
            except Refused as e:
                failures.append(Failure.of_clip(clip, "caption", str(e), e.remedy, transient=e.transient))
            except Exception as e:  # of all clips alike: what is finished is kept, then the run ends
                error = error or e
        self.write(part, rows, failures)
        self.tell(rows, failures, {w.clip.clip_id: w.clip for w in wanted})
        self.tally.part(part.name, len(rows), began)
        if error:
            raise error
        return {"done": len(part.clips) - suspects, "failed": len(failures)}

    def tell(self, rows: list[dict[str, Any]], failures: list[Failure], clips: dict[str, Clip]) -> None:
        self.tally.clips("done", [clips[row["clip_id"]] for row in rows])
        self.tally.failures(failures, clips)
        for kind in ("prompt", "completion"):
            self.tally.count("s2v_caption_tokens_total", sum(row[f"{kind}_tokens"] for row in rows), kind=kind)
        for what in ("tries", "seconds"):
            self.tally.count(f"s2v_caption_{what}_total", sum(row[what] for row in rows))

    def ask(
        self, wanted: list[Wanted]
    ) -> tuple[list[tuple[Clip, Frames, Future[Captioned]]], list[Failure], Exception | None]:
        """Read every clip and hand it to the desk: what was asked, what could not be read, what ended it early."""
        asked: list[tuple[Clip, Frames, Future[Captioned]]] = []
        failures: list[Failure] = []
        try:
            for unit in chunks_of_source(wanted, lambda w: w.clip.source):
                for one, seen in zip(unit, self.read(unit), strict=True):
                    if isinstance(seen, Failure):
                        failures.append(seen)
                    else:
                        asked.append((one.clip, seen, self.desk.submit(seen, facts(one.scores))))
        except Exception as e:
            return asked, failures, e
        return asked, failures, None

    def read(self, unit: list[Wanted]) -> Iterator[Frames | Failure]:
        """The pictures of the clips of one source. Where the child ends, the others are read one by one."""
        source, done = unit[0].clip.source, 0
        try:
            for seen in self.child.ask((source, unit), **self.recipe.limits(source)):
                if not isinstance(seen, str):
                    done += 1
                    yield seen
        except (ChildDied, ChildHung, FetchError):
            pass
        for wanted in unit[done:]:
            yield self.read_alone(wanted)

    def read_alone(self, wanted: Wanted) -> Frames | Failure:
        clip = wanted.clip
        try:
            return self.child.answer((clip.source, [wanted]), **self.recipe.limits(clip.source))
        except FetchError as e:
            return Failure.of_clip(clip, "caption", str(e), e.remedy, transient=True)
        except ChildHung:
            error, remedy = "reading it did not end in time", "re-encode the source; look after the network"
            return Failure.of_clip(clip, "caption", error, remedy, transient="://" in clip.source)
        except ChildDied as e:
            error = f"reading it ended its worker twice ({e})"
            return Failure.of_clip(clip, "caption", error, "re-encode the source", transient=e.from_outside)

    def row(self, clip: Clip, frames: Frames, made: Captioned) -> dict[str, Any]:
        prose, structured = render(made.caption), prompt.compact(made.caption)
        flags = [{"kind": f.kind, "field": f.field, "found": f.found} for f in made.flags]
        return {
            "clip_id": clip.clip_id,
            **prose,
            "structured": structured,
            "flags": flags,
            "content": short_hash(json.dumps([prose, structured, flags])),
            "question": question(self.settings, self.ready.model),
            "prompt": prompt.digest(),
            "model": self.ready.model,
            "frames": len(frames.jpegs),
            "rate": frames.rate,
            "width": frames.width,
            "height": frames.height,
            "marked": frames.marked,
            "tries": made.tries,
            "prompt_tokens": made.prompt_tokens,
            "completion_tokens": made.completion_tokens,
            "seconds": made.seconds,
        }

    def write(self, part: Part, rows: list[dict[str, Any]], failures: list[Failure]) -> None:
        """Failures first, captions last. What the part held of clips that have no new caption stays in it."""
        captions = table(self.dataset, CAPTIONS)
        made = {row["clip_id"] for row in rows}
        old = captions.read_part(part.name).to_pylist() if captions.has(part.name) else []
        rows = rows + [row for row in old if row["clip_id"] not in made]
        save(table(self.dataset, FAILURES), rows_of(FAILURES, failures), part_name(["caption", *part.clips]))
        save(captions, pa.Table.from_pylist(rows, CAPTION), part.name)


def facts(row: dict[str, Any]) -> Facts:
    """What the filters measured, out of a row of `scores/`; a recipe may lack any of them."""

    def value(name: str, score: str) -> Any:
        return (row.get(name) or {}).get(score)

    return Facts(
        people=value("pose", "people") or value("vitpose", "people"),
        faces=value("faces", "count"),
        face_height=value("faces", "height"),
        audible=value("media", "audible"),
        background_motion=value("motion", "background"),
    )


def question(settings: Captioning, model: str) -> str:
    """Digest of all that decides what a caption answers."""
    return short_hash(json.dumps([prompt.digest(), model, settings.sight.model_dump()]))


# ---------------------------------------------------------------- the driver: what is left to do


def plan(dataset: str, workers: int, *, again: str | None = None) -> list[Part]:
    """Kept clips without a caption, in new parts. again: the question that all captions must answer; parts with others
    are made again."""
    verdicts = read(dataset, VERDICTS, ["clip_id", "keep"])
    kept = set(verdicts.filter(verdicts["keep"])["clip_id"].to_pylist())
    kept -= set(read(dataset, FAILURES, ["key"])["key"].to_pylist())
    stale = stale_parts(dataset, again, kept) if again else {}
    todo = sorted(kept - set(read(dataset, CAPTIONS, ["clip_id"])["clip_id"].to_pylist()))
    size = min(CLIPS_PER_PART, max(1, ceil(len(todo) / (4 * workers))))
    new = [todo[start : start + size] for start in range(0, len(todo), size)]
    named = stale | {part_name(ids): ids for ids in new}
    where, scored = (homes(dataset, CLIPS), homes(dataset, SCORES)) if named else ({}, {})
    return [
        Part(name, ids, sorted({where[i] for i in ids}), sorted({scored[i] for i in ids}))
        for name, ids in named.items()
    ]


def shares(settings: Captioning, parts: list[Part], workers: int) -> tuple[int, int]:
    """What keeps the servers full: requests in flight of one worker on each server, and parts that it has in work.

    Beyond those that fill its slots and its desk, one waits for its last answers and one is being read.
    """
    limit = ceil(settings.concurrency / max(1, min(workers, len(parts))))
    size = max((len(part.clips) for part in parts), default=1)
    return limit, 2 + ceil((1 + AHEAD) * limit * len(settings.servers) / size)


def stale_parts(dataset: str, question: str, kept: set[str]) -> dict[str, list[str]]:
    """Parts of `captions/` with answers to other questions, and which of their clips those are."""
    captions = table(dataset, CAPTIONS)
    found = {}
    for name in captions.parts():
        rows = captions.read_part(name, ["clip_id", "question"]).to_pylist()
        if ids := [row["clip_id"] for row in rows if row["clip_id"] in kept and row["question"] != question]:
            found[name] = ids
    return found


def others(dataset: str, question: str) -> int:
    """Captions that answer another question."""
    asked = read(dataset, CAPTIONS, ["question"])["question"]
    return len(asked) - (pc.sum(pc.equal(asked, question)).as_py() or 0)

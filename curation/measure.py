"""Measure: clips -> scores, tracks and thumbnails. Plans what is missing, and runs the chain in isolated workers."""

import itertools
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, TypeVar

import pyarrow as pa

from curation.chain import DECODE, Job
from curation.layout import (
    CLIPS,
    FAILURES,
    PICTURES,
    SCORES,
    THUMBS,
    TRACKS,
    homes,
    read,
    rows_of,
    save,
    stored_rows,
    table,
)
from curation.metrics import Tally, harmless
from curation.policy import Policy
from curation.recipe import Recipe
from curation.score_rows import ScoreRows
from curation.select import judge
from curation.sources import FetchError
from dataset.isolate import Child, ChildDied, ChildHung
from dataset.records import Clip, Failure
from dataset.tables import in_threads, part_name

Item = TypeVar("Item")
CLIPS_PER_PART = 128
CLIPS_PER_PASS = 16  # clips of one source that share a forward pass


@dataclass(frozen=True)
class Part:
    """One task: the clips of the part `name` of `scores/`. One that exists is measured again where it is stale."""

    name: str
    clips: list[str]  # ids
    homes: list[str]  # parts of `clips/` that hold them


# ---------------------------------------------------------------- the driver: what is left to do


def plan(dataset: str, rows: ScoreRows, workers: int) -> list[Part]:
    """Parts to measure: new clips in new parts, and existing parts that hold stale or unfinished rows."""
    clips, scored = table(dataset, CLIPS), scored_parts(dataset, rows)
    done = {i for part in scored for i in part.clips}
    done |= set(read(dataset, FAILURES, ["key"])["key"].to_pylist())
    places = clips.parts()
    found = in_threads(lambda home: passes(clips.read_part(home, ["clip_id", "source", "start"]), done), places)
    new = {home: runs for home, runs in zip(places, found, strict=True) if runs}
    total = sum(len(run) for runs in new.values() for run in runs)
    size = min(CLIPS_PER_PART, max(1, total // (32 * workers)))
    parts = [Part(part_name(ids), ids, [home]) for home, runs in new.items() for ids in merged(runs, size)]
    stale = [part for part in scored if not part.complete]
    where = homes(dataset, CLIPS) if stale else {}
    return parts + [Part(part.name, part.clips, sorted({where[i] for i in part.clips})) for part in stale]


@dataclass(frozen=True)
class Scored:
    """A part of `scores/`. complete: nothing is left to measure of its clips under this chain and policy."""

    name: str
    clips: list[str]  # ids
    complete: bool


def scored_parts(dataset: str, rows: ScoreRows) -> list[Scored]:
    scores = table(dataset, SCORES)

    def look(name: str) -> Scored:
        made = scores.read_part(name, ["clip_id", "chain", "policy"]).to_pydict()
        ids = made.pop("clip_id")
        same = set(zip(*made.values(), strict=True)) == {(rows.signature, rows.policy.digest)}
        return Scored(name, ids, same or all(map(rows.complete, scores.read_part(name).to_pylist())))

    return in_threads(look, scores.parts())


def passes(clips: pa.Table, done: set[str]) -> list[list[str]]:
    """Ids of the clips that aren't done, one list for each forward pass over a source."""
    ordered = clips.sort_by([("source", "ascending"), ("start", "ascending")]).to_pylist()
    todo = (row for row in ordered if row["clip_id"] not in done)
    return [[row["clip_id"] for row in run] for run in chunks_of_source(todo, lambda row: row["source"])]


def merged(runs: list[list[str]], size: int) -> Iterator[list[str]]:
    """Whole runs joined until there are `size` ids."""
    ids: list[str] = []
    for run in runs:
        ids = ids + run
        if len(ids) >= size:
            yield ids
            ids = []
    if ids:
        yield ids


def chunks_of_source(items: Iterable[Item], source: Callable[[Item], str]) -> Iterator[list[Item]]:
    """Neighbours from the same source, few enough that a crash costs little."""
    for _, run in itertools.groupby(items, key=source):
        while chunk := list(itertools.islice(run, CLIPS_PER_PASS)):
            yield chunk


# ---------------------------------------------------------------- the worker: one part


@dataclass
class MeasureWorker:
    """Measures one part in a child process and writes it: tracks and thumbnails first, scores last."""

    dataset: str
    recipe: Recipe
    policy: Policy
    rows: ScoreRows = field(init=False)
    child: Child = field(init=False)
    tally: Tally = field(init=False)

    def __post_init__(self) -> None:
        self.tally = Tally(self.dataset, "measure")
        self.rows = ScoreRows(self.recipe, self.policy)
        self.child = Child("curation.chain:handler", self.recipe, self.policy)

    def __call__(self, part: Part) -> dict[str, int]:
        began = time.monotonic()
        clips = stored_rows(self.dataset, CLIPS, part.homes, part.clips)
        # Scores may be there from an earlier recipe, or from a try that was killed.
        stored = (stored_rows(self.dataset, name, [part.name], part.clips) for name in (SCORES, TRACKS, THUMBS))
        old, tracks, thumbs = stored
        ordered = sorted(
            (Clip.model_validate(clips[i]) for i in part.clips), key=lambda clip: (clip.source, clip.start)
        )
        jobs = [self.rows.job(c, old.get(c.clip_id), tracks.get(c.clip_id)) for c in ordered]
        done = [job for unit in chunks_of_source(jobs, lambda job: job.clip.source) for job in self.measure(unit)]
        good = [job for job in done if job.error is None]
        failures = [failure(job) for job in done if job.error is not None]
        scores = self.write(part.name, good, failures, old, thumbs)
        known = {job.clip.clip_id: set(job.measured) for job in jobs}
        new = {job.clip.clip_id: job.measured.keys() - known[job.clip.clip_id] for job in good}
        with harmless():
            self.tell(scores, good, new)
        self.tally.failures(failures, {job.clip.clip_id: job.clip for job in jobs})
        self.tally.part(part.name, len(part.clips), began)
        filters = sum(map(len, new.values()))
        return {"done": len(done), "failed": len(done) - len(good), "filters": filters}

    def write(
        self,
        name: str,
        good: list[Job],
        failures: list[Failure],
        old: dict[str, dict[str, Any]],
        old_thumbs: dict[str, dict[str, Any]],
    ) -> pa.Table:
        thumbs = [
            {"clip_id": j.clip.clip_id, "jpeg": j.thumb or old_thumbs.get(j.clip.clip_id, {}).get("jpeg")} for j in good
        ]
        tracks = [j.tracks.to_row(j.clip.clip_id) for j in good if j.tracks is not None]
        shown = pa.Table.from_pylist([t for t in thumbs if t["jpeg"]], schema=PICTURES)
        save(table(self.dataset, FAILURES), rows_of(FAILURES, failures), name)
        save(table(self.dataset, THUMBS), shown, name)
        save(table(self.dataset, TRACKS), pa.Table.from_pylist(tracks), name)
        scores = pa.Table.from_pylist(
            [self.rows.row(j, old.get(j.clip.clip_id)) for j in good], schema=self.rows.schema
        )
        save(table(self.dataset, SCORES), scores, name)
        return scores

    def tell(self, scores: pa.Table, good: list[Job], new: dict[str, set[str]]) -> None:
        """Count what was measured now. new: the filters of each clip that were."""
        pixels = {f.name() for f in self.rows.chain if f.needs.frames or f.needs.audio}
        decoded = [job for job in good if new[job.clip.clip_id] & pixels]
        for name in (DECODE, *(f.name() for f in self.rows.chain)):
            jobs = decoded if name == DECODE else [job for job in good if name in new[job.clip.clip_id]]
            self.tally.count("s2v_filter_clips_total", len(jobs), filter=name)
            self.tally.count("s2v_filter_seconds_total", sum(job.ms[name] for job in jobs) / 1000, filter=name)
        self.tally.count("s2v_decode_opens_total", sum(job.opens for job in decoded))
        self.tally.count("s2v_frames_decoded_total", sum(job.decoded for job in decoded))
        self.tally.count("s2v_frames_shown_total", sum(job.frames for job in decoded))
        measured = {job.clip.clip_id: job.clip for job in good if new[job.clip.clip_id]}
        self.tally.verdicts(judge(scores, self.policy, [f.name() for f in self.rows.chain]), measured)

    def measure(self, unit: list[Job]) -> list[Job]:
        """All clips of a unit, done. A unit that kills its child is gone through clip by clip."""
        done: list[Job] = []
        source = unit[0].clip.source
        try:
            for job in self.child.ask((source, unit), **self.recipe.limits(source)):
                done.append(job)
        except (ChildDied, ChildHung, FetchError):
            pass
        seen = {job.clip.clip_id for job in done}
        return done + [self.measure_alone(job) for job in unit if job.clip.clip_id not in seen]

    def measure_alone(self, job: Job) -> Job:
        """One clip by itself, twice at most: what fails is this clip and no other."""
        source = job.clip.source
        try:
            return self.child.answer((source, [job]), **self.recipe.limits(source))
        except FetchError as e:
            return failed(job, str(e), e.remedy, transient=True)
        except ChildHung:
            error = f"took longer than {self.recipe.limits(source)['later']:.0f} s"
            remedy = "raise `time_limit` in the recipe, or re-encode the source"
            return failed(job, error, remedy, transient="://" in source)
        except ChildDied as e:
            remedy = "re-encode the source; when memory ran out, use fewer workers"
            return failed(job, f"killed its worker twice ({e})", remedy, transient=e.from_outside)


def failed(job: Job, error: str, remedy: str, *, transient: bool = False) -> Job:
    job.error, job.remedy, job.transient = error, remedy, transient
    return job


def failure(job: Job) -> Failure:
    assert job.error
    return Failure.of_clip(job.clip, "measure", job.error, job.remedy, transient=job.transient)

"""The chain: measure clips with all filters from one decode, and stop at the first hard rule a clip breaks."""

import os
import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import cv2
import numpy as np

from curation.policy import Policy
from curation.recipe import Recipe
from curation.sources import Ranges, check, random_access
from dataset.draw import draw_overlay
from dataset.media import Counters, DecodedClip, FrameBatch, Frames, MediaError, read_clips
from dataset.records import Clip
from dataset.tracks import Tracks
from filters.base import ClipView, Filter, Looked, Measurement

T = TypeVar("T")
DECODE = "decode"  # stands beside the filters in what was spent
THUMB_HEIGHT = 120  # pixels
THUMB_TIMES = (0.15, 0.5, 0.85)  # of the clip


@dataclass
class Job:
    """A clip on its way through the chain, with what earlier runs measured of it."""

    clip: Clip
    measured: dict[str, Measurement] = field(default_factory=dict)
    ms: dict[str, float] = field(default_factory=dict)  # milliseconds per filter, and of DECODE
    looked: dict[str, Looked] = field(default_factory=dict)  # at what, by filter
    tracks: Tracks | None = None
    stopped: str | None = None  # the filter whose hard rule ended the chain
    decoded: int = 0  # frames that the decoder gave for this clip
    frames: int = 0  # frames that lie in the clip
    opens: int = 0  # containers opened for it
    thumb: bytes | None = None
    error: str | None = None
    remedy: str = ""
    transient: bool = False  # the error may be gone on the next run


class Chain:
    """The filters of a recipe under a policy. Networks are loaded when the first clip needs them."""

    def __init__(self, filters: Sequence[Filter], policy: Policy, *, cascade: bool = True):
        self.filters = filters
        self.policy = policy
        self.cascade = cascade
        self.ready: set[str] = set()

    def missing(self, job: Job) -> list[Filter]:
        return [f for f in self.filters if f.name() not in job.measured]

    def advance(self, job: Job, decoded: DecodedClip | None) -> bool:
        """Measure until the chain ends or pixels are needed that aren't there. Returns whether it ended."""
        for f in self.filters:
            name = f.name()
            if name not in job.measured:
                if decoded is None and (f.needs.frames or f.needs.audio):
                    return False
                self.measure(f, job, decoded)
            if self.cascade and self.policy.stops(name, job.measured[name]):
                job.stopped = name
                return True
        return True

    def measure(self, f: Filter, job: Job, decoded: DecodedClip | None) -> None:
        name = f.name()
        if name not in self.ready:
            f.setup()
            self.ready.add(name)
        batches = decoded.batches if decoded else {}
        view = ClipView(job.clip, batches, decoded.audio if decoded else None, job.measured, job.tracks)
        began = time.thread_time()
        job.measured[name] = f.measure(view)
        job.ms[name] = 1000 * (time.thread_time() - began)
        job.tracks = view.tracks
        if looked := view.looked or first_look(f, batches):
            job.looked[name] = looked

    def run(self, uri: str, jobs: Sequence[Job]) -> Iterator[Job]:
        """Measure clips of one source, ascending in time. Every job comes back, with an error if it failed."""
        waiting = []
        for job in jobs:
            if self.guarded(job, None):
                yield job
            else:
                waiting.append(job)
        if waiting:
            with random_access(uri) as file:
                yield from self.run_decoded(file, waiting)

    def run_decoded(self, file: str | Ranges, jobs: list[Job]) -> Iterator[Job]:
        missing = [f for job in jobs for f in self.missing(job)]
        needs = sorted({need for f in missing for need in f.needs.frames}, key=lambda n: (n.short_side or 0, n.fps))
        if not any(need.cut is None for need in needs):
            needs.append(Frames(1, 90))  # for the thumbnail
        audio = any(f.needs.audio for f in missing)
        while jobs:
            spans = [(job.clip.start, job.clip.end) for job in jobs]
            counters, seen, before = Counters(), Counters(), 0.0
            clips = read_clips(file, spans, needs, audio=audio, counters=counters)
            try:
                costs = ((clip, Counters(counters.opens, counters.decoded), time.thread_time()) for clip in clips)
                for decoded, total, spent in ahead(costs):
                    check(file)
                    job = jobs.pop(0)
                    job.ms[DECODE], before = 1000 * (spent - before), spent
                    job.frames = decoded.span_frames
                    job.decoded, job.opens = total.decoded - seen.decoded, total.opens - seen.opens
                    seen = total
                    self.guarded(job, decoded)
                    yield job
            except MediaError as e:
                check(file)
                # It concerns the next clip; the ones after it may still be readable.
                job = jobs.pop(0)
                job.error, job.remedy = str(e), e.remedy
                yield job

    def guarded(self, job: Job, decoded: DecodedClip | None) -> bool:
        """advance(), where a filter's exception becomes the clip's error."""
        try:
            ended = self.advance(job, decoded)
            if ended and decoded is not None:
                job.thumb = thumbnail(decoded, job)
            return ended
        except Exception as e:
            job.error = f"{type(e).__name__}: {e}"
            job.remedy = "report this with the clip: a filter must not fail on a readable clip"
            return True


def first_look(f: Filter, batches: Mapping[Frames, FrameBatch]) -> Looked | None:
    """The pictures that a filter declared first."""
    batch = next((batches[need] for need in f.needs.frames), None)
    if not batch:
        return None
    height, width = batch.images[0].shape[:2]
    return Looked.at(batch.times, width, height)


def ahead(items: Iterable[T]) -> Iterator[T]:
    """Iterate with a thread that prepares the next item while this one is worked on."""
    ready: queue.Queue[tuple[bool, Any]] = queue.Queue(maxsize=1)

    def fill() -> None:
        try:
            for item in items:
                ready.put((True, item))
            ready.put((False, None))
        except BaseException as e:  # handed to the consumer, where it is raised
            ready.put((False, e))

    threading.Thread(target=fill, daemon=True).start()
    while True:
        more, value = ready.get()
        if more:
            yield value
        elif value is None:
            return
        else:
            raise value


def thumbnail(decoded: DecodedClip, job: Job) -> bytes:
    """JPEG strip of three frames with the tracked people drawn in."""
    whole = [batch for need, batch in decoded.batches.items() if need.cut is None]
    batch = min(whole, key=lambda b: b.images[0].shape[0])
    pictures = []
    for share in THUMB_TIMES:
        index = int(np.argmin(np.abs(batch.times - share * job.clip.seconds)))
        image = batch.images[index]
        width = max(1, round(image.shape[1] * THUMB_HEIGHT / image.shape[0]))
        small = cv2.resize(image, (width, THUMB_HEIGHT), interpolation=cv2.INTER_AREA)
        pictures.append(draw_overlay(small, job.tracks, float(batch.times[index])) if job.tracks else small)
    strip = cv2.cvtColor(np.hstack(pictures), cv2.COLOR_RGB2BGR)
    return cv2.imencode(".jpg", strip, [cv2.IMWRITE_JPEG_QUALITY, 75])[1].tobytes()


# ---------------------------------------------------------------- the child's handler


def handler(recipe: Recipe, policy: Policy) -> Callable[[tuple[str, list[Job]]], Iterator[Job | str]]:
    """One request is a source and some of its clips; the answers are the jobs, done."""
    cv2.setNumThreads(1)
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # torch reads it when a filter loads it
    chain = Chain(recipe.build(), policy, cascade=recipe.cascade)

    def handle(request: tuple[str, list[Job]]) -> Iterator[Job | str]:
        yield from chain.run(*request)

    return handle

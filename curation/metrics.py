"""What the workers of curation count for Prometheus, and what they log.

Ray's agent on every node exports the counters, with `ray_` before their names, also those of workers that have ended.
Parts that wait and are in work, actors, nodes, CPUs, GPUs, memory and disk: Ray has metrics of its own.
"""

import logging
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import pyarrow as pa
from ray.util.metrics import Counter

from dataset.records import Clip, Failure

logging.getLogger("s2v").addHandler(logging.NullHandler())  # nothing on the terminal where nobody set up logging


@dataclass(frozen=True)
class Counted:
    """A counter. labels: beside COMMON; few values each, so never a clip."""

    name: str
    help: str
    labels: tuple[str, ...] = ()


COMMON = ("dataset", "stage")  # the last word of the dataset's place; ingest, measure, caption or pack
COUNTERS = (
    Counted("s2v_sources_total", "Sources looked through for clips; outcome: done, failed", ("outcome",)),
    Counted("s2v_clips_total", "Clips through a stage; outcome: done, rejected (by the policy), failed", ("outcome",)),
    Counted("s2v_video_seconds_total", "Seconds of video in the clips of s2v_clips_total", ("outcome",)),
    Counted("s2v_rejects_total", "Rejected clips by the first rule that they break", ("filter", "score")),
    Counted("s2v_filter_clips_total", "Clips that a filter measured; filter decode: clips decoded", ("filter",)),
    Counted("s2v_filter_seconds_total", "CPU seconds of a filter's thread; filter decode: of decoding", ("filter",)),
    Counted("s2v_decode_opens_total", "Video files opened to decode clips: one for each pass over a source"),
    Counted("s2v_frames_decoded_total", "Frames that the decoder gave"),
    Counted("s2v_frames_shown_total", "Frames that lie in the decoded clips: what had to be decoded"),
    Counted("s2v_caption_tokens_total", "Tokens of caption requests; kind: prompt, completion", ("kind",)),
    Counted("s2v_caption_tries_total", "Answers asked for; one a clip where none is sent back"),
    Counted("s2v_caption_seconds_total", "Seconds from handing a clip in to its caption, summed over clips"),
    Counted("s2v_parts_total", "Parts of tables, or shards, that were written"),
    Counted("s2v_part_seconds_total", "Seconds that workers were at work on parts"),
)


@contextmanager
def harmless() -> Iterator[None]:
    """What goes wrong in telling costs a number, and never the run."""
    try:
        yield
    except Exception:
        logging.getLogger("s2v").exception("something was not counted")


class Tally:
    """What one worker has to tell. Made and used in it."""

    def __init__(self, dataset: str, stage: str):
        self.common = {"dataset": dataset.rstrip("/").rsplit("/", 1)[-1], "stage": stage}
        self.counters = {c.name: Counter(c.name, c.help, COMMON + c.labels) for c in COUNTERS}
        self.log = logging.getLogger(f"s2v.{stage}")
        self.log.info("worker starts", extra=self.common)

    @harmless()
    def count(self, name: str, amount: float = 1, **labels: str) -> None:
        if amount > 0:
            self.counters[name].inc(float(amount), self.common | labels)

    @harmless()
    def clips(self, outcome: str, clips: Sequence[Clip]) -> None:
        self.count("s2v_clips_total", len(clips), outcome=outcome)
        self.count("s2v_video_seconds_total", sum(clip.seconds for clip in clips), outcome=outcome)

    @harmless()
    def failures(self, failures: Iterable[Failure], clips: Mapping[str, Clip]) -> None:
        """clips: by id, at least those that failed; ingest has none yet."""
        failures = list(failures)
        self.clips("failed", [clips[f.clip_id] for f in failures if f.clip_id])
        for f in failures:
            told = {"clip_id": f.clip_id, "source": f.source, "error": f.error, "remedy": f.remedy}
            self.log.warning("failure", extra={**self.common, **told})

    @harmless()
    def verdicts(self, verdicts: pa.Table, clips: Mapping[str, Clip]) -> None:
        """The verdicts on `clips`; the table may have more. The first reason is what `s2v status` counts, too."""
        done: list[Clip] = []
        rejected: list[Clip] = []
        for row in verdicts.to_pylist():
            clip = clips.get(row["clip_id"])
            if clip is None:
                continue
            (done if row["keep"] else rejected).append(clip)
            for reason in row["reasons"][:1]:
                self.count("s2v_rejects_total", filter=reason["filter"], score=reason["score"])
                self.log.info("clip rejected", extra={**self.common, "clip_id": clip.clip_id, **reason})
        self.clips("done", done)
        self.clips("rejected", rejected)

    def part(self, name: str, clips: int, began: float) -> None:
        """A part was written. began: `time.monotonic()` at which work on it began."""
        seconds = time.monotonic() - began
        self.count("s2v_parts_total")
        self.count("s2v_part_seconds_total", seconds)
        told = {"part": name, "clips": clips, "seconds": round(seconds, 3)}
        self.log.info("part written", extra={**self.common, **told})

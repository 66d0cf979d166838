"""What the tables hold, as pydantic records: one class is one row."""

import hashlib

from pydantic import BaseModel, ConfigDict


class Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class MediaFacts(Record):
    """What a source says of itself, after rotation and sample aspect ratio are applied."""

    width: int  # pixels, upright, square pixels
    height: int
    fps: float  # average; variable-rate sources keep their own timestamps
    duration: float  # seconds of video, counted from its first frame
    frames: int
    video_codec: str
    pix_fmt: str
    bit_rate: int  # bits per second of the whole file
    audio_codec: str | None = None
    audio_rate: int | None = None  # Hz
    audio_channels: int | None = None


class Clip(Record):
    """One shot of one source: a row of `clips/`."""

    clip_id: str
    source: str  # path or URL; `tar://member::path` for a member of a tar
    source_id: str  # hash of the source's bytes
    start: float  # seconds from the first video frame
    end: float
    media: MediaFacts
    caption: str | None = None  # coarse caption that came with the source

    @property
    def seconds(self) -> float:
        return self.end - self.start


def make_clip_id(source_id: str, start: float, end: float) -> str:
    """Content address of a clip: the same bytes and the same span give the same id, wherever the file lies."""
    key = f"{source_id}:{start:.3f}:{end:.3f}"
    return hashlib.blake2b(key.encode(), digest_size=12).hexdigest()


class Failure(Record):
    """What could not be read or crashed, and what to do about it: a row of `failures/`."""

    key: str  # clip_id, or the source where no clip exists yet
    source: str
    clip_id: str | None = None
    stage: str  # ingest | measure | caption | pack
    error: str
    remedy: str
    transient: bool = False  # worth another try on the next run (network, disk, killed worker)

    @classmethod
    def of_clip(cls, clip: Clip, stage: str, error: str, remedy: str, *, transient: bool = False) -> "Failure":
        """What happened to one clip."""
        return cls(
            key=clip.clip_id,
            source=clip.source,
            clip_id=clip.clip_id,
            stage=stage,
            error=error,
            remedy=remedy,
            transient=transient,
        )


class Reason(Record):
    """Why a clip was dropped: the rule, the measured value, and how far past the threshold it lies."""

    filter: str
    score: str
    value: float | None
    threshold: float | None
    margin: float | None  # |value - threshold| in the score's unit


class Verdict(Record):
    """A row of `verdicts/`."""

    clip_id: str
    keep: bool
    reasons: list[Reason]
    policy: str  # digest of the policy that judged

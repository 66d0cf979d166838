"""What a filter is: it declares what it needs of a clip and returns what it measured."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from dataset.media import FrameBatch, Frames
from dataset.records import Clip
from dataset.tracks import Tracks


@dataclass(frozen=True)
class Needs:
    """What a filter looks at. The union over a recipe is decoded once.

    A filter that needs neither frames nor audio is measured from the header facts, before anything is decoded.
    """

    frames: tuple[Frames, ...] = ()
    audio: bool = False
    after: tuple[str, ...] = ()  # filters whose measurements this one reads


class Measurement(BaseModel):
    """The scores of one filter for one clip. None means that the score does not apply (no hands to be sharp)."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def score(*, unit: str, better: Literal["higher", "lower", "middle", "none"], about: str = "") -> Any:
    """Declare a score: its unit, which direction is better, and one line about how it is sampled."""
    return Field(default=None, description=about, json_schema_extra={"unit": unit, "better": better})


class Looked(BaseModel):
    """The pictures that a filter looked at: how many, when (seconds from the clip's start), and their size."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    frames: int
    first: float
    last: float
    width: int
    height: int

    @classmethod
    def at(cls, times: np.ndarray, width: int, height: int) -> "Looked":
        """times: (N,) seconds, ascending."""
        return cls(frames=len(times), first=float(times[0]), last=float(times[-1]), width=width, height=height)


@dataclass
class ClipView:
    """What a filter sees of a clip: views on pixels and sound that were decoded once for all filters.

    A filter that looks at fewer pictures than it declared, or at others, says so in `looked`.
    """

    clip: Clip
    batches: Mapping[Frames, FrameBatch]
    audio: np.ndarray | None  # (samples,) float32 mono at AUDIO_RATE from the clip's start; None: no audio stream
    measured: dict[str, Measurement]  # by filter name, of the filters that ran before
    tracks: Tracks | None = None  # set by the pose filter
    looked: Looked | None = None

    def frames(self, need: Frames) -> FrameBatch:
        """The frames a filter declared in `needs`: RGB, upright, square pixels."""
        return self.batches[need]


class Filter(BaseModel):
    """Base of all filters. Fields are the parameters that a recipe may set; networks live in private attributes.

    stands_for: the filter whose place this one can take for those that come `after` it, as all that find people can.
    weights: names in `filters.weights` of all files it may read; `chosen_weights`: those that its parameters ask for.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: ClassVar[int] = 1  # raise it when the same clip would get other scores
    needs: ClassVar[Needs] = Needs()
    weights: ClassVar[tuple[str, ...]] = ()
    stands_for: ClassVar[str | None] = None
    Scores: ClassVar[type[Measurement]]

    @classmethod
    def name(cls) -> str:
        return re.sub(r"(?<!^)(?=[A-Z])", "_", cls.__name__).lower()

    def chosen_weights(self) -> tuple[str, ...]:
        return self.weights

    def setup(self) -> None:
        """Load networks. Called once per worker, before the first clip."""

    def measure(self, clip: ClipView) -> Measurement:
        raise NotImplementedError

"""What a training sample is, from the clip in a shard to the tensors that the network learns from."""

import hashlib
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

PAST = 73  # frames that FramePack looks back at


@dataclass(frozen=True)
class Clip:
    """A clip as the index of its shards describes it. kind: of data, as the stage's mixture names it."""

    clip_id: str
    kind: str
    shard: str  # path or URL
    offset: int  # byte of the sample's first tar header
    seconds: float
    width: int
    height: int


@dataclass(frozen=True)
class Shape:
    """What a clip is cut and scaled to. frames: of video, 4 n. history: real frames that come before them at least."""

    frames: int
    history: int
    height: int
    width: int

    @property
    def latent_frames(self) -> int:
        return self.frames // 4


@dataclass(frozen=True)
class Request:
    """A clip to be trained on, for the `epoch`-th time. Both together seed everything that is random about it."""

    clip: Clip
    shape: Shape
    epoch: int


@dataclass(frozen=True)
class Window:
    """Which frames of a clip (16 a second) a sample shows, and which of its captions: 0 to 1, over all there are."""

    start: int
    frames: int
    reference: int
    caption: float

    @property
    def end(self) -> int:
        return self.start + self.frames

    @property
    def history(self) -> int:
        """Real frames before it that the network sees."""
        return min(PAST, self.start)


@dataclass(frozen=True)
class Pixels:
    """A sample as read: frames (T, H, W, 3) uint8 of the history and the video that follows it, T = history + frames.

    reference (H, W, 3) uint8. pose (frames, H, W, 3) uint8, or None where the clip has no tracks. speech: the whole
    clip's sound, (n,) float32 at 16 kHz mono; n = 0 where it has none.
    """

    request: Request
    window: Window
    frames: np.ndarray
    reference: np.ndarray
    pose: np.ndarray | None
    speech: np.ndarray
    caption: str


@dataclass(frozen=True)
class Example:
    """A sample as the network learns it; float16, as latent shards store it.

    latent (16, F, h, w); motion (16, 19, h, w): the 73 frames before, grey where there were none; reference
    (16, 1, h, w); pose (16, F, h, w), zeros without a pose; audio (25, C, 4 F); text (L, text_dim); no_text: the same
    of an empty prompt.
    """

    clip_id: str
    kind: str
    epoch: int
    latent: Tensor
    motion: Tensor
    reference: Tensor
    pose: Tensor
    audio: Tensor
    text: Tensor
    no_text: Tensor

    def tensors(self) -> dict[str, Tensor]:
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return {name: value for name, value in values.items() if isinstance(value, Tensor)}

    def with_tensors(self, tensors: dict[str, Tensor]) -> "Example":
        return replace(self, **tensors)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Replaced:
    """A sample that could not be read, and the clip that was taken instead: a row of RUN/replaced.jsonl."""

    step: int
    clip_id: str
    shard: str
    epoch: int
    error: str
    remedy: str
    instead: str


def seed_of(*parts: Any) -> int:
    """63 bits that depend on every part, the same on every machine."""
    return int.from_bytes(hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()) >> 1


def numpy_generator(*parts: Any) -> np.random.Generator:
    return np.random.default_rng(seed_of(*parts))


def torch_generator(*parts: Any) -> torch.Generator:
    """On the CPU: the numbers are the same whatever the device, and however many ranks share a sample."""
    return torch.Generator().manual_seed(seed_of(*parts))

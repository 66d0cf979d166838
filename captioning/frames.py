"""The pictures of a clip that the model sees: sampled here, so that what it describes is known to be the whole clip."""

import base64
from dataclasses import dataclass
from math import ceil

import cv2
import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from dataset.media import JITTER, SEEK_GAP, Counters, FrameBatch, MediaError, Readable, read_clips
from dataset.media import Frames as Sampling
from dataset.records import Clip
from dataset.tracks import Tracks

CELL = 28  # pixels: side of what becomes one token of Qwen2.5-VL, two frames deep
QUALITY = 90  # of the JPEGs
GREEN = (0, 200, 0)
CHANGED = "the file has changed since it was ingested; copy it again"


class Sight(BaseModel):
    """How a clip is shown to the model: decides the cost of a caption as much as its detail."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    fps: float = Field(2.0, gt=0)  # pictures a second: what vLLM samples for Qwen2.5-VL by default
    most: int = Field(64, ge=2)  # pictures of a clip; longer clips are sampled more coarsely
    pixels: int = Field(200_704, ge=4 * CELL * CELL)  # of a picture; 200,704 are 256 tokens per two pictures
    mark: bool = False  # draw a frame around the main person


@dataclass(frozen=True)
class Frames:
    """What is sent of a clip. `rate`: pictures a second; all are of one size, whole cells of 28 pixels a side."""

    jpegs: tuple[bytes, ...]
    rate: float
    seconds: float
    width: int
    height: int
    marked: bool = False

    @property
    def tokens(self) -> int:
        """Video tokens of Qwen2.5-VL: a cell of 28 x 28 pixels of two pictures is one."""
        return -(-len(self.jpegs) // 2) * (self.height // CELL) * (self.width // CELL)

    def url(self) -> str:
        """The data URL in which vLLM takes pictures that were sampled elsewhere."""
        return "data:video/jpeg;base64," + ",".join(base64.b64encode(jpeg).decode() for jpeg in self.jpegs)

    def timing(self) -> dict[str, object]:
        """vLLM's `media_io_kwargs.video`: for such URLs they say when the pictures were taken.

        Without `num_frames` it takes the first 32 pictures and refuses the rest.
        """
        count = len(self.jpegs)
        return {
            "num_frames": count,
            "fps": self.rate,
            "frames_indices": list(range(count)),
            "total_num_frames": count,
            "duration": count / self.rate,
        }


def read_frames(
    path: str | Readable, clip: Clip, sight: Sight, *, measured: int = 0, tracks: Tracks | None = None
) -> Frames:
    """Sample a clip out of its source, in one forward pass.

    measured: frames that the filters saw in it; 0: not known. tracks: whom to mark, if `sight.mark`. Raises MediaError
    when less than the whole clip can be decoded: a caption must never tell of the part that could be read.
    """
    rate = min(sight.fps, sight.most / clip.seconds, clip.media.fps)
    width, height = fitted(clip.media.width, clip.media.height, sight.pixels)
    need = Sampling(rate, min(width, height))
    (decoded,) = read_clips(path, [(clip.start, clip.end)], [need], audio=False, counters=Counters())
    if decoded.span_frames < 0.98 * measured - 1 and clip.start > SEEK_GAP:
        # Some formats can't be searched, and a damaged keyframe hides what follows: filters may have come from before.
        spans = [(0.0, clip.start), (clip.start, clip.end)]
        _, decoded = read_clips(path, spans, [need], audio=False, counters=Counters())
    if decoded.until < clip.seconds - 1.5 / clip.media.fps - JITTER:
        raise MediaError(
            f"truncated: {decoded.until:.1f} of {clip.seconds:.1f} s could be decoded",
            CHANGED,
        )
    if decoded.span_frames < 0.98 * measured - 1:
        raise MediaError(f"damaged: {decoded.span_frames} of {measured} frames could be decoded", CHANGED)
    shown = list(zip(*steady(decoded.batches[need], rate, clip.seconds), strict=True))
    images = [cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA) for image, _ in shown]
    marked = False
    if sight.mark and tracks is not None and len(tracks.ids):
        marked = sum(mark(image, tracks, time) for image, (_, time) in zip(images, shown, strict=True)) > 0
    return Frames(tuple(map(jpeg, images)), rate, clip.seconds, width, height, marked)


def steady(batch: FrameBatch, rate: float, seconds: float) -> tuple[list[np.ndarray], np.ndarray]:
    """Pictures and their times at an even rate, each what a viewer sees at that moment: the model takes them for even,
    and a variable frame rate leaves gaps. Their number is even, too, as it looks at pairs."""
    count = max(1, ceil((seconds - JITTER) * rate))
    moments = np.minimum(np.arange(count + count % 2), count - 1) / rate
    at = np.searchsorted(batch.times, moments + 1 / rate - JITTER) - 1  # a slot's picture may come late in it
    at = at.clip(0, len(batch) - 1)
    return [batch.images[i] for i in at], batch.times[at]


def fitted(width: int, height: int, pixels: int) -> tuple[int, int]:
    """The largest size of whole cells with about this shape and at most `pixels`, never larger than the source."""
    scale = min(1.0, (pixels / (width * height)) ** 0.5)
    w, h = (max(2 * CELL, int(side * scale / CELL) * CELL) for side in (width, height))
    return w, h


def mark(image: np.ndarray, tracks: Tracks, time: float) -> bool:
    """Draw a green frame around the main person where it is seen at `time` (seconds from the clip's start)."""
    box = tracks.boxes[0, tracks.at(time)]
    if not np.isfinite(box).all():
        return False
    height, width = image.shape[:2]
    x0, y0, x1, y1 = (int(share * side) for share, side in zip(box, (width, height) * 2, strict=True))
    cv2.rectangle(image, (x0, y0), (x1, y1), GREEN, thickness=2)
    return True


def jpeg(image: np.ndarray) -> bytes:
    """(H, W, 3) uint8 RGB -> JPEG."""
    return cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, QUALITY])[1].tobytes()

"""What DOVER looks at: three clips of native-resolution fragments (technical), 32 shrunken frames (aesthetic).

Source: https://github.com/VQAssessment/DOVER, `dover/datasets/dover_datasets.py` and `dover.yml`. Upstream draws places
and moments at random, so its scores jitter; here each is the middle of its range unless the caller passes a `Draw`.

Frames are (H, W, 3) uint8 RGB, at the video's own size: fragments of a shrunken frame hide what they are to show.

Only the finished views need torch: fragments are cut where frames are decoded.
"""

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor

CLIPS, FRAMES, STRIDE = 3, 32, 2
CELLS, FRAGMENT = 7, 32  # fragments each way, and pixels of one
SIDE = CELLS * FRAGMENT

Draw = Callable[[int, tuple[int, ...]], np.ndarray]  # room above 0, shape -> whole numbers in 0 .. room - 1


def middle(room: int, shape: tuple[int, ...]) -> np.ndarray:
    return np.full(shape, room // 2)


def technical_frames(frames: int, draw: Draw = middle) -> np.ndarray:
    """(3, 32) frame numbers in a video of that many frames: every second frame from somewhere in each third of it.

    A clip spans 63 frames, and starts where its third does if that has 64 or fewer. In videos below 189 frames clips
    run on into the next third, the last one from frame 0 again. Raises ValueError where there is no frame.
    """
    return sampled(frames, CLIPS, FRAMES, draw)


def aesthetic_frames(frames: int, draw: Draw = middle) -> np.ndarray:
    """(32,) frame numbers in a video of that many frames, one of each 32nd of it. Below 32 frames all are frame 0, as
    upstream. Raises ValueError where there is no frame."""
    return sampled(frames, FRAMES, 1, draw)[:, 0]


def sampled(frames: int, slots: int, length: int, draw: Draw) -> np.ndarray:
    """(slots, length) frame numbers, STRIDE apart, within equal slots of the video."""
    if frames < 1:
        raise ValueError(f"a video has frames to sample from, not {frames}")
    slot = frames // slots
    room = slot - length * STRIDE
    first = np.arange(slots) * slot + (draw(room, (slots,)) if room > 0 else 0)
    return (first[:, None] + np.arange(length) * STRIDE) % frames


def enlarged(frame: np.ndarray) -> np.ndarray:
    """The frame itself, or scaled up to 224 pixels on its short side if it has fewer."""
    height, width = frame.shape[:2]
    short = min(height, width)
    if short >= SIDE:
        return frame
    return resized(frame, round(height * SIDE / short), round(width * SIDE / short))


def corners(height: int, width: int, draw: Draw = middle) -> np.ndarray:
    """(3, 7, 7, 2) row and column of the upper left pixel of each fragment of each clip, in `enlarged` frames of that
    size. The picture is cut into 7x7 cells; a fragment lies within its cell, at the same place through a clip.

    Upstream divides small frames by their size before enlarging, so its fragments miss the right and lower parts.
    Raises ValueError below 224 pixels.
    """
    if min(height, width) < SIDE:
        raise ValueError(f"fragments are cut from frames of {SIDE} pixels or more each way, not {height}x{width}")
    shape = CELLS, CELLS, CLIPS
    places = []
    for axis, size in enumerate((height, width)):
        cell = size // CELLS
        room = cell - FRAGMENT
        starts = np.expand_dims(np.arange(CELLS) * cell, (1 - axis, 2))
        places.append(starts + (draw(room, shape) if room > 0 else np.zeros(shape, np.int64)))
    return np.stack(places, -1).transpose(2, 0, 1, 3)


def fragments(frame: np.ndarray, places: np.ndarray) -> np.ndarray:
    """(H, W, 3) and the (7, 7, 2) `corners` of its clip -> (224, 224, 3): its fragments side by side."""
    cut = np.empty((SIDE, SIDE, 3), frame.dtype)
    for i, j in np.ndindex(CELLS, CELLS):
        row, column = places[i, j]
        place = slice(i * FRAGMENT, (i + 1) * FRAGMENT), slice(j * FRAGMENT, (j + 1) * FRAGMENT)
        cut[place] = frame[row : row + FRAGMENT, column : column + FRAGMENT]
    return cut


def resized(frame: np.ndarray, height: int = SIDE, width: int = SIDE) -> np.ndarray:
    """(H, W, 3) -> (height, width, 3) uint8, bilinear, whatever the shape of the frame.

    Without antialiasing, as torchvision's Resize did when DOVER was trained. It antialiases since 0.17, which changes
    pixels of detailed frames by up to a third of the range.
    """
    (top, bottom, down), (left, right, across) = neighbours(frame.shape[0], height), neighbours(frame.shape[1], width)
    # Columns and colours as one axis: numpy is twice as fast on long rows as on triples.
    left, right = ((3 * columns[:, None] + np.arange(3)).ravel() for columns in (left, right))
    across, down = np.repeat(across, 3), down[:, None]
    rows = frame.reshape(len(frame), -1)
    above, below = (strip[:, left] * (1 - across) + strip[:, right] * across for strip in (rows[top], rows[bottom]))
    return np.rint(above * (1 - down) + below * down).astype(np.uint8).reshape(height, width, 3)


def neighbours(size: int, wanted: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of each of `wanted` pixels spread over `size`: the two between which its middle lies, and the second's share."""
    spread = (np.arange(wanted, dtype=np.float32) + np.float32(0.5)) * np.float32(size / wanted) - np.float32(0.5)
    middle = np.clip(spread, 0, size - 1)
    first = middle.astype(np.intp)
    return first, np.minimum(first + 1, size - 1), middle - first


def as_input(frames: np.ndarray) -> "Tensor":
    """(..., T, 224, 224, 3) uint8 -> (..., 3, T, 224, 224) float32, normalised, on this worker's device."""
    from filters.nets.device import normalised

    return normalised(frames).movedim(-1, -4)


def technical_view(frames: Iterable[np.ndarray], draw: Draw = middle) -> "Tensor":
    """The 96 frames that `technical_frames` numbers, clip by clip -> (3, 3, 32, 224, 224): clips, colours, frames,
    pixels. One frame at a time is held. Raises ValueError on another number of frames."""
    cut: list[np.ndarray] = []
    for frame in map(enlarged, frames):
        if not cut:
            height, width = frame.shape[:2]
            places = corners(height, width, draw)
        cut.append(fragments(frame, places[len(cut) // FRAMES % CLIPS]))
    if len(cut) != CLIPS * FRAMES:
        raise ValueError(f"a technical view has {CLIPS} clips of {FRAMES} frames, not {len(cut)} frames")
    return as_input(np.stack(cut).reshape(CLIPS, FRAMES, SIDE, SIDE, 3))


def aesthetic_view(frames: Iterable[np.ndarray]) -> "Tensor":
    """The 32 frames that `aesthetic_frames` numbers -> (3, 32, 224, 224). Raises ValueError on another number."""
    shrunken = [resized(frame) for frame in frames]
    if len(shrunken) != FRAMES:
        raise ValueError(f"an aesthetic view has {FRAMES} frames, not {len(shrunken)}")
    return as_input(np.stack(shrunken))

"""Points of people over time: smoothed, interpolated over short gaps, and put together as tracks."""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from dataset.tracks import Tracks

BRIDGE = 0.4  # seconds of absence that are interpolated
FLEETING = 0.3  # seconds; whoever is seen for less is taken for a mistake of the detectors


class Followed(NamedTuple):
    """One person in every frame: keypoints (T, 128, 3), body boxes (T, 4), face boxes (T, 4); pixels, NaN: unseen."""

    id: int
    keypoints: np.ndarray
    boxes: np.ndarray
    faces: np.ndarray


def as_tracks(people: Sequence[Followed], times: np.ndarray, width: int, height: int) -> Tracks:
    """Tracks in shares of the frame, the person seen longest and largest first; without those hardly seen at all."""
    shown = [person for person in people if lasts(np.isfinite(person.boxes[:, 0]), times)]
    shown.sort(key=lambda person: -float(np.nansum(person.boxes[:, 3] - person.boxes[:, 1])))
    if not shown:
        return Tracks.empty(times)
    ids, keypoints, boxes, faces = (np.stack(column) for column in zip(*shown, strict=True))
    size = np.array([width, height], np.float32)
    keypoints[..., :2] = (keypoints[..., :2] + 0.5) / size  # pixel 0 is the square from 0 to 1
    boxes, faces = ((b + 0.5) / np.tile(size, 2) for b in (boxes, faces))
    inside = ((keypoints[..., :2] >= 0) & (keypoints[..., :2] <= 1)).all(axis=-1)
    keypoints[..., 2] *= inside  # a place beyond the frame is a guess; it is kept, with confidence 0
    keypoints = np.nan_to_num(keypoints)
    return Tracks(times, ids, keypoints.astype(np.float32), boxes.astype(np.float32), faces.astype(np.float32))


def lasts(seen: np.ndarray, times: np.ndarray) -> bool:
    """Is a person seen long enough to be believed? In a clip shorter than that, half of it is enough."""
    step = float(np.median(np.diff(times))) if len(times) > 1 else FLEETING
    return seen.sum() * step >= min(FLEETING, len(times) * step / 2)


def smooth(values: np.ndarray) -> np.ndarray:
    """Savitzky-Golay (5 samples, parabola) over time for x and y of (N, K, 2 or 3): jitter goes, gestures stay."""
    if len(values) < 5:
        return values
    smoothed = values.copy()
    weights = np.array([-3, 12, 17, 12, -3]) / 35
    smoothed[2:-2, :, :2] = sum(w * values[k : len(values) - 4 + k, :, :2] for k, w in enumerate(weights))
    return smoothed


def series(
    samples: dict[int, np.ndarray],
    shape: tuple[int, int],
    times: np.ndarray,
    *,
    gap: float = BRIDGE,
    smoothed: Callable[[np.ndarray], np.ndarray] = smooth,
) -> np.ndarray:
    """Samples of a shape by frame number -> (T, *shape): smoothed, interpolated over gaps of up to `gap` seconds, NaN
    elsewhere.

    The last sample before a gap is held for as long as the step to it took: its frames were not looked at.
    """
    dense = np.full((len(times), *shape), np.nan)
    frames = np.array(sorted(samples), int)
    if not len(frames):
        return dense
    values = np.stack([samples[i] for i in frames])
    runs = np.split(np.arange(len(frames)), np.flatnonzero(np.diff(times[frames]) > gap) + 1)
    for run in runs:
        at, known = frames[run], smoothed(values[run])
        hold = int(np.min(np.diff(at))) if len(at) > 1 else 1
        span = np.arange(at[0], min(at[-1] + hold, len(times)))
        flat = known.reshape(len(run), -1)
        dense[span] = np.stack([np.interp(times[span], times[at], c) for c in flat.T], axis=-1).reshape(-1, *shape)
    return dense


def bridge(boxes: np.ndarray, times: np.ndarray) -> np.ndarray:
    """Interpolate (T, 4) boxes over absences of at most `BRIDGE` seconds."""
    seen = np.flatnonzero(np.isfinite(boxes[:, 0]))
    bridged = boxes.copy()
    for a, b in pairwise(seen):
        if b - a > 1 and times[b] - times[a] <= BRIDGE:
            share = ((times[a + 1 : b] - times[a]) / (times[b] - times[a]))[:, None]
            bridged[a + 1 : b] = (1 - share) * boxes[a] + share * boxes[b]
    return bridged

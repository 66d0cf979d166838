"""The face crops that Light-ASD and SyncNet look at (upstream Columbia_test.py and run_pipeline.py, `crop_video`).

A face is cut out with more room below than above, so that the mouth comes to the middle. SyncNet sees all of it in
colour, Light-ASD only the middle in grey. Upstream writes the crops to an XVID file on the way, which is left out here.
"""

from collections.abc import Sequence

import cv2
import numpy as np

SMOOTHING = 13  # frames of the median filter
ROOM = 0.40  # upstream's cropScale
GREY = 110  # of what lies beyond the frame
SIDE = 224  # pixels that the region is scaled to
MOUTH = slice(56, 168)  # rows and columns of it that are kept


def face_crops(frames: Sequence[np.ndarray], boxes: np.ndarray) -> np.ndarray:
    """For Light-ASD: `face_regions`, their middles in grey. Returns (T, 112, 112) uint8."""
    return np.stack([cv2.cvtColor(r, cv2.COLOR_RGB2GRAY)[MOUTH, MOUTH] for r in face_regions(frames, boxes)])


def face_regions(frames: Sequence[np.ndarray], boxes: np.ndarray) -> np.ndarray:
    """frames: T pictures (H, W, 3) uint8 RGB at 25 fps. boxes: (T, 4) x0, y0, x1, y1 of one face in pixels, NaN where
    it was not found. Returns (T, 224, 224, 3) uint8 RGB.

    Raises ValueError where the boxes don't match the frames, or no box is known.
    """
    if boxes.shape != (len(frames), 4):
        raise ValueError(f"{len(frames)} frames need boxes of shape ({len(frames)}, 4), not {boxes.shape}")
    middles, sizes = smooth_track(boxes)
    regions = [face_region(frame, x, y, half) for frame, (x, y), half in zip(frames, middles, sizes, strict=True)]
    return np.stack(regions)


def smooth_track(boxes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(T, 4) boxes -> (T, 2) middles x, y and (T,) half sizes, gaps interpolated and median filtered."""
    known = ~np.isnan(boxes).any(axis=1)
    if not known.any():
        raise ValueError("no frame has a face box")
    at = np.arange(len(boxes))
    x0, y0, x1, y1 = (np.interp(at, at[known], side) for side in boxes[known].T)
    return np.stack([median((x0 + x1) / 2), median((y0 + y1) / 2)], axis=1), median(np.maximum(x1 - x0, y1 - y0) / 2)


def median(track: np.ndarray) -> np.ndarray:
    """(T,) median of the 13 frames around each. Zeros count beyond the ends, as in scipy's medfilt: within 6 frames of
    an end this pulls down to the smallest value near. Tracks below 7 frames, which upstream never has, would become
    zero and get a shorter window instead.
    """
    reach = min(SMOOTHING // 2, len(track) - 1)
    around = np.lib.stride_tricks.sliding_window_view(np.pad(track, reach), 2 * reach + 1)
    return np.median(around, axis=1)


def face_region(frame: np.ndarray, x: float, y: float, half: float) -> np.ndarray:
    """(H, W, 3) RGB -> (224, 224, 3), of the face with its middle at x, y and `half` its size, in pixels."""
    top, bottom = int(np.floor(y - half)), int(np.floor(y + half * (1 + 2 * ROOM)))
    left, right = int(np.floor(x - half * (1 + ROOM))), int(np.floor(x + half * (1 + ROOM)))
    height, width = frame.shape[:2]
    # Corners are clipped to the frame before cutting, as negative ones would count from the other side.
    seen = frame[
        np.clip(top, 0, height) : np.clip(bottom, 0, height), np.clip(left, 0, width) : np.clip(right, 0, width)
    ]
    region = np.full((max(1, bottom - top), max(1, right - left), 3), GREY, np.uint8)
    row, column = max(0, -top), max(0, -left)
    region[row : row + seen.shape[0], column : column + seen.shape[1]] = seen
    return cv2.resize(region, (SIDE, SIDE))

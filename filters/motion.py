"""Optical flow of the background and of the people apart."""

import cv2
import numpy as np
from pydantic import PrivateAttr

from dataset.media import FrameBatch, Frames
from dataset.tracks import Tracks
from filters.base import ClipView, Filter, Measurement, Needs, score

FRAMES = Frames(fps=25, short_side=360)
UNIT = "short sides of the frame / s"


class Motion(Filter):
    """Excessive or missing motion of subject and background (paper section 2, metric 2; there with UniMatch).

    Flow is DIS between frames `gap` seconds apart, every `every` seconds, at `side` pixels on the short side. The
    Euclidean length of a vector, divided by `side` and by the true time between the two frames, is a speed in short
    sides per second. Background: outside every body and face box. Only pixels with texture count, as flow has nothing
    to hold on to elsewhere.
    """

    needs = Needs(frames=(FRAMES,), after=("pose",))

    gap: float = 0.08  # s
    every: float = 0.24  # s
    side: int = 180  # px
    texture: float = 4.0  # luma levels per pixel, above which a pixel has texture
    least: float = 0.01  # share of the frame that a region's textured pixels must fill to be measured

    _flow: cv2.DISOpticalFlow = PrivateAttr()

    class Scores(Measurement):
        background: float | None = score(unit=UNIT, better="lower", about="median over pixels, mean over pairs")
        background_peak: float | None = score(
            unit=UNIT, better="lower", about="median over pixels, 90th percentile over pairs"
        )
        subject: float | None = score(
            unit=UNIT,
            better="middle",
            about="in body boxes, minus the background's median flow; mean",
        )
        overall: float | None = score(unit=UNIT, better="middle", about="mean over the frame and the pairs")

    def setup(self) -> None:
        self._flow = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_FAST)

    def measure(self, clip: ClipView) -> Scores:
        assert clip.tracks is not None
        batch = clip.frames(FRAMES)
        rows = [self.pair(batch, clip.tracks, i, j) for i, j in self.pairs(batch.times)]
        if not rows:
            return self.Scores()
        background, subject, overall = np.array(rows, np.float64).T  # None becomes NaN
        return self.Scores(
            background=mean(background),
            background_peak=None if np.isnan(background).all() else float(np.nanpercentile(background, 90)),
            subject=mean(subject),
            overall=mean(overall),
        )

    def pairs(self, times: np.ndarray) -> list[tuple[int, int]]:
        """Indices of the frames to compare: about `gap` apart, or the next frame where the rate is lower."""
        found = []
        for start in np.arange(times[0], times[-1], self.every):
            i = int(np.searchsorted(times, start - 0.01))
            j = max(i + 1, int(np.argmin(np.abs(times - times[min(i, len(times) - 1)] - self.gap))))
            if j < len(times):
                found.append((i, j))
        return found

    def pair(self, batch: FrameBatch, tracks: Tracks, i: int, j: int) -> tuple[float | None, float | None, float]:
        """Speeds of background, subject and frame between two frames of the batch."""
        first, second = luma(batch.images[i], self.side), luma(batch.images[j], self.side)
        shift = self._flow.calc(first, second, np.zeros((*first.shape, 2), np.float32))
        flow = shift / (self.side * (batch.times[j] - batch.times[i]))
        people = person_mask(tracks, tracks.at(batch.times[i]), first.shape)
        background, subject = regions(flow, first, people, texture=self.texture, least=self.least)
        return background, subject, float(np.linalg.norm(flow, axis=2).mean())


def luma(image: np.ndarray, side: int) -> np.ndarray:
    """(H, W) uint8 of a picture, `side` pixels on the short side."""
    scale = side / min(image.shape[:2])
    small = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    return cv2.cvtColor(small, cv2.COLOR_RGB2GRAY)


def regions(
    flow: np.ndarray, first: np.ndarray, people: np.ndarray, *, texture: float, least: float
) -> tuple[float | None, float | None]:
    """Speeds of background and subject; None where less than `least` of the frame is a textured part of it.

    flow: (H, W, 2) speeds between two frames. first: (H, W) luma of the first. people: (H, W) bool, where they are.
    """
    textured = cv2.morphologyEx(first, cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8)) > texture
    behind, front = textured & ~people, textured & people
    enough = least * first.size
    camera = np.median(flow[behind], axis=0) if behind.sum() > enough else None
    background = float(np.median(np.linalg.norm(flow[behind], axis=1))) if camera is not None else None
    relative = flow[front] - (camera if camera is not None else 0)
    subject = float(np.linalg.norm(relative, axis=1).mean()) if front.sum() > enough else None
    return background, subject


def person_mask(tracks: Tracks, t: int, shape: tuple[int, ...]) -> np.ndarray:
    """(H, W) bool: inside any body or face box at track time t."""
    mask = np.zeros(shape, bool)
    boxes = np.concatenate([tracks.boxes[:, t], tracks.faces[:, t]])
    for x0, y0, x1, y1 in np.clip(boxes[np.isfinite(boxes).all(axis=1)], 0, 1):
        mask[int(y0 * shape[0]) : int(np.ceil(y1 * shape[0])), int(x0 * shape[1]) : int(np.ceil(x1 * shape[1]))] = True
    return mask


def mean(values: np.ndarray) -> float | None:
    """Over the pairs in which the region was measured."""
    return None if np.isnan(values).all() else float(np.nanmean(values))

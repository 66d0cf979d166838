"""The frames of a video that belong to each clip, read forward once."""

import itertools
from collections.abc import Iterator

import numpy as np
from torch import Tensor

from dataset.pictures import cover
from generation.job import Plan
from generation.pictures import frames_of
from model.pixels import to_tensor


class ClipFrames:
    """clip number -> (3, 80, H, W) in [-1, 1], or None for a clip that begins after the video's end.

    Clips are asked for in order; the last one may be asked for again. Where the video ends within a clip, its last
    picture stays.
    """

    def __init__(self, path: str, plan: Plan):
        self.plan = plan
        self.pictures: Iterator[np.ndarray] = frames_of(path)
        self.number = 0  # the next frame to be read
        self.clip = -1
        self.frames: Tensor | None = None

    def __call__(self, clip: int) -> Tensor | None:
        if clip != self.clip:
            self.clip, self.frames = clip, self.read(*self.plan.span(clip))
        return self.frames

    def read(self, first: int, end: int) -> Tensor | None:
        skipped = max(0, first) - self.number
        wanted = end - max(0, first)
        shown = list(itertools.islice(self.pictures, skipped, skipped + wanted))
        self.number = end
        if not shown:
            return None
        shown = [cover(picture, self.plan.height, self.plan.width) for picture in shown]
        shown = [shown[0]] * max(0, -first) + shown
        return to_tensor(shown + [shown[-1]] * (end - first - len(shown)))

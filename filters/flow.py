"""Optical flow of the frame, the background and the people, by UniMatch."""

from typing import TYPE_CHECKING

import cv2
import numpy as np
from pydantic import Field, PrivateAttr

from dataset.media import Frames
from dataset.tracks import Tracks
from filters import weights
from filters.base import ClipView, Filter, Looked, Measurement, Needs, score
from filters.motion import UNIT, luma, mean, person_mask, regions

if TYPE_CHECKING:
    from filters.nets.unimatch import UniMatch

FRAMES = Frames(fps=25, short_side=360)
WEIGHTS = {
    False: "unimatch/gmflow-scale2-regrefine6-mixdata-train320x576-4e7b215d.pth",
    True: "unimatch/gmflow-scale1-mixdata-train320x576-4c3a6e9a.pth",
}


class Flow(Filter):
    """Excessive motion of subject and background (paper section 2, metric 2: a motion score from UniMatch's flow).

    The paper gives no formula. `overall` is the published one of Open-Sora: the mean of |x| and |y| of the flow, in
    pixels of a frame stretched to 320x576, between frames 0, 10, 20 and 30. Here frames are a third of a second apart,
    whatever the rate: the same four at 30 fps, and elsewhere the nearest of 25 a second, with the flow scaled to `gap`.
    They have 360 lines before they are stretched; Open-Sora stretches native frames, without smoothing.

    `background` and `subject` are defined as in `motion`, whose thresholds don't carry over: a shake is partly undone
    within a gap this long.
    """

    needs = Needs(frames=(FRAMES,), after=("pose",))
    weights = tuple(WEIGHTS.values())

    fast: bool = False  # the smallest network: an eighth of the work, less exact
    gap: float = Field(1 / 3, gt=0)  # s between the frames of a pair
    pairs: int = Field(3, gt=0)
    every: float | None = Field(1 / 3, gt=0)  # s from pair to pair, from the start on; None: over the whole clip
    side: int = 180  # px of the short side at which regions are told apart
    texture: float = 4.0  # luma levels per pixel, above which a pixel has texture
    least: float = 0.01  # share of the frame that a region's textured pixels must fill to be measured

    _net: "UniMatch" = PrivateAttr()

    class Scores(Measurement):
        overall: float | None = score(
            unit="px at 320x576 over `gap`", better="middle", about="mean of |x| and |y| over the frame and the pairs"
        )
        background: float | None = score(
            unit=UNIT, better="lower", about="outside body and face boxes: median over pixels, mean over pairs"
        )
        subject: float | None = score(
            unit=UNIT, better="middle", about="in those boxes, minus the background's median flow; mean"
        )

    def chosen_weights(self) -> tuple[str, ...]:
        return (WEIGHTS[self.fast],)

    def setup(self) -> None:
        from filters.nets.device import placed
        from filters.nets.unimatch import SCALE1, SCALE2_REFINE6, load

        self._net = placed(load(weights.path(WEIGHTS[self.fast]), SCALE1 if self.fast else SCALE2_REFINE6))

    def measure(self, clip: ClipView) -> Scores:
        from filters.nets.flow_score import flows_between

        assert clip.tracks is not None
        batch = clip.frames(FRAMES)
        moments = self.moments(batch.times)
        if not moments:
            return self.Scores()
        # In full precision on a GPU too: in half, positions would be rounded to half a pixel.
        flows = flows_between(self._net, [(batch.images[i], batch.images[j]) for i, j in moments])
        rows = []
        for flow, (i, j) in zip(flows, moments, strict=True):
            seconds = batch.times[j] - batch.times[i]
            rows.append(self.speeds(flow / seconds, batch.images[i], clip.tracks, clip.tracks.at(batch.times[i])))
        height, width = batch.images[0].shape[:2]
        clip.looked = Looked.at(batch.times[sorted({i for pair in moments for i in pair})], width, height)
        overall, background, subject = np.array(rows, np.float64).T  # None becomes NaN
        return self.Scores(overall=mean(overall), background=mean(background), subject=mean(subject))

    def moments(self, times: np.ndarray) -> list[tuple[int, int]]:
        """Indices of the frames to compare: those nearest to a start and to `gap` behind it, or the next frame where
        the rate is lower. A pair that the clip's end leaves less than half of `gap` is dropped."""
        steps = np.arange(self.pairs)
        room = max(0.0, times[-1] - self.gap)
        starts = (steps + 0.5) / self.pairs * room if self.every is None else steps * self.every
        found = []
        for start in starts:
            i, j = (int(np.argmin(np.abs(times - time))) for time in (start, start + self.gap))
            j = max(i + 1, j)
            if j < len(times) and times[j] - times[i] >= self.gap / 2:
                found.append((i, j))
        return list(dict.fromkeys(found))

    def speeds(
        self, flow: np.ndarray, first: np.ndarray, tracks: Tracks, t: int
    ) -> tuple[float, float | None, float | None]:
        """The three scores of a pair.

        flow: (320, 576, 2) or (576, 320, 2) px/s in the stretched frame. first: (H, W, 3) RGB, the frame as it is. t:
        its index in the tracks.
        """
        height, width = first.shape[:2]
        true = flow * np.divide((width, height), flow.shape[1::-1], dtype=np.float32) / min(height, width)
        grey = luma(first, self.side)
        small = cv2.resize(true, grey.shape[::-1], interpolation=cv2.INTER_AREA)
        people = person_mask(tracks, t, grey.shape)
        background, subject = regions(small, grey, people, texture=self.texture, least=self.least)
        return float(np.abs(flow).mean()) * self.gap, background, subject

"""Technical and aesthetic quality, graded by DOVER."""

from typing import TYPE_CHECKING

import numpy as np
from pydantic import PrivateAttr

from dataset.media import Frames
from filters import weights
from filters.base import ClipView, Filter, Looked, Measurement, Needs, score
from filters.nets import dover_views as views

if TYPE_CHECKING:
    from filters.nets.dover import Dover

WEIGHTS = {False: "dover/DOVER.pth", True: "dover/DOVER-Mobile.pth"}
UNIT = "raw DOVER score"


def both_views(frame: np.ndarray) -> np.ndarray:
    """A native picture -> (448, 224, 3): its technical fragments, and under them all of it, shrunken.

    The fragments stand in the middle of their cells, so that they are the same whichever clip a frame falls in.
    """
    large = views.enlarged(frame)
    places = views.corners(*large.shape[:2])
    return np.concatenate([views.fragments(large, places[0]), views.resized(frame)])


FRAMES = Frames(fps=30, cut=both_views)


class Clarity(Filter):
    """Perceived sharpness and quality (paper section 2, metric 1: DOVER; it doesn't say which of the scores).

    Frames, fragments and fusion are upstream's, in the middle of the range where it draws at random. But of more than
    30 frames a second only 30 are seen: at 60 fps a technical clip lasts twice as long as upstream's, and at 50 fps its
    steps are uneven. Native pictures have at most 2160 lines.

    Pictures are cut as they are decoded. What is kept takes 9 MB for each second of the clip.
    """

    needs = Needs(frames=(FRAMES,))
    weights = tuple(WEIGHTS.values())

    mobile: bool = False  # DOVER-Mobile: a tenth of the work, and other scores, so that thresholds don't carry over

    _net: "Dover" = PrivateAttr()

    class Scores(Measurement):
        technical: float | None = score(
            unit=UNIT, better="higher", about="blur, noise, compression: three clips of 32 frames; 0.11 on average"
        )
        aesthetic: float | None = score(
            unit=UNIT, better="higher", about="composition, light, colour: 32 frames of the clip; -0.08 on average"
        )
        overall: float | None = score(unit="0 to 1", better="higher", about="of both, as upstream; 0.5 on average")

    def chosen_weights(self) -> tuple[str, ...]:
        return (WEIGHTS[self.mobile],)

    def setup(self) -> None:
        from filters.nets.device import placed
        from filters.nets.dover import load

        self._net = placed(load(weights.path(WEIGHTS[self.mobile]), self.mobile))

    def measure(self, clip: ClipView) -> Scores:
        import torch

        from filters.nets.device import half
        from filters.nets.dover import fuse

        batch, media = clip.frames(FRAMES), clip.clip.media
        images = batch.images
        clip.looked = Looked.at(batch.times, media.width, media.height)
        # A picture of 224x224 is its own view: what was cut on the way in passes through these unchanged.
        clips = views.technical_view(images[i][: views.SIDE] for i in views.technical_frames(len(images)).flat)
        stills = views.aesthetic_view(images[i][views.SIDE :] for i in views.aesthetic_frames(len(images)))
        with torch.inference_mode(), half():
            raw = self._net(clips[None], stills[None])
        technical, aesthetic = (value.float() for value in raw)
        overall = fuse(technical, aesthetic)
        return self.Scores(technical=technical.item(), aesthetic=aesthetic.item(), overall=overall.item())

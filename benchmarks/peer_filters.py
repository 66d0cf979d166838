"""The three measurements of Data-Juicer's operators, as filters of ours, for benchmarks/curation.py to compare.

Motion looks at the very frames that `video_motion_score_filter` (1.6.1) looks at, so the scores must agree; text and
faces are the same measurements by our detectors: three frames for text, every twelfth frame for faces.
"""

from itertools import pairwise

import cv2
import numpy as np
from pydantic import PrivateAttr

from dataset.media import Frames
from filters.base import ClipView, Filter, Measurement, Needs, score
from filters.nets.blaze import FaceDetector
from filters.subtitles import Subtitles

EVERY = 1000.0  # frames a second: more than any clip has, so every frame
MOTION = Frames(EVERY, 360)
FACES = MOTION
TEXT = Frames(2, None)


class PeerMotion(Filter):
    """Mean Farneback flow length in pixels between frames 0, 1, s, 2s, ..., where s is half a second.

    Two slips of Data-Juicer 1.6.1 are followed, so that the scores can be compared: it forgets to jump after its first
    frame, so the first pair is two neighbouring frames; and it takes (height, width) for (width, height) when it
    shrinks a frame, so a picture that isn't square is squeezed into its own shape lying down, or standing up.
    """

    needs = Needs(frames=(MOTION,))

    class Scores(Measurement):
        score: float | None = score(unit="px at 256 px", better="none")

    def measure(self, clip: ClipView) -> Measurement:
        images = clip.frames(MOTION).images
        step = round(clip.clip.media.fps / 2)
        chosen = [images[i] for i in (0, 1, *range(step, len(images), step))]
        squeezed = [cv2.resize(i, squeezed_size(i), interpolation=cv2.INTER_AREA) for i in chosen]
        luma = [cv2.cvtColor(i, cv2.COLOR_RGB2GRAY) for i in squeezed]
        lengths = []
        for first, second in pairwise(luma):
            flow = cv2.calcOpticalFlowFarneback(first, second, None, 0.5, 3, 15, 3, 5, 1.2, 0)  # type: ignore[call-overload]
            lengths.append(float(np.linalg.norm(flow, axis=2).mean()))
        return self.Scores(score=float(np.mean(lengths)))


def squeezed_size(image: np.ndarray) -> tuple[int, int]:
    """(width, height) for cv2.resize: 256 px on the short side, and the sides exchanged."""
    height, width = image.shape[:2]
    long = int(256 * max(height, width) / min(height, width))
    return (256, long) if width >= height else (long, 256)


class PeerText(Subtitles):
    """Share of the frame covered by text, mean of three frames spread over the clip."""

    needs = Needs(frames=(TEXT,))

    class Scores(Measurement):
        area: float | None = score(unit="share of the frame", better="lower")

    def measure(self, clip: ClipView) -> Measurement:
        images = clip.frames(TEXT).images
        picked = np.linspace(0, len(images) - 1, 3).round().astype(int)
        return self.Scores(area=float(np.mean([mask.mean() for mask in self.text_masks([images[i] for i in picked])])))


class PeerFaces(Filter):
    """Share of frames with a face, of every twelfth frame."""

    needs = Needs(frames=(FACES,))
    _net: FaceDetector = PrivateAttr()

    class Scores(Measurement):
        ratio: float | None = score(unit="share of frames", better="none")

    def setup(self) -> None:
        self._net = FaceDetector()

    def measure(self, clip: ClipView) -> Measurement:
        images = clip.frames(FACES).images[::12]
        return self.Scores(ratio=float(np.mean([bool(self._net(image)) for image in images])))

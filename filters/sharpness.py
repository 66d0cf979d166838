"""Laplacian sharpness of faces, mouths and hands."""

import cv2
import numpy as np

from dataset.media import Frames
from dataset.tracks import FACE, LEFT_HAND, RIGHT_HAND, Tracks
from filters.base import ClipView, Filter, Measurement, Needs, score
from filters.faces import dominant

FRAMES = Frames(fps=2, short_side=None)
MOUTH = slice(FACE.start + 48, FACE.start + 68)
HAND_SEEN = 0.5  # confidence from which a hand is believed in
UNIT = "variance of the Laplacian at 128 px / at 43 px"


class Sharpness(Filter):
    """Laplacian sharpness of faces and hands (paper section 2, metric 3; the mouth is ours).

    Crops are cut at native resolution and shrunk to `crop` pixels on the long side, so that the score doesn't depend
    on how large a face is; they are never enlarged, as that would make every small face look blurred. The variance of
    the Laplacian is divided by that of the crop shrunk `coarse` times more, which even a blurred picture keeps: so
    lighting, contrast and smooth skin cancel, and what blur, upscaling or compression took away remains.

    The mouth is compared with the upper half of the same face: a mouth far softer than the eyes above it was blurred or
    painted over, whoever's it is. A Gaussian blur of `denoise` pixels before it keeps noise from looking like detail.
    """

    needs = Needs(frames=(FRAMES,), after=("pose",))

    crop: int = 128  # px
    coarse: float = 3.0
    smallest: int = 48  # px at native resolution; smaller crops say nothing
    denoise: float = 1.0  # px, sigma

    class Scores(Measurement):
        face: float | None = score(unit=UNIT, better="higher", about="dominant face, median at 2 frames/s")
        mouth: float | None = score(
            unit="variance of the Laplacian / that of the upper face", better="higher", about="median at 2 frames/s"
        )
        hand: float | None = score(unit=UNIT, better="higher", about="visible hands, median at 2 frames/s")

    def measure(self, clip: ClipView) -> Scores:
        assert clip.tracks is not None
        batch = clip.frames(FRAMES)
        person = dominant(clip.tracks)
        faces, mouths, hands = [], [], []
        for image, time in zip(batch.images, batch.times, strict=True):
            t = clip.tracks.at(time)
            hands += [
                self.sharpness(luma) for box in hand_boxes(clip.tracks, t) if (luma := self.cut(image, box)) is not None
            ]
            if person is None or np.isnan(clip.tracks.faces[person, t, 0]):
                continue
            box = clip.tracks.faces[person, t]
            luma = self.cut(image, box)
            if luma is not None:
                faces.append(self.sharpness(luma))
                lips = clip.tracks.keypoints[person, t, MOUTH]
                if lips[:, 2].any():  # a backend may know of a face, and not of its points
                    mouths.append(self.mouth(luma, box, around(lips, 0.25)))
        return self.Scores(face=median(faces), mouth=median(mouths), hand=median(hands))

    def cut(self, image: np.ndarray, box: np.ndarray) -> np.ndarray | None:
        """(h, w) float32 luma (0-255) of the image (H, W, 3) RGB in `box` (shares of the frame); None: too small."""
        height, width = image.shape[:2]
        x0, y0, x1, y1 = np.round(np.clip(box, 0, 1) * (width, height, width, height)).astype(int)
        if min(x1 - x0, y1 - y0) < self.smallest:
            return None
        luma = cv2.cvtColor(np.ascontiguousarray(image[y0:y1, x0:x1]), cv2.COLOR_RGB2GRAY).astype(np.float32)
        scale = min(1.0, self.crop / max(luma.shape))
        return cv2.resize(luma, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)

    def sharpness(self, luma: np.ndarray) -> float:
        small = cv2.resize(luma, None, fx=1 / self.coarse, fy=1 / self.coarse, interpolation=cv2.INTER_AREA)
        fine, coarse = (float(cv2.Laplacian(y, cv2.CV_32F).var()) for y in (luma, small))
        return fine / max(coarse, 1.0)

    def mouth(self, luma: np.ndarray, face: np.ndarray, mouth: np.ndarray) -> float:
        """Detail of the mouth relative to the eyes and brows. luma: crop of the face; boxes: shares of the frame."""
        detail = cv2.Laplacian(cv2.GaussianBlur(luma, (0, 0), self.denoise), cv2.CV_32F)
        height, width = luma.shape
        face = np.clip(face, 0, 1)
        at = np.tile((width, height) / (face[2:] - face[:2]), 2) * (np.clip(mouth, 0, 1) - np.tile(face[:2], 2))
        x0, y0, x1, y1 = np.clip(at, 0, (width, height, width, height)).astype(int)
        upper = float(detail[round(0.15 * height) : round(0.55 * height)].var())
        part = detail[y0 : y1 + 1, x0 : x1 + 1]
        return float(part.var()) / max(upper, 1e-6) if part.size else np.nan


def median(values: list[float]) -> float | None:
    known = [value for value in values if np.isfinite(value)]
    return float(np.median(known)) if known else None


def hand_boxes(tracks: Tracks, t: int) -> np.ndarray:
    """(N, 4) boxes, as shares of the frame, of the hands that mostly show at track time t."""
    hands = [points[side] for points in tracks.keypoints[:, t] for side in (LEFT_HAND, RIGHT_HAND)]
    return np.array([around(hand, 0.1) for hand in hands if np.mean(hand[:, 2] > HAND_SEEN) > 0.5]).reshape(-1, 4)


def around(points: np.ndarray, margin: float) -> np.ndarray:
    """(4,) box around (N, 3) keypoints, grown by a share of its own size on each side."""
    low, high = points[:, :2].min(axis=0), points[:, :2].max(axis=0)
    grow = margin * (high - low)
    return np.concatenate([low - grow, high + grow])

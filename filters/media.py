"""Whether there is anything to see and to hear: brightness, black or frozen picture, silence."""

import cv2
import numpy as np

from dataset.media import AUDIO_RATE, FrameBatch, Frames
from filters.base import ClipView, Filter, Measurement, Needs, score

FRAMES = Frames(fps=25, short_side=360)
SILENCE = -120.0  # dBFS reported for digital silence


class Media(Filter):
    """Signal faults that make the later filters meaningless (not in the paper; luminance as in SpeakerVid-5M).

    A picture counts as unchanged when, compared `step` seconds later on block means, less than `still_share` of the
    blocks changed by more than `still_level`. Block means: codec noise averages out, moving lips don't.
    """

    needs = Needs(frames=(FRAMES,), audio=True)

    step: float = 0.2  # s between the compared frames: longer than any repeated frame of a playable rate
    blocks: int = 60  # blocks along the short side
    still_level: float = 3.0  # 8-bit luma
    still_share: float = 0.002  # of the blocks
    black_level: float = 20.0  # 8-bit luma of the brightest 2 % of a black picture
    audible_level: float = -60.0  # dBFS

    class Scores(Measurement):
        luminance: float | None = score(unit="8-bit luma, 0-255", better="middle", about="mean without black bars")
        highlights: float | None = score(
            unit="8-bit luma, 0-255", better="higher", about="98th percentile without black bars; low: underexposed"
        )
        picture: float | None = score(unit="share of the frame", better="higher", about="what black bars leave")
        black: float | None = score(unit="share of time", better="lower", about="98 % of the picture below luma 20")
        frozen: float | None = score(unit="share of time", better="lower", about="picture unchanged over 0.2 s")
        audio_level: float | None = score(unit="dBFS RMS", better="middle", about="whole clip; -120: digital silence")
        audible: float | None = score(unit="share of time", better="higher", about="50 ms windows above -60 dBFS RMS")

    def measure(self, clip: ClipView) -> Scores:
        small, times = self.small_luma(clip.frames(FRAMES))
        shown = without_bars(small, self.black_level)  # bars would make every letterboxed film look underexposed
        picture = {
            "luminance": float(shown.mean()),
            "highlights": float(np.percentile(shown, 98)),
            "picture": shown.size / small.size,
            "black": float(np.mean(np.percentile(small, 98, axis=(1, 2)) < self.black_level)),
            "frozen": self.frozen(small, times),
        }
        if clip.audio is None:
            return self.Scores(**picture)
        count = max(1, len(clip.audio) // (AUDIO_RATE // 20))
        levels = [decibels(piece) for piece in np.array_split(clip.audio, count)]
        audible = float(np.mean(np.array(levels) > self.audible_level))
        return self.Scores(**picture, audio_level=decibels(clip.audio), audible=audible)

    def small_luma(self, batch: FrameBatch) -> tuple[np.ndarray, np.ndarray]:
        """(N, rows, columns) float32 block means of the luma every `step` seconds, and their (N,) times."""
        picked = [0]
        for i, time in enumerate(batch.times):
            if time - batch.times[picked[-1]] >= self.step - 0.01:
                picked.append(i)
        height, width = batch.images[0].shape[:2]
        scale = self.blocks / min(height, width)
        size = max(1, round(width * scale)), max(1, round(height * scale))
        luma = [cv2.cvtColor(batch.images[i], cv2.COLOR_RGB2GRAY).astype(np.float32) for i in picked]
        return np.stack([cv2.resize(y, size, interpolation=cv2.INTER_AREA) for y in luma]), batch.times[picked]

    def frozen(self, small: np.ndarray, times: np.ndarray) -> float | None:
        if len(times) < 2:
            return None
        changed = (np.abs(np.diff(small, axis=0)) > self.still_level).mean(axis=(1, 2))
        return float(np.average(changed < self.still_share, weights=np.diff(times)))


def without_bars(small: np.ndarray, level: float) -> np.ndarray:
    """(N, rows, columns) without the rows and columns at the edges that stay darker than `level` all the time."""
    brightest = small.max(axis=0) > level
    rows, columns = np.flatnonzero(brightest.any(axis=1)), np.flatnonzero(brightest.any(axis=0))
    return small[:, rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] if len(rows) else small


def decibels(samples: np.ndarray) -> float:
    """RMS in dBFS: 0 is a full-scale square wave."""
    power = float(np.mean(np.square(samples, dtype=np.float64))) if len(samples) else 0.0
    return max(SILENCE, 10 * np.log10(power)) if power > 0 else SILENCE

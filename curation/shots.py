"""Where a source is cut: PySceneDetect's adaptive detector over small pictures of the one ingest pass."""

import math
from itertools import pairwise

import cv2
import numpy as np
from scenedetect import FrameTimecode
from scenedetect.detectors import AdaptiveDetector

from curation.recipe import Shots


class ShotSplitter:
    """Sees every frame of a source once; `spans()` are the clips."""

    def __init__(self, shots: Shots):
        self.shots = shots
        self.times: list[float] = []
        self.cuts: list[int] = []  # frame numbers that start a new shot
        self.detector = AdaptiveDetector(
            adaptive_threshold=shots.adaptive_threshold, min_content_val=shots.min_content, min_scene_len=1
        )

    def see(self, time: float, image: np.ndarray) -> None:
        # The detector counts frames; their real times are kept here, so variable frame rates cut at the right place.
        timecode = FrameTimecode(len(self.times), fps=25.0)
        self.times.append(time)
        self.cuts += [cut.frame_num for cut in self.detector.process_frame(timecode, image)]

    def spans(self, duration: float) -> list[tuple[float, float]]:
        """(start, end) in seconds: shots, and equal pieces of the shots longer than `max_seconds`."""
        edges = [0.0, *sorted({self.times[c] for c in self.cuts if 0 < c < len(self.times)}), duration]
        pieces: list[tuple[float, float]] = []
        for start, end in pairwise(edges):
            count = max(1, math.ceil((end - start) / self.shots.max_seconds - 1e-6))
            marks = [round(start + (end - start) * k / count, 3) for k in range(count + 1)]
            pieces += pairwise(marks)
        return pieces


class Posters:
    """Sees every frame of a source once, and keeps one small picture a second."""

    def __init__(self) -> None:
        self.times: list[float] = []
        self.jpegs: list[bytes] = []

    def see(self, time: float, image: np.ndarray) -> None:
        if not self.times or time >= self.times[-1] + 1:
            self.times.append(time)
            self.jpegs.append(cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 75])[1].tobytes())

    def of(self, start: float, end: float) -> bytes:
        """The JPEG nearest to the middle of a span."""
        return self.jpegs[int(np.argmin(np.abs(np.array(self.times) - (start + end) / 2)))]

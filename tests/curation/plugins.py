"""Filters from outside the package, for tests: cheap ones, one that counts its calls, one that misbehaves."""

import ctypes
import os
import time

from dataset.media import Frames
from filters.base import ClipView, Filter, Measurement, Needs, score


class Brightness(Filter):
    needs = Needs(frames=(Frames(5, 48),))
    log: str = ""  # a file that gets a line for every measured clip
    level: int = 0  # changes the filter's identity

    class Scores(Measurement):
        mean: float | None = score(unit="0-255", better="none")

    def measure(self, clip: ClipView) -> Measurement:
        write_line(self.log, "brightness", clip)
        images = clip.frames(self.needs.frames[0]).images
        return self.Scores(mean=float(sum(i.mean() for i in images) / len(images)))


class Loudness(Filter):
    needs = Needs(audio=True)
    log: str = ""
    level: int = 0

    class Scores(Measurement):
        peak: float | None = score(unit="0-1", better="higher")

    def measure(self, clip: ClipView) -> Measurement:
        write_line(self.log, "loudness", clip)
        return self.Scores(peak=None if clip.audio is None else float(abs(clip.audio).max()))


class Trouble(Filter):
    """Does to its worker what a source's name asks for."""

    needs = Needs(frames=(Frames(2, 48),))

    class Scores(Measurement):
        fine: float | None = score(unit="0 or 1", better="higher")

    def measure(self, clip: ClipView) -> Measurement:
        name = os.path.basename(clip.clip.source)
        if name.startswith("later") and clip.clip.start == 0:
            return self.Scores(fine=1.0)
        if "segfault" in name:
            ctypes.string_at(0)
        if "hang" in name:
            time.sleep(3600)
        if "raise" in name:
            raise ValueError("no good")
        return self.Scores(fine=1.0)


class Slow(Filter):
    """Takes its time, so that there is something to kill; no more once the file `hurry` is there."""

    needs = Needs(frames=(Frames(5, 48),))
    seconds: float
    hurry: str

    class Scores(Measurement):
        mean: float | None = score(unit="0-255", better="none")

    def measure(self, clip: ClipView) -> Measurement:
        end = time.monotonic() + self.seconds
        while time.monotonic() < end and not os.path.exists(self.hurry):
            time.sleep(0.05)
        images = clip.frames(self.needs.frames[0]).images
        return self.Scores(mean=float(sum(i.mean() for i in images) / len(images)))


def write_line(log: str, name: str, clip: ClipView) -> None:
    if log:
        with open(log, "a") as f:
            f.write(f"{name} {clip.clip.clip_id}\n")

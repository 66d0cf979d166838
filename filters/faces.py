"""Whether a consistent, large enough face is visible."""

import numpy as np

from dataset.tracks import Tracks
from filters.base import ClipView, Filter, Measurement, Needs, score


class Faces(Filter):
    """Consistent and visible human faces throughout the sequence (paper section 2, pose tracking)."""

    needs = Needs(after=("pose",))

    class Scores(Measurement):
        visible: float | None = score(unit="share of time", better="higher", about="times with at least one face")
        dominant: float | None = score(unit="share of time", better="higher", about="times with the dominant face")
        count: float | None = score(unit="faces", better="lower", about="median number of faces over time")
        height: float | None = score(unit="share of the frame's height", better="higher", about="dominant face, median")
        area: float | None = score(unit="share of the frame", better="higher", about="box of the dominant face, median")

    def measure(self, clip: ClipView) -> Scores:
        assert clip.tracks is not None
        person = dominant(clip.tracks)
        if person is None:
            return self.Scores(visible=0.0, dominant=0.0, count=0.0)
        seen = visible(clip.tracks)
        x0, y0, x1, y1 = clip.tracks.faces[person][seen[person]].T
        return self.Scores(
            visible=float(seen.any(axis=0).mean()),
            dominant=float(seen[person].mean()),
            count=float(np.median(seen.sum(axis=0))),
            height=float(np.median(y1 - y0)),
            area=float(np.median((x1 - x0) * (y1 - y0))),
        )


def visible(tracks: Tracks) -> np.ndarray:
    """(P, T) bool: does this person's face show at this time?"""
    return np.isfinite(tracks.faces[..., 0])


def dominant(tracks: Tracks) -> int | None:
    """Index of the person whose face fills the most picture over the clip (area summed over time); None: no face."""
    if not visible(tracks).any():
        return None
    x0, y0, x1, y1 = np.moveaxis(tracks.faces, 2, 0)
    return int(np.argmax(np.nansum((x1 - x0) * (y1 - y0), axis=1)))

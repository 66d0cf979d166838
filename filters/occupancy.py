"""How much of the frame, and of the time, people take up."""

import numpy as np

from dataset.tracks import Tracks
from filters.base import ClipView, Filter, Measurement, Needs, score
from filters.media import Media


class Occupancy(Filter):
    """People who occupy a negligible portion in time or in space (paper section 2, pose tracking).

    Space is what black bars leave of the frame: a letterboxed close-up is still a close-up.
    """

    needs = Needs(after=("pose", "media"))

    grid: int = 128  # cells along each side on which the union of the boxes is counted

    class Scores(Measurement):
        area: float | None = score(
            unit="share of the picture", better="higher", about="union of body boxes, median over times with a person"
        )
        time: float | None = score(unit="share of time", better="higher", about="times with at least one person")

    def measure(self, clip: ClipView) -> Scores:
        assert clip.tracks is not None
        seen = np.isfinite(clip.tracks.boxes).all(axis=-1).any(axis=0)
        if not seen.any():
            return self.Scores(area=0.0, time=0.0)
        area = float(np.median(self.covered(clip.tracks)[seen])) / picture_share(clip)
        return self.Scores(area=min(1.0, area), time=float(seen.mean()))

    def covered(self, tracks: Tracks) -> np.ndarray:
        """(T,) share of the frame that lies in any body box."""
        cells = (np.arange(self.grid) + 0.5) / self.grid
        x0, y0, x1, y1 = np.moveaxis(tracks.boxes[..., None], 2, 0)  # (P, T, 1) each; NaN compares as outside
        across, down = (cells >= x0) & (cells < x1), (cells >= y0) & (cells < y1)
        return (down[..., :, None] & across[..., None, :]).any(axis=0).mean(axis=(1, 2))


def picture_share(clip: ClipView) -> float:
    """Share of the frame that is not black bars, as the media filter measured it."""
    media = clip.measured["media"]
    assert isinstance(media, Media.Scores)
    return media.picture or 1.0

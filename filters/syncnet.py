"""Are lips and sound in sync? SyncNet: LSE-C, LSE-D, offset."""

from typing import TYPE_CHECKING

import numpy as np
from pydantic import PrivateAttr

from dataset.media import AUDIO_RATE, Frames
from filters import weights
from filters.active_speaker import HOP, RATE, Stretch, pcm16, stretches
from filters.base import ClipView, Filter, Measurement, Needs, score
from filters.nets.face_crop import face_regions

if TYPE_CHECKING:
    from filters.nets.syncnet import Fit
    from filters.nets.syncnet import SyncNet as Net

FRAMES = Frames(fps=25, short_side=360)
WEIGHTS = "syncnet/syncnet_v2.model"


class SyncNet(Filter):
    """Audio that isn't synchronised with the speaker (paper section 2, there by Light-ASD, which doesn't notice it).

    Scores are of the face that fits best, over its longest uninterrupted stretch. Upstream crops faces of S3FD from
    native frames; here they are those of the tracks, enlarged to S3FD's size, at 360 lines. What that changes was
    not measured.
    """

    needs = Needs(frames=(FRAMES,), audio=True, after=("pose",))
    weights = (WEIGHTS,)

    least_seconds: float = 2.0  # of visible face; shorter stretches are not judged

    _net: "Net" = PrivateAttr()

    class Scores(Measurement):
        confidence: float | None = score(
            unit="LSE-C", better="higher", about="median distance over offsets minus the least; real speech has 6 to 9"
        )
        distance: float | None = score(unit="LSE-D", better="lower", about="least distance of lips and sound")
        offset: float | None = score(unit="s", better="none", about="where it is; + = audio is late; up to 0.6 s")

    @classmethod
    def name(cls) -> str:
        return "syncnet"

    def setup(self) -> None:
        from filters.nets.device import placed
        from filters.nets.syncnet import load

        self._net = placed(load(weights.path(WEIGHTS)))

    def measure(self, clip: ClipView) -> Scores:
        assert clip.tracks is not None
        if clip.audio is None:
            return self.Scores()
        grid = np.arange(int(min(clip.clip.seconds, len(clip.audio) / AUDIO_RATE) * RATE)) / RATE
        longest: dict[int, Stretch] = {}
        for seen in stretches(clip.frames(FRAMES), clip.tracks, grid):
            known = longest.setdefault(seen.person, seen)
            if len(seen.images) > len(known.images):
                longest[seen.person] = seen
        enough = [seen for seen in longest.values() if len(seen.images) >= self.least_seconds * RATE]
        fits = [found for seen in enough if (found := self.fit(seen, clip.audio))]
        if not fits:
            return self.Scores()
        best = max(fits, key=lambda fit: fit.confidence)
        return self.Scores(confidence=best.confidence, distance=best.distance, offset=best.offset / RATE)

    def fit(self, seen: Stretch, audio: np.ndarray) -> "Fit | None":
        """Of a face; None where it isn't seen for long enough to compare anything."""
        from filters.nets.syncnet import evaluate

        # Not in half precision on a GPU: the network takes colours from 0 to 255, whose sums may leave its range.
        sound = pcm16(audio)[seen.run.start * HOP : seen.run.stop * HOP]
        return evaluate(self._net, face_regions(seen.images, seen.boxes), sound)

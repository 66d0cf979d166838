"""Who speaks, by lips and voice together: Light-ASD."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from pydantic import PrivateAttr

from dataset.media import AUDIO_RATE, FrameBatch, Frames
from dataset.tracks import Tracks
from filters import weights
from filters.base import ClipView, Filter, Measurement, Needs, score
from filters.faces import visible
from filters.nets.face_crop import face_crops
from filters.sync import voice_level

if TYPE_CHECKING:
    from filters.nets.light_asd import LightASD

FRAMES = Frames(fps=25, short_side=360)  # talkers' scores are the same with native pictures
WEIGHTS = "light-asd/pretrain_AVA_CVPR.model"
RATE = 25  # Hz at which the network sees
HOP = AUDIO_RATE // RATE  # samples of sound per frame
TAIL = 160  # samples that the last frame needs beyond it
BRIDGE = 0.4  # s without a face that are interpolated: upstream's 10 frames
SHORTEST = 10  # frames with a face in a row that are judged, about as upstream
# Upstream finds faces with S3FD, whose boxes reach up to the hair; those of our tracks end at the forehead. MTCNN's,
# trained on the same labels as S3FD, are 1.1 times as large (median of 10 clips; from 1.05 to 1.3). They also lie 0.06
# higher, which is not followed: talkers score no better for it.
S3FD_SIZE = 1.1


class ActiveSpeaker(Filter):
    """Clips in which nobody who is seen speaks (paper section 2: "no active speaker exists in the scene").

    The paper has Light-ASD find audio out of sync, too. It can't: it answers whether a mouth moves while there is a
    voice, and hardly notices speech that is shifted, reversed or another person's (docs/active_speaker.md). A face that
    speaks here may speak to the wrong sound; that is left to `syncnet` and `sync`.

    A face is judged where it is seen for 0.4 s and more; where it isn't seen, it doesn't speak. With several faces, the
    scores are those of the one that speaks most. A frame has sound where the band of voices is at most `quiet` below
    its 95th percentile, so all frames of digital silence do.
    """

    needs = Needs(frames=(FRAMES,), audio=True, after=("pose",))
    weights = (WEIGHTS,)

    quiet: float = 25.0  # dB
    active_share: float = 0.4  # of the frames with sound that a face speaks in, from which it counts as active

    _net: "LightASD" = PrivateAttr()

    class Scores(Measurement):
        speaking: float | None = score(
            unit="share of frames with sound", better="higher", about="where the logit is above 0"
        )
        logit: float | None = score(unit="logit", better="higher", about="mean over the frames where the face is seen")
        active_time: float | None = score(unit="s", better="higher", about="frames with a logit above 0")
        person: int | None = score(unit="track id", better="none", about="whose face speaks most")
        active: int | None = score(
            unit="faces", better="middle", about="that speak in `active_share` of the frames with sound"
        )

    def setup(self) -> None:
        from filters.nets.device import placed
        from filters.nets.light_asd import load

        self._net = placed(load(weights.path(WEIGHTS)))

    def measure(self, clip: ClipView) -> Scores:
        from filters.nets.light_asd import scores

        assert clip.tracks is not None
        if clip.audio is None:
            return self.Scores()
        grid = time_grid(clip.audio)
        logits = np.full((len(clip.tracks.ids), len(grid)), np.nan)
        for person, run, crops in faces(clip.frames(FRAMES), clip.tracks, grid):
            sound = pcm16(clip.audio[run.start * HOP : run.stop * HOP + TAIL])
            logits[person, run] = scores(self._net, crops, sound)
        seen, speaks = np.isfinite(logits), logits > 0
        if not seen.any():
            return self.Scores()
        shares = speaks[:, with_sound(clip.audio, grid, self.quiet)].mean(axis=1)
        best = int(np.argmax(np.where(seen.any(axis=1), shares, -1.0)))
        return self.Scores(
            speaking=float(shares[best]),
            logit=float(logits[best, seen[best]].mean()),
            active_time=float(speaks[best].sum()) / RATE,
            person=int(clip.tracks.ids[best]),
            active=int((shares >= self.active_share).sum()),
        )


def time_grid(audio: np.ndarray) -> np.ndarray:
    """(N,) seconds of the frames that the network sees: those that have all their sound."""
    return np.arange(max(0, len(audio) - TAIL) // HOP) / RATE


def with_sound(audio: np.ndarray, grid: np.ndarray, quiet: float) -> np.ndarray:
    """(N,) bool: is the band of voices at most `quiet` dB below its loudest 5 %?"""
    level = voice_level(audio, grid)
    return level > np.percentile(level, 95) - quiet


def pcm16(audio: np.ndarray) -> np.ndarray:
    """float32 in -1 to 1 -> int16, as a file would hold it."""
    return np.clip(np.rint(audio * 32768), -32768, 32767).astype(np.int16)


class Stretch(NamedTuple):
    """Neighbouring times of a grid in which a face is seen.

    person: index in the tracks. run: which times. images: the frame that lies nearest to each, (H, W, 3). boxes: (T, 4)
    x0, y0, x1, y1 in their pixels, as S3FD would draw them.
    """

    person: int
    run: slice
    images: list[np.ndarray]
    boxes: np.ndarray


def stretches(batch: FrameBatch, tracks: Tracks, grid: np.ndarray) -> Iterator[Stretch]:
    """Of every person. Frames are repeated and dropped as upstream does for its 25 fps."""
    height, width = batch.images[0].shape[:2]
    nearest = np.abs(batch.times - grid[:, None]).argmin(axis=1)
    for person in range(len(tracks.ids)):
        boxes = face_boxes(tracks, person, grid) * (width, height, width, height)
        for run in runs(np.isfinite(boxes[:, 0])):
            yield Stretch(person, run, [batch.images[i] for i in nearest[run]], enlarged(boxes[run]))


def faces(batch: FrameBatch, tracks: Tracks, grid: np.ndarray) -> Iterator[tuple[int, slice, np.ndarray]]:
    """Person and run of every stretch, and (T, 112, 112) uint8 crops of the face."""
    for seen in stretches(batch, tracks, grid):
        yield seen.person, seen.run, face_crops(seen.images, seen.boxes)


def runs(seen: np.ndarray) -> list[slice]:
    """(N,) bool -> the stretches of True that are long enough to be judged."""
    edges = np.flatnonzero(np.diff(seen, prepend=False, append=False)).tolist()
    return [slice(a, b) for a, b in zip(edges[::2], edges[1::2], strict=True) if b - a >= SHORTEST]


def face_boxes(tracks: Tracks, person: int, grid: np.ndarray) -> np.ndarray:
    """(N, 4) boxes of a face in shares of the frame at the times of `grid`; NaN where it isn't seen, nor was or will be
    within half of `BRIDGE`."""
    seen = visible(tracks)[person]
    if not seen.any():
        return np.full((len(grid), 4), np.nan)
    times = tracks.times[seen]
    boxes = np.stack([np.interp(grid, times, side) for side in tracks.faces[person, seen].T], axis=1)
    boxes[np.abs(times - grid[:, None]).min(axis=1) > BRIDGE / 2 + 1e-6] = np.nan
    return boxes


def enlarged(boxes: np.ndarray) -> np.ndarray:
    """(N, 4) boxes x0, y0, x1, y1 as S3FD would draw them."""
    middle, half = (boxes[:, :2] + boxes[:, 2:]) / 2, S3FD_SIZE / 2 * (boxes[:, 2:] - boxes[:, :2])
    return np.concatenate([middle - half, middle + half], axis=1)

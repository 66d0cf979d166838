"""Who is who among boxes that a detector found in one frame after another."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from filters.nets.regions import iou

EXPECTED = 0.2  # IoU with the place where somebody is expected from which a box is theirs
NEAR = 0.1  # the same with the surroundings of the place where somebody was last seen
DOUBLE = 0.7  # IoU with somebody's box from which another box is the same person once more
COAST = 0.4  # seconds that somebody unseen is thought to keep moving
FORGET = 2.0  # seconds after which somebody seen again in the same place is somebody new


@dataclass(eq=False)
class BoxTrack:
    """One person. boxes: (4,) x0, y0, x1, y1 in pixels by frame number. velocity: (2,) of the middle, pixels/s."""

    id: int
    boxes: dict[int, np.ndarray]
    last: np.ndarray
    time: float  # seconds at which it was seen last
    velocity: np.ndarray

    @property
    def size(self) -> float:
        """Area summed over the boxes."""
        return float(sum(np.prod(box[2:] - box[:2]) for box in self.boxes.values()))

    def expected(self, time: float) -> np.ndarray:
        return self.last + np.tile(self.velocity * min(time - self.time, COAST), 2)

    def around(self) -> np.ndarray:
        """The last box and half its width on all sides: people turn round, and start to run."""
        half = (self.last[2] - self.last[0]) / 2
        return self.last + half * np.array([-1, -1, 1, 1])

    def saw(self, box: np.ndarray, frame: int, time: float) -> None:
        moved = (middle(box) - middle(self.last)) / (time - self.time)
        known = len(self.boxes) > 1 and time - self.time <= COAST
        self.velocity = (self.velocity + moved) / 2 if known else moved
        self.boxes[frame], self.last, self.time = box, box, time


def middle(box: np.ndarray) -> np.ndarray:
    return (box[:2] + box[2:]) / 2


def track_boxes(found: Sequence[np.ndarray], frames: Sequence[int], times: np.ndarray) -> list[BoxTrack]:
    """Join the boxes (N, 4) found in some frames to people. frames: their numbers. times: (T,) seconds of all frames.

    A box belongs to whom it overlaps most where they should be by now, moving on as they did, so that two who cross
    keep apart. Who was seen at the look before comes first: of two who meet, the one in front is seen. What nobody was
    expected at belongs to who was last seen near it, and came back or began to run; else to a newcomer.
    """
    everybody: list[BoxTrack] = []
    before = -np.inf
    for boxes, frame in zip(found, frames, strict=True):
        time, free = float(times[frame]), list(boxes)
        live = [track for track in everybody if time - track.time <= FORGET]
        expected = {track.id: track.expected(time) for track in live}
        around = {track.id: track.around() for track in live}
        fresh = [track for track in live if track.time == before]
        for group, places, least in ((fresh, expected, EXPECTED), (live, expected, EXPECTED), (live, around, NEAR)):
            lost = [track for track in group if track.time < time]
            pairs = match(np.array([places[track.id] for track in lost]), np.array(free), least)
            for n, i in pairs.items():
                lost[i].saw(free[n], frame, time)
            free = [box for n, box in enumerate(free) if n not in pairs]
        for box in free:
            if all(iou(box, track.last) <= DOUBLE for track in everybody if track.time == time):
                everybody.append(BoxTrack(len(everybody), {frame: box}, box, time, np.zeros(2)))
        before = time
    return everybody


def match(places: np.ndarray, boxes: np.ndarray, least: float) -> dict[int, int]:
    """Box number -> place number, the pairs of highest IoU first."""
    pairs: dict[int, int] = {}
    if not len(places) or not len(boxes):
        return pairs
    overlap = iou(boxes[:, None], places[None])
    for n, i in zip(*np.unravel_index(np.argsort(-overlap, axis=None), overlap.shape), strict=True):
        if overlap[n, i] < least:
            break
        if n not in pairs and i not in pairs.values():
            pairs[int(n)] = int(i)
    return pairs

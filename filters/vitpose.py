"""Who is in the clip, where, and in which pose, by the paper's networks: ViTPose, and DWPose for faces and hands."""

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field, PrivateAttr

from dataset.media import JITTER
from dataset.tracks import BODY, FACE, KEYPOINTS
from filters import weights
from filters.base import ClipView, Filter, Looked, Measurement, Needs
from filters.nets import dwpose
from filters.nets.box_tracker import BoxTrack, track_boxes
from filters.nets.layouts import SEEN, face_box, from_coco, from_whole_body
from filters.nets.track_series import BRIDGE, Followed, as_tracks, series, smooth
from filters.pose import FRAMES, Pose

RT_DETR, VITPOSE = "rtdetr_r50vd_coco_o365", "vitpose-base-simple"  # directories
# Gaps that are interpolated, in steps from look to look, whose length varies with the rate of the clip.
NEXT, MISSED = 1.5, 2.5  # up to the next look, or the one behind it

Images = Sequence[np.ndarray]


class Vitpose(Filter):
    """People over time (paper section 2: ViTPose tracks, converted to DWPose): the tracks of `pose` by other networks.

    A detector looks for people `detect_fps` times a second, and what it finds is joined to tracks of boxes. In these,
    bodies, faces and hands are measured `pose_fps` times a second. Bodies and hands are smoothed lightly; all is
    interpolated to every frame. With `bodies="vitpose"` people are found by RT-DETR and their bodies measured by
    ViTPose; with "dwpose", YOLOX and DWPose do both. An empty picture holds nobody: upstream's DWPose would take it
    whole for a person.

    Without `details`, ViTPose's bodies come without hands, and with faces that are boxes around nose, eyes and ears:
    their 68 points have confidence 0, so lips aren't measured. Those who want the speed of lips need pose_fps=25.
    """

    needs = Needs(frames=(FRAMES,))
    stands_for = "pose"
    weights = (RT_DETR, VITPOSE, dwpose.DETECTOR, dwpose.POSE)

    bodies: Literal["vitpose", "dwpose"] = "vitpose"
    details: bool = True  # faces and hands by DWPose, which `bodies="dwpose"` measures anyway
    max_people: int = Field(4, gt=0)  # those who fill most of the picture over time
    detect_fps: float = Field(5, gt=0)
    pose_fps: float = Field(12.5, gt=0)

    Scores: ClassVar[type[Measurement]] = Pose.Scores

    _detect: Callable[[Images], list[np.ndarray]] = PrivateAttr()
    _whole: Any = PrivateAttr(default=None)  # DWPose; None: not asked for
    _body: Any = PrivateAttr(default=None)  # ViTPose

    def chosen_weights(self) -> tuple[str, ...]:
        if self.bodies == "dwpose":
            return dwpose.DETECTOR, dwpose.POSE
        return (RT_DETR, VITPOSE, dwpose.POSE) if self.details else (RT_DETR, VITPOSE)

    def setup(self) -> None:
        if dwpose.POSE in self.chosen_weights():
            self._whole = dwpose.WholeBodyNet()
        if self.bodies == "dwpose":
            self._detect = dwpose.YoloxDetector()
            return
        from filters.nets.people_detector import RTDetrDetector
        from filters.nets.vitpose import VitposeNet

        self._detect, self._body = RTDetrDetector(weights.path(RT_DETR)), VitposeNet(weights.path(VITPOSE))

    def measure(self, clip: ClipView) -> Measurement:
        batch = clip.frames(FRAMES)
        height, width = batch.images[0].shape[:2] if len(batch) else (1, 1)
        looks, moments = beat(batch.times, self.detect_fps), beat(batch.times, self.pose_fps)
        found = track_boxes(self._detect([batch.images[i] for i in looks]), looks, batch.times)
        people = sorted(found, key=lambda track: -track.size)[: self.max_people]
        boxes = [dense_boxes(track, batch.times, max(BRIDGE, MISSED / self.detect_fps)) for track in people]
        wanted = [(p, i) for p in range(len(people)) for i in moments if np.isfinite(boxes[p][i, 0])]
        joints = self._joints([batch.images[i] for _, i in wanted], np.array([boxes[p][i] for p, i in wanted]))
        samples: list[dict[int, np.ndarray]] = [{} for _ in people]
        for (p, i), points in zip(wanted, joints, strict=True):
            samples[p][i] = points
        shown = [
            self._followed(track.id, inside(b, width, height), s, moments, batch.times)
            for track, b, s in zip(people, boxes, samples, strict=True)
        ]
        clip.tracks = as_tracks(shown, batch.times, width, height)
        if len(batch):
            seen = sorted({*looks, *(i for _, i in wanted)})
            clip.looked = Looked.at(batch.times[seen], width, height)
        return Pose.Scores.of(clip.tracks)

    def _joints(self, images: Images, boxes: np.ndarray) -> np.ndarray:
        """(N, 128, 3) x, y in pixels, confidence 0 to 1, of the person in the box (4,) of each of N images."""
        if not len(boxes):
            return np.zeros((0, KEYPOINTS, 3))
        joints = from_whole_body(self._whole(images, boxes)) if self._whole else np.zeros((len(boxes), KEYPOINTS, 3))
        if self._body:
            joints[:, BODY] = from_coco(self._body(images, boxes))
        joints[..., 2] = joints[..., 2].clip(0, 1)
        return joints

    def _followed(
        self, number: int, boxes: np.ndarray, samples: dict[int, np.ndarray], moments: list[int], times: np.ndarray
    ) -> Followed:
        """One person in every frame. boxes: (T, 4) pixels. samples: (128, 3) by frame number, some of `moments`.

        Faces are not smoothed, and not made up where a sample does not show them.
        """
        gap = max(BRIDGE, NEXT / self.pose_fps)
        keypoints = series(samples, (KEYPOINTS, 3), times, gap=gap, smoothed=lambda v: smooth(settled(v)))
        shown = {i: box.reshape(2, 2) for i, points in samples.items() if (box := face_box(points)) is not None}
        keypoints[:, FACE] = between(moments, {i: samples[i][FACE] for i in shown}, (68, 3), times)
        return Followed(number, keypoints, boxes, between(moments, shown, (2, 2), times).reshape(-1, 4))


def beat(times: np.ndarray, fps: float) -> list[int]:
    """Numbers of the frames to look at: the first one in each 1/fps, by the rule that took them from the file."""
    slots = ((times - times[:1] + JITTER) * fps).astype(int)
    return np.flatnonzero(np.diff(slots, prepend=-1)).tolist()


def between(
    moments: list[int], samples: dict[int, np.ndarray], shape: tuple[int, int], times: np.ndarray
) -> np.ndarray:
    """(T, *shape) from samples at some of `moments`: interpolated from one moment to the next, held where that has
    none, NaN elsewhere. However uneven the frames are in time, none between two samples is left out."""
    known = np.stack([samples.get(i, np.full(shape, np.nan)) for i in moments])
    before = np.searchsorted(moments, np.arange(len(times)), side="right") - 1
    after = np.minimum(before + 1, len(moments) - 1)
    start = times[moments][before]
    share = (times - start) / np.maximum(times[moments][after] - start, 1e-9)
    a, b, share = known[before], known[after], np.where(after > before, share, 0.0)[:, None, None]
    return np.where(np.isnan(b), a, (1 - share) * a + share * b)


def dense_boxes(track: BoxTrack, times: np.ndarray, gap: float) -> np.ndarray:
    """(T, 4) boxes in pixels, smoothed, interpolated over absences of at most `gap` seconds; NaN where nobody is."""
    corners = {frame: box.reshape(2, 2) for frame, box in track.boxes.items()}
    return series(corners, (2, 2), times, gap=gap).reshape(-1, 4)


def inside(boxes: np.ndarray, width: int, height: int) -> np.ndarray:
    """(T, 4) boxes in pixels from the edge of the frame -> what lies in it, in pixels from the middle of the first."""
    return boxes.clip(0, np.tile([width, height], 2)) - 0.5


def settled(samples: np.ndarray) -> np.ndarray:
    """(N, K, 3) with the places of points that were not seen taken from the samples before and after where they were.

    A network that sees nothing names any place, which smoothing would mix into those that it saw.
    """
    samples, number = samples.copy(), np.arange(len(samples))
    known = samples[..., 2] >= SEEN
    for k in np.flatnonzero(known.any(axis=0) & ~known.all(axis=0)):
        at = known[:, k]
        for axis in (0, 1):
            samples[~at, k, axis] = np.interp(number[~at], number[at], samples[at, k, axis])
    return samples

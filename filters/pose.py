"""Who is in the clip, where, and in which pose: the tracks that other filters and the training read."""

import numpy as np
from pydantic import PrivateAttr

from dataset.media import Frames
from dataset.tracks import BODY, FACE, KEYPOINTS, LEFT_HAND, RIGHT_HAND, Tracks
from filters.base import ClipView, Filter, Measurement, Needs, score
from filters.nets import blaze
from filters.nets.blaze import Face
from filters.nets.people import PeopleTracker
from filters.nets.person import Person
from filters.nets.track_series import Followed, as_tracks, bridge, series

FRAMES = Frames(fps=25, short_side=360)
LASTING = 0.2  # share of the clip that a person must be seen to count
FACE_ALONE = 0.98  # score of the mesh network that a face needs where no body was ever found below it
VISIBLE = 0.5  # confidence from which a body point counts as seen

# BlazePose-33 -> OpenPose-18. The neck (1) is the middle of the shoulders and is filled in afterwards.
BODY_FROM_BLAZE = [0, 0, 12, 14, 16, 11, 13, 15, 24, 26, 28, 23, 25, 27, 5, 2, 8, 7]
NECK, R_SHOULDER, L_SHOULDER = 1, 2, 5
HEAD = [0, 14, 15]  # nose and eyes, of OpenPose
L_SHOULDER_BLAZE, R_SHOULDER_BLAZE = 11, 12
LIMBS = ((11, 13), (12, 14), (13, 15), (14, 16), (11, 23), (12, 24), (23, 25), (24, 26), (25, 27), (26, 28))
# Nose, eyes and ears of OpenPose from FaceMesh: means of two points each, finer than the body network's.
HEAD_FROM_MESH = {0: (4, 4), 14: (33, 133), 15: (263, 362), 16: (127, 234), 17: (356, 454)}
EARS = [16, 17]
# FaceMesh-468 -> iBUG-68. iBUG counts from the person's right, which is the picture's left.
IBUG_FROM_MESH = [
    *(127, 234, 132, 58, 172, 136, 149, 148, 152, 377, 378, 365, 397, 288, 361, 454, 356),  # jaw, over the chin
    *(70, 63, 105, 66, 107),  # right brow, from outside
    *(336, 296, 334, 293, 300),  # left brow, from inside
    *(168, 197, 195, 4),  # bridge of the nose, downwards
    *(98, 97, 2, 326, 327),  # under the nose
    *(33, 160, 158, 133, 153, 144),  # right eye, over the upper lid
    *(362, 385, 387, 263, 373, 380),  # left eye
    *(61, 39, 37, 0, 267, 269, 291, 405, 314, 17, 84, 181),  # outer lip: corner, upper, corner, lower
    *(78, 82, 13, 312, 308, 317, 14, 87),  # inner lip
]


class Pose(Filter):
    """People over time: faces in every frame (lip motion is read from them), bodies and hands a few times a second.

    Faces are not smoothed. Bodies and hands are smoothed lightly over time and interpolated to every frame.
    """

    version = 1
    needs = Needs(frames=(FRAMES,))
    weights = blaze.WEIGHTS

    max_people: int = 4
    body_fps: float = 6.25  # bodies and hands measured a second: every fourth frame of 25
    detect_every: float = 0.36  # seconds between looks for new faces; for new bodies twice that

    class Scores(Measurement):
        people: int | None = score(
            unit="people", better="middle", about="tracks seen in at least 20 % of the sampled frames"
        )
        longest: float | None = score(
            unit="share of sampled frames", better="higher", about="frames in which the main person is seen"
        )
        confidence: float | None = score(
            unit="0 to 1",
            better="higher",
            about="mean confidence of the main person's nose and eyes in the frames where the person is seen",
        )

        @classmethod
        def of(cls, tracks: Tracks) -> "Pose.Scores":
            seen = np.isfinite(tracks.boxes[:, :, 0])
            if not len(seen):
                return cls(people=0, longest=0.0)
            head = tracks.keypoints[0, seen[0]][:, HEAD, 2]
            return cls(
                people=int((seen.mean(axis=1) >= LASTING).sum()),
                longest=round(float(seen[0].mean()), 4),
                confidence=round(float(head.mean()), 4),
            )

    _tracker: PeopleTracker = PrivateAttr()

    def setup(self) -> None:
        self._tracker = PeopleTracker(self.max_people)

    def measure(self, clip: ClipView) -> Measurement:
        batch = clip.frames(FRAMES)
        people = self._tracker.follow(batch.images, batch.times, 1 / self.body_fps, self.detect_every)
        height, width = batch.images[0].shape[:2] if len(batch) else (1, 1)
        clip.tracks = to_tracks(people, batch.times, width, height)
        return self.Scores.of(clip.tracks)


def to_tracks(people: list[Person], times: np.ndarray, width: int, height: int) -> Tracks:
    """Dense tracks in shares of the frame, the person seen longest and largest first."""
    return as_tracks([dense(p, times, width, height) for p in people if certain(p)], times, width, height)


def certain(person: Person) -> bool:
    """A face that never had a body must be sure of itself: digits and patterns reach 0.95, real faces are at 1.0."""
    return bool(person.bodies) or float(np.median([face.score for face in person.faces.values()] or [0])) >= FACE_ALONE


def dense(person: Person, times: np.ndarray, width: int, height: int) -> Followed:
    count = len(times)
    body = series(
        {i: np.column_stack([b.points[:33], b.visible[:33]]) for i, b in person.bodies.items()}, (33, 3), times
    )
    hands = {
        side: series({i: with_score(h.points, h.score) for i, h in seen.items()}, (21, 3), times)
        for side, seen in person.hands.items()
    }
    faces = np.full((count, 4), np.nan)
    keypoints = np.full((count, KEYPOINTS, 3), np.nan)
    keypoints[:, BODY] = openpose(body)
    for i, face in person.faces.items():
        faces[i] = face.box
        keypoints[i, FACE] = with_score(face.mesh[IBUG_FROM_MESH], face.score)
        keypoints[i, BODY] = with_head(keypoints[i, BODY], face)
    keypoints[:, LEFT_HAND], keypoints[:, RIGHT_HAND] = hands["left"], hands["right"]
    fingers = keypoints[:, LEFT_HAND.start : RIGHT_HAND.stop]
    boxes = np.stack([body_box(body[i], fingers[i], faces[i], width, height) for i in range(count)])
    return Followed(person.id, keypoints, bridge(boxes, times), faces)


def with_head(joints: np.ndarray, face: Face) -> np.ndarray:
    """OpenPose (18, 3) with nose, eyes and ears from the face. Only the body network knows when an ear is hidden."""
    head = list(HEAD_FROM_MESH)
    joints = joints.copy()
    ears = joints[EARS, 2]
    joints[head] = with_score(face.mesh[list(HEAD_FROM_MESH.values())].mean(axis=1), face.score)
    joints[EARS, 2] = np.where(np.isfinite(ears), ears, face.score)
    return joints


def with_score(points: np.ndarray, confidence: float) -> np.ndarray:
    return np.column_stack([points, np.full(len(points), confidence)])


def openpose(body: np.ndarray) -> np.ndarray:
    """BlazePose (T, 33, 3) -> OpenPose (T, 18, 3). The neck is as sure as the less sure shoulder."""
    joints = body[:, BODY_FROM_BLAZE]
    shoulders = joints[:, [R_SHOULDER, L_SHOULDER]]
    joints[:, NECK, :2] = shoulders[:, :, :2].mean(axis=1)
    joints[:, NECK, 2] = shoulders[:, :, 2].min(axis=1)
    return joints


def body_box(body: np.ndarray, fingers: np.ndarray, face: np.ndarray, width: int, height: int) -> np.ndarray:
    """Box (4,) around what the frame shows of a person, in pixels; NaN where nothing of them is seen.

    It covers the visible joints with a margin (they lie inside the flesh), the fingers, the head up to the hair, and
    the places where arms, trunk and legs leave the frame. Where only a face is known it is the head and the shoulders
    that belong to a face of that size.
    """
    limit = np.array([width - 1, height - 1])
    with_body, with_face = np.isfinite(body[0, 0]), np.isfinite(face[0])
    points = [fingers[fingers[:, 2] >= VISIBLE, :2]]
    if with_body:
        points += [leaving(body[a, :2], body[b, :2], limit) for a, b in LIMBS if body[a, 2] >= VISIBLE]
        joints = body[11:][body[11:, 2] >= VISIBLE, :2]
        margin = 0.15 * np.hypot(*(body[L_SHOULDER_BLAZE, :2] - body[R_SHOULDER_BLAZE, :2]))
        points += [joints - margin, joints + margin]
        if body[0, 2] >= VISIBLE and not with_face:
            head = body[:11, :2].mean(axis=0)
            reach = 0.6 * np.hypot(*(head - body[[L_SHOULDER_BLAZE, R_SHOULDER_BLAZE], :2].mean(axis=0)))
            points.append(np.stack([head - reach, head + reach]))
    if with_face:
        x0, y0, x1, y1 = face
        w, h = x1 - x0, y1 - y0
        points.append(np.array([[x0 - 0.2 * w, y0 - 0.4 * h], [x1 + 0.2 * w, y1]]))
        if not with_body:
            points.append(np.array([[x0 - 0.9 * w, y1 + h], [x1 + 0.9 * w, y1 + h]]))
    seen = np.concatenate(points)
    if not len(seen):
        return np.full(4, np.nan)
    return np.concatenate([np.clip(seen.min(axis=0), 0, limit), np.clip(seen.max(axis=0), 0, limit)])


def leaving(start: np.ndarray, end: np.ndarray, limit: np.ndarray) -> np.ndarray:
    """(0 or 1, 2): where the way from `start`, inside the frame, to `end` leaves it."""
    if ((end >= 0) & (end <= limit)).all() or not ((start >= 0) & (start <= limit)).all():
        return np.zeros((0, 2))
    step = end - start
    way = np.where(step > 0, limit - start, -start) / np.where(step == 0, np.nan, step)
    return (start + step * np.nanmin(way))[None]

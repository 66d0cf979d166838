"""The pose filter on a real portrait (NASA, public domain) that is moved, doubled, hidden and changed."""

from typing import Any, cast

import cv2
import numpy as np
import pytest

from dataset.media import FrameBatch
from dataset.tracks import BODY, FACE, Tracks
from filters import weights
from filters.base import ClipView
from filters.nets.track_series import smooth
from filters.pose import FRAMES, IBUG_FROM_MESH, Pose, leaving

UPPER_LIP, LOWER_LIP = FACE.start + 62, FACE.start + 66
SIDE = 320  # pixels of the portrait as shown


@pytest.fixture(scope="module")
def portrait() -> np.ndarray:
    """(320, 320, 3) RGB: a woman, head to waist, her face in the upper middle."""
    try:
        file = weights.path("scikit-image/astronaut.png")
    except weights.MissingWeights as missing:
        pytest.skip(f"the portrait can't be fetched here: {missing.remedy}")
    image = cv2.cvtColor(cv2.imread(str(file)), cv2.COLOR_BGR2RGB)
    return cv2.resize(image, (SIDE, SIDE), interpolation=cv2.INTER_AREA)


@pytest.fixture(scope="module")
def pose() -> Pose:
    made = Pose()
    try:
        made.setup()
    except weights.MissingWeights as missing:
        pytest.skip(f"the networks can't be fetched here: {missing.remedy}")
    return made


def place(portrait: np.ndarray, x: int, width: int = 640) -> np.ndarray:
    """A grey (360, width, 3) frame with the portrait standing on its lower edge at column x."""
    frame = np.full((360, width, 3), 128, np.uint8)
    frame[-SIDE:, x : x + SIDE] = portrait
    return frame


def run(pose: Pose, frames: list[np.ndarray], fps: float = 12.5) -> tuple[Any, Tracks]:
    batch = FrameBatch(frames, np.arange(len(frames)) / fps)
    clip = ClipView(cast(Any, None), {FRAMES: batch}, None, {})
    scores = pose.measure(clip)
    assert clip.tracks is not None
    return scores, clip.tracks


def centre(boxes: np.ndarray) -> np.ndarray:
    return (boxes[..., 0] + boxes[..., 2]) / 2


def test_a_moving_person_is_one_track_that_follows(pose, portrait):
    steps = np.linspace(0, 300, 14).astype(int)
    scores, tracks = run(pose, [place(portrait, x) for x in steps])
    assert (scores.people, scores.longest) == (1, 1.0)
    assert scores.confidence > 0.9
    assert len(tracks.ids) == 1
    for boxes in (tracks.faces[0], tracks.boxes[0]):
        np.testing.assert_allclose(np.diff(centre(boxes)).sum() * 640, 300, atol=25)
    face, body = tracks.faces[0], tracks.boxes[0]
    assert (body[:, :2] <= face[:, :2] + 0.01).all()
    assert (body[:, 2:] >= face[:, 2:] - 0.01).all()
    assert (body[:, 3] > 0.97).all()  # the waist is cut by the frame's lower edge


def test_two_people_are_two_tracks(pose, portrait):
    frame = place(portrait, 0)
    frame[-SIDE:, SIDE:] = portrait[:, ::-1]
    scores, tracks = run(pose, [frame] * 6)
    assert scores.people == 2
    assert sorted(np.sign(centre(tracks.faces[:, 0]) - 0.5)) == [-1, 1]
    seen = tracks.keypoints[:, 0, FACE, 0].mean(axis=1)
    np.testing.assert_allclose(seen, centre(tracks.faces[:, 0]), atol=0.03)


@pytest.mark.parametrize("level", [0, 128])
def test_empty_frames_hold_nobody(pose, level):
    scores, tracks = run(pose, [np.full((360, 640, 3), level, np.uint8)] * 6)
    assert (scores.people, scores.longest, scores.confidence) == (0, 0.0, None)
    assert tracks.keypoints.shape == (0, 6, 128, 3)


def test_an_empty_clip_is_no_error(pose):
    assert run(pose, [])[0].people == 0


def test_who_leaves_is_not_imagined_further(pose, portrait):
    frames = [place(portrait, 160)] * 6 + [np.full((360, 640, 3), 128, np.uint8)] * 12
    scores, tracks = run(pose, frames)
    assert np.isfinite(tracks.faces[0, :6]).all()
    assert np.isnan(tracks.faces[0, 7:]).all()
    assert np.isnan(tracks.boxes[0, 9:]).all()
    assert scores.longest < 0.5


def test_a_short_absence_keeps_the_track(pose, portrait):
    here, gone = place(portrait, 160), np.full((360, 640, 3), 128, np.uint8)
    scores, tracks = run(pose, [here] * 5 + [gone] * 3 + [here] * 8)
    assert len(tracks.ids) == 1
    assert scores.longest > 0.9
    assert np.isnan(tracks.faces[0, 5:8]).all()  # but the hidden face is not made up


def test_left_and_right_are_the_persons_own(pose, portrait):
    _, tracks = run(pose, [place(portrait, 160)] * 3)
    joints = tracks.keypoints[0, 1, BODY]
    right_shoulder, left_shoulder, right_eye, left_eye = joints[[2, 5, 14, 15], 0]
    assert right_shoulder < left_shoulder
    assert right_eye < left_eye
    face = tracks.keypoints[0, 1, FACE]
    assert face[36, 0] < face[45, 0]
    np.testing.assert_allclose(joints[14, :2], face[36:42, :2].mean(axis=0), atol=0.01)


def test_face_points_stand_in_their_order(pose, portrait):
    _, tracks = run(pose, [place(portrait, 160)] * 3)
    x, y = tracks.keypoints[0, 1, FACE, :2].T
    assert y[17:27].max() < y[36:48].min() < y[33] < y[51] < y[57] < y[8]  # brows, eyes, nose, lips, chin
    assert (np.diff(x[:17]) > -0.005).all()  # the jaw runs from the person's right to the left
    assert x[48] <= x[60] < x[64] <= x[54]  # corners of the mouth: the inner lie inside the outer
    assert y[51] <= y[62] <= y[66] <= y[57]  # the inner lips lie between the outer ones
    assert len(IBUG_FROM_MESH) == 68


def test_a_stretched_mouth_opens_the_lips(pose, portrait):
    """The lip gap that the sync filter reads follows what happens in the picture, frame by frame."""
    closed = cv2.resize(portrait[:240, 20:260], (360, 360), interpolation=cv2.INTER_LINEAR)
    _, tracks = run(pose, [closed] * 3)
    x, y = tracks.keypoints[0, 1, FACE, :2].T * 360
    left, right, top, bottom = int(x.min()), int(x.max()), int(y[33]), int(y.max())
    opened = closed.copy()
    opened[top : 2 * bottom - top, left:right] = cv2.resize(
        closed[top:bottom, left:right], (right - left, 2 * (bottom - top)), interpolation=cv2.INTER_LINEAR
    )
    _, tracks = run(pose, [closed, opened] * 4)
    gap = (tracks.keypoints[0, :, LOWER_LIP, 1] - tracks.keypoints[0, :, UPPER_LIP, 1]) * 360
    assert gap[1::2].min() > gap[0::2].max() * 1.2


def test_a_close_up_fills_the_frame(pose, portrait):
    close = cv2.resize(portrait[:200, 60:260], (360, 360), interpolation=cv2.INTER_LINEAR)
    scores, tracks = run(pose, [close] * 4)
    assert scores.people == 1
    x0, y0, x1, y1 = tracks.boxes[0, 1]
    assert (x1 - x0) * (y1 - y0) > 0.6
    assert y1 > 0.97


def test_smoothing_keeps_a_steady_movement():
    path = np.zeros((9, 1, 3))
    path[:, 0, 0] = np.arange(9)
    np.testing.assert_allclose(smooth(path), path, atol=1e-9)


def test_a_limb_leaves_the_frame_where_its_line_does():
    limit = np.array([100, 100])
    np.testing.assert_allclose(leaving(np.array([50, 50]), np.array([150, 100]), limit), [[100, 75]])
    assert len(leaving(np.array([50, 50]), np.array([60, 60]), limit)) == 0

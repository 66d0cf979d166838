"""Tracks survive storage, and the pictures drawn from them show the people where they are."""

import io

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dataset.draw import draw_overlay, draw_pose
from dataset.tracks import BODY, FACE, KEYPOINTS, LEFT_HAND, Tracks


def made_up(people: int = 2, frames: int = 5) -> Tracks:
    rng = np.random.default_rng(0)
    keypoints = rng.uniform(0, 1, (people, frames, KEYPOINTS, 3)).astype(np.float32)
    boxes = np.sort(rng.uniform(0, 1, (people, frames, 4)), axis=-1).astype(np.float32)
    faces = boxes.copy()
    faces[:, ::2] = np.nan
    keypoints[:1, 0, 4, :2] = (-0.7, 1.6)  # joints may lie outside the frame
    return Tracks(np.arange(frames) / 25, np.arange(people) + 3, keypoints, boxes, faces)


def assert_same(a: Tracks, b: Tracks) -> None:
    np.testing.assert_array_equal(a.times, b.times)
    np.testing.assert_array_equal(a.ids, b.ids)
    np.testing.assert_allclose(a.keypoints[..., :2], b.keypoints[..., :2], atol=1 / 16384)
    np.testing.assert_allclose(a.keypoints[..., 2], b.keypoints[..., 2], atol=1 / 255)
    np.testing.assert_allclose(a.boxes, b.boxes, atol=1 / 16384)
    np.testing.assert_allclose(a.faces, b.faces, atol=1 / 16384)
    assert a.keypoints.dtype == b.keypoints.dtype == np.float32


@pytest.mark.parametrize("people", [0, 1, 3])
def test_a_table_row_brings_everything_back(tmp_path, people):
    tracks = made_up(people)
    pq.write_table(pa.Table.from_pylist([tracks.to_row("clip")]), tmp_path / "part.parquet")
    (row,) = pq.read_table(tmp_path / "part.parquet").to_pylist()
    assert row["clip_id"] == "clip"
    assert_same(Tracks.from_row(row), tracks)


@pytest.mark.parametrize("people", [0, 2])
def test_npz_brings_everything_back_and_is_deterministic(people):
    tracks = made_up(people)
    data = tracks.to_npz_bytes()
    assert data == made_up(people).to_npz_bytes()
    assert_same(Tracks.from_npz_bytes(data), tracks)
    assert Tracks.from_npz_bytes(data).to_npz_bytes() == data  # storing again loses nothing more


def test_npz_never_unpickles():
    file = io.BytesIO()
    np.savez_compressed(file, times=np.array([{"a": 1}], dtype=object))
    with pytest.raises((ValueError, KeyError)):
        Tracks.from_npz_bytes(file.getvalue())


def test_the_stored_form_is_compact():
    tracks = made_up(1, 125)
    assert len(tracks.to_row("clip")["points"]) == 125 * 128 * 2 * 2
    assert len(tracks.to_npz_bytes()) < 90_000


def one_arm(x: float, times=(0.0, 1 / 25)) -> Tracks:
    """One person whose right upper arm moves by 0.2 of the width from the first frame to the second."""
    keypoints = np.zeros((1, 2, KEYPOINTS, 3), np.float32)
    for frame in range(2):
        keypoints[0, frame, 2] = (x + 0.2 * frame, 0.4, 1)
        keypoints[0, frame, 3] = (x + 0.2 * frame, 0.8, 1)
    nothing = np.full((1, 2, 4), np.nan, np.float32)
    return Tracks(np.array(times), np.array([0]), keypoints, nothing, nothing)


def columns(picture: np.ndarray) -> float:
    return float(np.flatnonzero(picture.any(axis=(0, 2))).mean())


def test_limbs_are_drawn_where_they_are_and_move_between_frames():
    tracks = one_arm(0.3)
    assert columns(draw_pose(tracks, 0.0, 200, 400)) == pytest.approx(0.3 * 400, abs=2)
    assert columns(draw_pose(tracks, 0.02, 200, 400)) == pytest.approx(0.4 * 400, abs=2)
    assert columns(draw_pose(tracks, 9.0, 200, 400)) == pytest.approx(0.5 * 400, abs=2)


def test_nothing_is_interpolated_across_a_long_absence():
    tracks = one_arm(0.3, times=(0.0, 4.0))
    assert columns(draw_pose(tracks, 1.0, 200, 400)) == pytest.approx(0.3 * 400, abs=2)


def test_unseen_keypoints_are_not_drawn():
    tracks = one_arm(0.3)
    tracks.keypoints[..., 2] = 0
    assert not draw_pose(tracks, 0.0, 64, 64).any()
    assert not draw_pose(Tracks.empty(np.arange(3) / 25), 0.0, 64, 64).any()
    assert not draw_pose(Tracks.empty(np.zeros(0)), 0.0, 64, 64).any()


def test_faces_are_white_and_hands_go_around_the_hue_circle():
    tracks = made_up(1)
    tracks.keypoints[..., 2] = 0
    tracks.keypoints[:, :, FACE, 2] = 1
    picture = draw_pose(tracks, 0.0, 512, 512)
    assert set(map(tuple, picture.reshape(-1, 3))) >= {(0, 0, 0), (255, 255, 255)}
    assert (picture.std(axis=-1) == 0).all()
    tracks.keypoints[:, :, FACE, 2] = 0
    tracks.keypoints[:, :, LEFT_HAND, 2] = 1
    assert (draw_pose(tracks, 0.0, 512, 512).std(axis=-1) > 0).any()


def test_the_overlay_leaves_its_picture_alone():
    picture = np.full((64, 64, 3), 90, np.uint8)
    drawn = draw_overlay(picture, made_up(), 0.0)
    assert (picture == 90).all()
    assert (drawn != 90).any()
    assert drawn.shape == picture.shape


def test_layout_slices_cover_every_keypoint_once():
    assert BODY.stop == FACE.start
    assert FACE.stop == LEFT_HAND.start

"""DWPose on tiny ONNX networks that find a bright spot: what goes in and what comes out is as with the real ones."""

from pathlib import Path

import numpy as np
import pytest

from dataset.draw import draw_pose
from dataset.media import FrameBatch
from dataset.tracks import BODY, FACE, RIGHT_HAND, Tracks
from filters import weights
from filters.nets import dwpose
from filters.pose import FRAMES
from filters.vitpose import Vitpose, beat
from tests.filters.builders import view
from tests.filters.tiny_onnx import write_detector, write_pose

PERSON = (80, 160)  # width and height in pixels of whoever the tiny detector sees
HEIGHT, WIDTH = 360, 640


@pytest.fixture(autouse=True)
def networks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_detector(tmp_path / dwpose.DETECTOR, *PERSON)
    write_pose(tmp_path / dwpose.POSE)
    monkeypatch.setattr(weights, "path", lambda name: tmp_path / name)


def spot(x: int, y: int, colour: tuple[int, int, int] = (200, 200, 200)) -> np.ndarray:
    """A black frame with one cell of the detector's lit, whose middle pixel is the brightest."""
    frame = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    frame[y - 4 : y + 4, x - 4 : x + 4] = colour
    frame[y, x] = 255
    return frame


def tracked(frames: list[np.ndarray], fps: float = 25) -> tuple[dict, Tracks]:
    filter_ = Vitpose(bodies="dwpose")
    filter_.setup()
    clip = view()
    clip.batches = {FRAMES: FrameBatch(frames, np.arange(len(frames)) / fps)}
    scores = filter_.measure(clip).model_dump()
    assert clip.tracks is not None
    return scores, clip.tracks


def test_boxes_are_decoded_from_their_cells():
    raw = np.zeros((8400, 7), np.float32)
    raw[80 * 80 + 7 * 40 + 5] = (0.25, 0.5, np.log(2), np.log(3), 0.5, 0.8, 0.2)  # stride 16, column 5, row 7
    raw[8399] = (0, 0, 0, 0, 1, 0, 1)  # stride 32, the last cell
    boxes, scores = dwpose.decoded(raw)
    middle, size = np.array([5.25, 7.5]) * 16, np.array([32, 48])
    np.testing.assert_allclose(boxes[80 * 80 + 7 * 40 + 5], [*(middle - size / 2), *(middle + size / 2)], rtol=1e-6)
    np.testing.assert_allclose(scores[80 * 80 + 7 * 40 + 5], [0.4, 0.1], rtol=1e-6)
    np.testing.assert_allclose(boxes[8399], [19 * 32 - 16, 19 * 32 - 16, 19 * 32 + 16, 19 * 32 + 16])


def test_of_boxes_on_one_person_the_surest_stays():
    boxes = np.array([[0, 0, 100, 200], [5, 5, 105, 205], [200, 0, 300, 200], [50, 0, 150, 200.0]])
    assert dwpose.kept(boxes, np.array([0.6, 0.9, 0.5, 0.4])) == [1, 2, 3]
    assert dwpose.kept(boxes[:0], np.zeros(0)) == []
    # As upstream counts pixels, these share 2 of 4 columns; by their edges it would be 1 of 3, which is below 0.45.
    assert dwpose.kept(np.array([[0, 0, 2, 9], [1, 0, 3, 9.0]]), np.array([0.9, 0.8])) == [0]


def test_a_picture_fills_the_upper_left_of_a_grey_square():
    square, ratio = dwpose.letterbox(np.full((360, 1280, 3), 9, np.uint8))
    assert ratio == 0.5
    assert (square[:180] == 9).all()
    assert (square[180:] == dwpose.GREY).all()


def test_simcc_is_as_sure_as_its_less_sure_axis():
    across, down = np.zeros((2, 576), np.float32), np.zeros((2, 768), np.float32)
    across[0, 101], down[0, 600] = 0.9, 0.7
    across[1] = -0.1
    np.testing.assert_allclose(dwpose.located(across, down), [[50.5, 300, 0.7], [-0.5, -0.5, -0.1]], rtol=1e-6)


@pytest.mark.parametrize("box", [(250, 100, 350, 220), (100, 90, 500, 200), (290, -80, 420, 500)])
def test_the_brightest_pixel_comes_back_at_its_place(box):
    """Whatever the shape of the box, in the frame or beyond it."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    frame = np.repeat(255 * np.exp(-((x - 300) ** 2 + (y - 160) ** 2) / 50)[..., None], 3, axis=2).astype(np.uint8)
    (points,) = dwpose.WholeBodyNet()([frame], np.array([box], float))
    step = max(1.25 * (box[2] - box[0]) / dwpose.WIDTH, 1.25 * (box[3] - box[1]) / dwpose.HEIGHT)
    np.testing.assert_allclose(points[:, :2], np.tile([300, 160], (133, 1)), atol=max(step, 1.0))


def test_the_pose_network_sees_rgb():
    frame = np.full((HEIGHT, WIDTH, 3), (255, 0, 0), np.uint8)
    (points,) = dwpose.WholeBodyNet()([frame], np.array([[100, 50, 200, 200.0]]))
    np.testing.assert_allclose(points[:, 2], 0.4 * (255 - 123.675) / 58.395, rtol=1e-4)


def test_a_file_that_takes_several_crops_gets_them_together(tmp_path, monkeypatch):
    monkeypatch.setattr(dwpose, "BATCH", 4)
    count = 11
    frames = [spot(int(x), 180, (int(x) % 256, 80, 40)) for x in np.linspace(60, 580, count)]
    boxes = np.array([[x - 45 - 3 * x % 40, 90, x + 60, 200 + 2 * x] for x in range(60, 60 + count)], float)
    one_by_one = dwpose.WholeBodyNet()(frames, boxes)
    write_pose(tmp_path / dwpose.POSE, batch="batch")
    net, sizes = dwpose.WholeBodyNet(), []
    run = net._net.run

    def counted(names, given):
        sizes.append(len(given["input"]))
        return run(names, given)

    monkeypatch.setattr(net._net, "run", counted)
    np.testing.assert_array_equal(net(frames, boxes), one_by_one)
    assert sizes == [4, 4, 3]
    assert net([], np.zeros((0, 4))).shape == (0, 133, 3)


def test_the_detector_sees_bgr():
    find = dwpose.YoloxDetector()
    blue, red = find([spot(300, 180, (0, 0, 255)), spot(300, 180, (255, 0, 0))])
    np.testing.assert_allclose(blue, [[260, 100, 340, 260]], atol=0.01)
    assert len(red) == 0


def test_a_small_picture_is_scaled_and_back():
    frame = np.zeros((180, 320, 3), np.uint8)
    frame[88:92, 148:152] = 255
    (boxes,) = dwpose.YoloxDetector()([frame])
    np.testing.assert_allclose(boxes, [[130, 50, 170, 130]], atol=2)


def test_a_person_is_followed_through_a_clip():
    columns = 108 + 8 * np.arange(40)
    scores, tracks = tracked([spot(int(x), 180) for x in columns])
    assert (scores["people"], scores["longest"]) == (1, 1.0)
    assert scores["confidence"] > 0.99
    seen = slice(0, 38)  # the last look at bodies lies there; what follows is held
    where = (columns + 0.5) / WIDTH
    np.testing.assert_allclose(tracks.keypoints[0, seen, :, 0], np.tile(where[seen, None], 128), atol=1 / WIDTH)
    np.testing.assert_allclose(tracks.keypoints[0, seen, :, 1], 180.5 / HEIGHT, atol=1 / HEIGHT)
    middle = tracks.boxes[0, :35, [0, 2]].mean(axis=0)
    np.testing.assert_allclose(middle, columns[:35] / WIDTH, atol=2 / WIDTH)
    sizes = np.ptp(tracks.boxes[0, :35].reshape(-1, 2, 2), axis=1)
    np.testing.assert_allclose(sizes, np.tile([80 / WIDTH, 160 / HEIGHT], (35, 1)), atol=1e-5)
    np.testing.assert_allclose(tracks.faces[0, seen, 0], where[seen], atol=1 / WIDTH)


@pytest.mark.parametrize("fps", [24, 25, 30])
def test_a_look_that_misses_somebody_is_bridged_at_any_rate(fps):
    frames = [spot(300, 180)] * 50
    missed = beat(np.arange(50) / fps, 5)[3]
    frames[missed] = np.zeros_like(frames[0])
    _, tracks = tracked(frames, fps)
    assert len(tracks.ids) == 1
    assert np.isfinite(tracks.boxes[0, :45]).all()


def test_its_tracks_are_stored_and_drawn():
    _, tracks = tracked([spot(300, 180)] * 25)
    back = Tracks.from_row(tracks.to_row("c"))
    np.testing.assert_allclose(back.keypoints, tracks.keypoints, atol=1 / 255)
    np.testing.assert_allclose(back.boxes, tracks.boxes, atol=1e-4)
    for part in (BODY, FACE, RIGHT_HAND):
        assert (back.keypoints[0, 5, part, 2] > 0.9).all()
    drawn = draw_pose(back, 0.2, HEIGHT, WIDTH)
    assert drawn[180, 300].any()
    assert not drawn[:, :280].any()


def test_an_empty_picture_holds_nobody():
    """Upstream would pose the whole picture."""
    scores, tracks = tracked([np.zeros((HEIGHT, WIDTH, 3), np.uint8)] * 10)
    assert (scores["people"], scores["longest"], scores["confidence"]) == (0, 0.0, None)
    assert tracks.keypoints.shape == (0, 10, 128, 3)
    assert tracked([])[0]["people"] == 0

import cv2
import numpy as np
import pytest

from filters.sharpness import FRAMES, Sharpness
from tests.filters.builders import FACE_BOX, HAND_BOX, MOUTH, nobody, person, scores, texture, view

CLEAN = texture(480, 640)


def measure(image, tracks=None):
    return scores(Sharpness(), view({FRAMES: [image] * 3}, tracks=tracks or person()))


def blurred(image: np.ndarray, sigma: float, box: tuple[float, ...] = (0, 0, 1, 1)) -> np.ndarray:
    height, width = image.shape[:2]
    rows, columns = slice(int(box[1] * height), int(box[3] * height)), slice(int(box[0] * width), int(box[2] * width))
    image = image.copy()
    image[rows, columns] = cv2.GaussianBlur(image, (0, 0), sigma)[rows, columns]
    return image


def test_a_blurred_face_scores_lower():
    assert measure(blurred(CLEAN, 6, FACE_BOX))["face"] < 0.4 * measure(CLEAN)["face"]


def test_fake_resolution_scores_lower():
    small = cv2.resize(CLEAN, None, fx=1 / 6, fy=1 / 6, interpolation=cv2.INTER_AREA)
    assert measure(cv2.resize(small, (640, 480), interpolation=cv2.INTER_CUBIC))["face"] < 0.6 * measure(CLEAN)["face"]


def test_blur_elsewhere_does_not_matter():
    image = blurred(CLEAN, 6)
    x0, y0, x1, y1 = (int(share * side) for share, side in zip(FACE_BOX, (640, 480) * 2, strict=True))
    image[y0:y1, x0:x1] = CLEAN[y0:y1, x0:x1]
    assert measure(image)["face"] == pytest.approx(measure(CLEAN)["face"])


def test_contrast_and_light_do_not_matter():
    dim = (CLEAN * 0.4).astype(np.uint8)
    assert measure(dim)["face"] == pytest.approx(measure(CLEAN)["face"], rel=0.1)


def test_only_the_mouth_is_blurred():
    found, clean = measure(blurred(CLEAN, 8, (0.3, 0.45, 0.7, 0.6))), measure(CLEAN)
    assert found["mouth"] < 0.2 * clean["mouth"]
    assert MOUTH[1] > 0.45


def test_a_blurred_hand_scores_lower():
    tracks = person(hand=HAND_BOX)
    assert measure(blurred(CLEAN, 6, (0.6, 0.6, 1, 1)), tracks)["hand"] < 0.4 * measure(CLEAN, tracks)["hand"]


def test_nothing_to_judge():
    assert measure(CLEAN, nobody()) == {"face": None, "mouth": None, "hand": None}
    assert measure(CLEAN, person(face=(0.5, 0.5, 0.52, 0.53)))["face"] is None

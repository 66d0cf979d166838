import cv2
import numpy as np

from filters.subtitles import FRAMES, Subtitles
from tests.filters.builders import FACE_BOX, HAND_BOX, nobody, person, scores, texture, view

PICTURE = (texture(360, 480, finest=8) * 0.5 + 40).astype(np.uint8)


def titled(x: int, y: int, text: str = "BREAKING NEWS", size: float = 0.9) -> np.ndarray:
    image = PICTURE.copy()
    for colour, width in (((0, 0, 0), 6), ((255, 255, 255), 2)):
        cv2.putText(image, text, (x, y), cv2.FONT_HERSHEY_SIMPLEX, size, colour, width, cv2.LINE_AA)
    return image


OVER_FACE, AT_BOTTOM, OVER_HAND = titled(130, 160), titled(30, 340), titled(345, 300, "TEXT", 0.8)


def measure(images, tracks=None):
    return scores(Subtitles(), view({FRAMES: images}, tracks=tracks or person()))


def test_text_over_the_face_is_seen():
    found = measure([OVER_FACE] * 3)
    assert found["face"] > 0.1
    assert 0.02 < found["area"] < 0.2


def test_brief_text_over_the_face_is_seen():
    assert measure([PICTURE] * 3 + [OVER_FACE] * 2 + [PICTURE] * 3)["face"] > 0.1


def test_text_in_a_single_frame_is_not():
    found = measure([PICTURE, PICTURE, OVER_FACE, PICTURE])
    assert found["face"] < 0.02


def test_text_at_the_bottom_does_not_touch_the_face():
    found = measure([AT_BOTTOM] * 3)
    assert found["face"] == 0
    assert found["area"] > 0.02
    assert FACE_BOX[3] < 0.8


def test_text_over_a_hand_is_seen():
    found = measure([OVER_HAND] * 3, person(hand=HAND_BOX))
    assert found["hand"] > 0.05
    assert found["face"] == 0


def test_without_people_only_the_area_is_known():
    found = measure([AT_BOTTOM] * 2, nobody())
    assert found["face"] is None
    assert found["hand"] is None
    assert found["area"] > 0.02

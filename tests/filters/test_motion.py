import numpy as np
import pytest

from filters.motion import FRAMES, Motion
from tests.filters.builders import moved, nobody, person, scores, texture, view

ROOM = texture(360, 480, seed=1, finest=3)
PERSON = texture(360, 480, seed=2, finest=3)
STEPS = range(40)  # frames at 25 a second


def scene(camera, walk) -> list[np.ndarray]:
    """camera, walk: (dx, dy) in pixels at frame i of everything, and of the person relative to it."""
    images = []
    for i in STEPS:
        image = moved(ROOM, *camera(i))
        body = moved(PERSON, *(a + b for a, b in zip(camera(i), walk(i), strict=True)))
        image[120:360, 160:320] = body[120:360, 160:320]
        images.append(image)
    return images


def still(i):
    return 0.0, 0.0


def measure(images, tracks=None):
    body = (160 / 480, 120 / 360, 320 / 480, 1.0)
    return scores(Motion(), view({FRAMES: images}, tracks=tracks or person(count=40, body=body, face=body)))


def test_nothing_moves():
    found = measure(scene(still, still))
    assert all(value < 0.005 for value in found.values())


def test_a_shaking_camera_moves_the_background():
    found = measure(scene(lambda i: (12 * np.sin(1.1 * i), 8 * np.sin(1.7 * i)), still))
    assert found["background"] > 0.3
    assert found["background_peak"] >= found["background"]


def test_a_moving_person_alone_does_not():
    found = measure(scene(still, lambda i: (0.0, 3.0 * i)))
    assert found["background"] < 0.02
    assert found["subject"] == pytest.approx(3 * 25 / 360, rel=0.25)


def test_speed_is_in_short_sides_a_second():
    found = measure(scene(lambda i: (2.0 * i, 0.0), still), nobody(40))
    assert found["background"] == pytest.approx(2 * 25 / 360, rel=0.1)
    assert found["overall"] == pytest.approx(2 * 25 / 360, rel=0.2)
    assert found["subject"] is None


def test_pairs_follow_the_clock_not_the_frame_count():
    filter_ = Motion()
    (first, second), *_ = filter_.pairs(np.arange(100) / 25)
    assert second - first == 2
    assert filter_.pairs(np.arange(5) * 1.0)[0] == (0, 1)  # one picture a second: the next one
    assert filter_.pairs(np.array([0.0])) == []

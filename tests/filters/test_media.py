import numpy as np
import pytest

from filters.media import FRAMES, Media
from tests.filters.builders import moved, scores, seconds, texture, view

RNG = np.random.default_rng(0)
PICTURE = texture(360, 480)


def noisy(image: np.ndarray) -> np.ndarray:
    return np.clip(image + RNG.normal(0, 3, image.shape), 0, 255).astype(np.uint8)


def measure(images, audio=None):
    return scores(Media(), view({FRAMES: images}, audio=audio))


def test_frozen_picture_under_codec_noise():
    assert measure([noisy(PICTURE) for _ in range(125)])["frozen"] == 1


def test_half_frozen():
    images = [moved(PICTURE, min(i, 62), 0) for i in range(125)]
    assert measure(images)["frozen"] == pytest.approx(0.5, abs=0.05)


def test_a_calm_talker_is_not_frozen():
    images = []
    for i in range(125):
        image = noisy(PICTURE)
        image[200 : 206 + i % 10, 220:250] = 30  # only the mouth moves
        images.append(image)
    assert measure(images)["frozen"] < 0.2


def test_repeated_frames_are_not_frozen():
    assert measure([moved(PICTURE, i // 5, 0) for i in range(125)])["frozen"] == 0


def test_luminance_and_black():
    dark = [np.full((360, 480, 3), 5, np.uint8)] * 25
    bright = [np.full((360, 480, 3), 205, np.uint8)] * 75
    found = measure(dark + bright)
    assert found["black"] == pytest.approx(0.25, abs=0.05)
    assert found["luminance"] == pytest.approx(155, abs=10)


def test_levels_of_sound():
    tone = 0.1 * np.sqrt(2) * np.sin(2 * np.pi * 440 * seconds(4)).astype(np.float32)
    found = measure([PICTURE] * 10, np.concatenate([tone, np.zeros_like(tone)]))
    assert found["audio_level"] == pytest.approx(-23, abs=0.1)
    assert found["audible"] == pytest.approx(0.5, abs=0.02)


def test_digital_silence_and_no_audio():
    silent = measure([PICTURE] * 10, np.zeros(16_000, np.float32))
    assert silent["audible"] == 0
    assert silent["audio_level"] == -120
    assert measure([PICTURE] * 10)["audible"] is None


def test_black_bars_do_not_darken_the_picture():
    barred = PICTURE.copy()
    barred[:90], barred[270:] = 0, 0
    found, plain = measure([barred] * 10), measure([PICTURE[90:270]] * 10)
    assert found["picture"] == pytest.approx(0.5, abs=0.02)
    assert found["luminance"] == pytest.approx(plain["luminance"], abs=2)
    assert plain["picture"] == 1


def test_an_underexposed_picture_has_no_highlights():
    assert measure([(PICTURE * 0.4).astype(np.uint8)] * 10)["highlights"] < 110 < measure([PICTURE] * 10)["highlights"]

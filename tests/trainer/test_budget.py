"""M: what fits is taken as it is, what doesn't is scaled or cropped so that most of the picture stays."""

import itertools
import time

import pytest

from dataset.errors import UsageError
from model.config import S2VConfig
from tests.trainer.shards import stage
from trainer.budget import fit, frame_count, scale, tokens
from trainer.sample import Shape
from trainer.stages import speech, tiny

CONFIG, SPEECH = S2VConfig(), speech()


def shape(seconds: float, width: int, height: int, limit: int = 45_000, frames: int = 48) -> Shape:
    fitted = fit(seconds, width, height, stage(tokens=limit, frames=frames), CONFIG)
    assert fitted
    return fitted


def test_the_papers_largest_sample_fits_the_shipped_limit():
    """48 frames at 1024x768 (height x width), with reference and motion frames."""
    fitted = fit(8, 768, 1024, speech(), CONFIG)
    assert fitted == Shape(48, 40, 1024, 768)
    assert tokens(fitted, CONFIG) == 44_544


def test_below_the_limit_the_picture_keeps_its_size():
    assert shape(8, 640, 384) == Shape(48, 40, 384, 640)


@pytest.mark.parametrize(
    ("width", "height", "wanted"),
    [(650, 450, (448, 640)), (127, 191, (128, 64)), (1000, 63, (64, 960)), (63, 1000, (960, 64)), (20, 10, (64, 64))],
)
def test_odd_sizes_become_the_multiples_of_64_below_and_tiny_sides_64(width, height, wanted):
    fitted = shape(8, width, height)
    assert (fitted.height, fitted.width) == wanted


@pytest.mark.parametrize(
    "size", [(1280, 720), (720, 1280), (3840, 2160), (1000, 999), (2000, 130), (130, 2000), (5000, 64), (64, 5000)]
)
@pytest.mark.parametrize("limit", [56, 400, 3_000, 45_000])
def test_above_the_limit_most_of_the_picture_stays(size, limit):
    """Against all sizes there are: area times the share of the picture that survives."""
    width, height = size
    fitted = shape(8, width, height, limit)
    latent = fitted.latent_frames

    def worth(h: int, w: int) -> float:
        by = max(h / height, w / width)
        return h * w * (h * w) / (by * by * height * width)

    sides = [range(64, max(64, side) + 1, 64) for side in (height, width)]
    fitting = [(h, w) for h, w in itertools.product(*sides) if CONFIG.tokens(latent, h, w) <= limit]
    assert (fitted.height, fitted.width) in fitting
    best = max(worth(h, w) for h, w in fitting)
    assert worth(fitted.height, fitted.width) == pytest.approx(best)
    equal = [h * w for h, w in fitting if worth(h, w) == pytest.approx(best, rel=1e-9)]
    assert fitted.height * fitted.width == min(equal)  # of equals the one that crops least


def test_a_full_hd_clip():
    assert shape(8, 1920, 1080) == Shape(48, 40, 640, 1152)


def test_fewer_frames_where_one_cell_is_too_much_with_all():
    assert shape(8, 640, 480, limit=100) == Shape(12, 58, 64, 64)
    assert CONFIG.tokens(3, 64, 64) <= 100 < CONFIG.tokens(4, 64, 64)
    assert shape(3, 640, 480, limit=100) == Shape(12, 18, 64, 64)


def test_a_limit_that_nothing_fits_is_a_mistake_that_names_the_smallest():
    with pytest.raises(UsageError, match="tokens=56 or more"):
        fit(8, 640, 480, stage(tokens=55), CONFIG)
    assert shape(8, 640, 480, limit=56) == Shape(4, 62, 64, 64)


@pytest.mark.parametrize(
    ("seconds", "frames", "history"),
    [
        (20, 48, 73),
        (10, 48, 56),
        (121 / 16, 48, 36),
        (64 / 16, 48, 16),
        (63 / 16, 48, 15),
        (62 / 16, 44, 15),
        (5 / 16, 4, 1),
        (5.999999, 48, 24),
    ],
)
def test_windows_of_a_clip_vary_and_have_a_past(seconds, frames, history):
    fitted = shape(seconds, 128, 128)
    assert (fitted.frames, fitted.history) == (frames, history)
    assert fitted.frames + fitted.history <= frame_count(seconds)


@pytest.mark.parametrize(
    ("seconds", "width", "height"),
    [*((s, 64, 64) for s in (4 / 16, 0, -3, float("nan"), float("inf"), 1e9)), (6, 0, 64), (6, 64, -1)],
)
def test_clips_that_are_of_no_use(seconds, width, height):
    assert fit(seconds, width, height, tiny(), CONFIG) is None


def test_a_million_clips_take_seconds_and_absurd_sizes_no_time():
    scale.cache_clear()
    began = time.perf_counter()
    for n in range(20_000):
        fit(3 + n % 500 / 50, 1280 + 2 * (n % 7), 720, SPEECH, CONFIG)
    assert time.perf_counter() - began < 1  # 0.05 s here
    began = time.perf_counter()
    assert fit(6, 10**12, 10**12, SPEECH, CONFIG)
    assert time.perf_counter() - began < 1

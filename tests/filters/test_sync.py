import numpy as np
import pytest

from filters.sync import Sync
from tests.filters.builders import clicks, nobody, person, scores, seconds, view

TIMES = np.arange(126) / 25
BEATS = np.sort(np.random.default_rng(3).uniform(0.3, 4.7, 12))


def opening(beats: np.ndarray) -> np.ndarray:
    """Lips that open and close around each beat."""
    return 0.002 + 0.03 * np.exp(-(((TIMES[:, None] - beats) / 0.05) ** 2)).max(axis=1)


def measure(audio, lips):
    return scores(Sync(), view(tracks=person(opening=lips), audio=audio))


def test_lips_on_the_beat():
    found = measure(clicks(BEATS), opening(BEATS))
    assert abs(found["lag"]) <= 0.08
    assert found["z"] > 4
    assert found["correlation"] > 0.4
    assert found["rival"] < 0


@pytest.mark.parametrize("late", [0.4, -0.4])
def test_the_lag_of_late_audio_is_positive(late):
    found = measure(clicks(BEATS + late), opening(BEATS))
    assert found["lag"] == pytest.approx(late, abs=0.09)
    assert found["rival"] > 2


def test_a_still_mouth_is_told_from_a_moving_one():
    moving, still = measure(clicks(BEATS), opening(BEATS)), measure(clicks(BEATS), np.full(126, 0.01))
    assert still["mouth"] < 0.01 < moving["mouth"]
    assert still["z"] is None


def test_silence_has_no_lag():
    assert measure(np.zeros(len(seconds(5.04)), np.float32), opening(BEATS))["z"] is None


def test_what_can_not_be_judged():
    empty = {"z": None, "rival": None, "lag": None, "correlation": None, "mouth": None}
    assert scores(Sync(), view(tracks=nobody(), audio=clicks(BEATS))) == empty
    assert scores(Sync(), view(tracks=person(opening=opening(BEATS)))) == empty
    face = np.tile(np.array([0.4, 0.2, 0.6, 0.6]), (126, 1))
    face[60:] = np.nan
    assert scores(Sync(), view(tracks=person(face=face), audio=clicks(BEATS))) == empty

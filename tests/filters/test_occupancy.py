import numpy as np
import pytest

from dataset.tracks import Tracks
from filters.media import Media
from filters.occupancy import Occupancy
from tests.filters.builders import nobody, person, scores, view


def join(*people: Tracks) -> Tracks:
    columns = (np.concatenate([getattr(p, name) for p in people]) for name in ("keypoints", "boxes", "faces"))
    return Tracks(people[0].times, np.arange(len(people)), *columns)


def measure(tracks: Tracks, picture: float = 1.0):
    return scores(Occupancy(), view(tracks=tracks, measured={"media": Media.Scores(picture=picture)}))


def test_overlapping_people_count_once():
    two = join(person(body=(0.0, 0.0, 0.5, 1.0)), person(body=(0.25, 0.0, 0.75, 1.0)))
    assert measure(two)["area"] == pytest.approx(0.75, abs=0.01)


def test_a_brief_but_large_person():
    body = np.tile(np.array([0, 0, 1, 1.0]), (100, 1))
    body[20:] = np.nan
    found = measure(person(count=100, body=body))
    assert found["time"] == pytest.approx(0.2)
    assert found["area"] == pytest.approx(1)


def test_nobody():
    assert measure(nobody()) == {"area": 0, "time": 0}


def test_letterboxed_people_are_as_large_as_without_bars():
    assert measure(person(body=(0.4, 0.2, 0.6, 0.8)), picture=0.6)["area"] == pytest.approx(0.2, abs=0.01)

import numpy as np
import pytest

from filters.faces import Faces
from tests.filters.builders import nobody, person, scores, view
from tests.filters.test_occupancy import join


def test_one_face():
    found = scores(Faces(), view(tracks=person(face=(0.4, 0.2, 0.6, 0.6))))
    assert found["visible"] == found["dominant"] == found["count"] == 1
    assert found["height"] == pytest.approx(0.4)
    assert found["area"] == pytest.approx(0.08)


def test_two_people_taking_turns_are_visible_but_not_consistent():
    first, second = (np.tile(np.array([0.4, 0.2, 0.6, 0.6]), (100, 1)) for _ in range(2))
    first[60:], second[:60] = np.nan, np.nan
    found = scores(Faces(), view(tracks=join(person(count=100, face=first), person(count=100, face=second))))
    assert found["visible"] == 1
    assert found["dominant"] == pytest.approx(0.6)


def test_the_dominant_face_is_the_one_that_fills_most():
    tracks = join(person(face=(0.0, 0.0, 0.05, 0.1)), person(face=(0.4, 0.2, 0.6, 0.6)))
    found = scores(Faces(), view(tracks=tracks))
    assert found["count"] == 2
    assert found["height"] == pytest.approx(0.4)


def test_no_face():
    found = scores(Faces(), view(tracks=nobody()))
    assert found["visible"] == 0
    assert found["height"] is None
    turned_away = scores(Faces(), view(tracks=person(face=(np.nan,) * 4)))
    assert turned_away["visible"] == 0

"""Times where a container states few."""

import pytest

from dataset.stamps import HELD, paced


def times(stamps: list[float | None], step: float = 0.1) -> list[float]:
    return [time for time, _ in paced(((stamp, None) for stamp in stamps), step)]


def test_frames_lie_evenly_between_those_that_say_when():
    assert times([1, None, None, 4, None, 5]) == pytest.approx([1, 2, 3, 4, 4.5, 5])


def test_nobody_knows_when_frames_before_the_first_stamp_are_shown():
    assert times([None, None, 7, None]) == pytest.approx([7, 7.1])


def test_the_end_goes_on_at_the_pace_of_what_came_before():
    assert times([0, None, 1, None, None]) == pytest.approx([0, 0.5, 1, 1.5, 2])


def test_time_goes_forward_and_recovers_from_a_wrong_pace():
    stamps = [0, *[None] * HELD, 3, 2.9, 100, 101]
    assert times(stamps) == sorted(set(times(stamps)))
    assert times(stamps)[-2:] == [100, 101]


def test_few_frames_are_held():
    taken = iter([(0, None), *[(None, None)] * 1000])
    stream = paced(taken, 0.1)
    assert [next(stream)[0] for _ in range(3)] == pytest.approx([0, 0.1, 0.2])
    assert len(list(taken)) == 1000 - HELD

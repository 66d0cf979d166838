"""The model of many workers: what must hold whatever it is told; and that the benchmark around it runs."""

import subprocess
import sys
from dataclasses import replace

import pytest

from benchmarks.fleet import Fleet, part_size, simulate
from benchmarks.scale import line

IDEAL = Fleet(100, 2.0, spread=0.0, dispatch=0.0, store=0.0, losses=0.0, slow=0.0, start=0.0)


def test_a_fleet_without_troubles_is_always_busy() -> None:
    outcome = simulate(IDEAL, 128 * 100 * 10, size=128)
    assert outcome.hours == pytest.approx(10 * 128 * 2 / 3600)
    assert outcome.busy == pytest.approx(1)
    assert outcome.lost == 0


def test_every_trouble_costs_time() -> None:
    calm = simulate(IDEAL, 1_000_000)
    worse = (replace(IDEAL, losses=5), replace(IDEAL, slow=0.1), replace(IDEAL, spread=1), replace(IDEAL, store=1))
    for fleet in (*worse, replace(IDEAL, start=600), replace(IDEAL, dispatch=1)):
        assert simulate(fleet, 1_000_000).hours > calm.hours, fleet


def test_a_driver_that_is_slower_than_its_workers_sets_the_pace() -> None:
    outcome = simulate(replace(IDEAL, seconds=0.001, dispatch=0.01), 1_000_000)
    assert outcome.driver == pytest.approx(1, abs=0.01)
    assert outcome.hours == pytest.approx(outcome.parts * 0.01 / 3600, rel=0.02)


def test_no_part_is_lost_with_its_worker() -> None:
    outcome = simulate(replace(IDEAL, losses=20.0, back=60.0), 100_000, size=128)
    assert outcome.lost > 0
    assert outcome.busy * 100 * outcome.hours * 3600 == pytest.approx(782 * 128 * 2)


def test_parts_shrink_when_there_are_many_workers() -> None:
    assert part_size(10_000_000, 1000) == 128
    assert part_size(10_000_000, 4096) == 76
    assert part_size(10, 4096) == 1


def test_a_fit_tells_how_far_it_is_off() -> None:
    fit = line([1, 2, 10], [2.0, 3.0, 22.0])
    assert fit.error == pytest.approx(-0.5)


@pytest.mark.real
def test_the_benchmark_runs() -> None:
    done = subprocess.run([sys.executable, "-m", "benchmarks.scale", "--quick"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "Measuring 10,000,000 clips" in done.stdout

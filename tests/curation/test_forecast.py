"""`s2v plan curate`: honest ranges, and a plan from a sample that is curated for real."""

import re
from pathlib import Path

import numpy as np
import pytest

from curation.extrapolate import Sample
from curation.forecast import Forecast, Machines, Stage, plan
from curation.forecast_report import time_and_cost
from curation.layout import CLIPS, read
from curation.rehearsal import costs, draw
from curation.sizes import sizes
from curation.sources import Item
from dataset.errors import UsageError
from tests.curation.test_run import Workshop, s2v
from tests.curation.without_ray import without_ray
from tests.videos import clicks, moving_square, write_video

# ---------------------------------------------------------------- the estimator


def coverage(*, count: int, drawn: int, by_bytes: bool, rounds: int = 300) -> float:
    """How often the range of kept hours covers the truth, when durations are heavy-tailed and sources alike inside."""
    dice, hits = np.random.default_rng(0), 0
    for _ in range(rounds):
        hours = dice.lognormal(0, 1.2, count)
        size = hours * dice.lognormal(0, 0.4, count) if by_bytes else np.ones(count)
        kept = np.where(dice.random(count) < 0.6, dice.beta(1, 3, count) * hours, 0)
        picked = dice.choice(count, drawn, replace=False)
        found = Sample(size[picked], size.sum(), count).range(kept[picked], hours[picked])
        hits += found.low <= kept.sum() <= found.high
    return hits / rounds


@pytest.mark.parametrize(("count", "drawn"), [(2000, 50), (120, 50), (500, 20)])
@pytest.mark.parametrize("by_bytes", [True, False])
def test_nine_of_ten_ranges_cover_the_truth(count: int, drawn: int, by_bytes: bool) -> None:
    assert 0.85 <= coverage(count=count, drawn=drawn, by_bytes=by_bytes) <= 0.96


def test_sizes_narrow_the_range() -> None:
    dice = np.random.default_rng(1)
    hours = dice.lognormal(0, 1.2, 1000)
    size = 1e9 * hours * dice.lognormal(0, 0.1, 1000)
    by_bytes = Sample(size[:50], size.sum(), 1000).range(hours[:50])
    by_number = Sample(np.ones(50), 1000, 1000).range(hours[:50])
    assert by_bytes.high - by_bytes.low < 0.3 * (by_number.high - by_number.low)


def test_what_is_known_has_no_range() -> None:
    found = Sample(np.ones(3), 3, 3).range([1, 2, 3])
    assert (found.value, found.low, found.high) == (6, 6, 6)


def test_none_seen_is_not_none_at_all() -> None:
    found = Sample(np.ones(50), 10_000, 10_000).range(np.zeros(50), np.full(50, 4.0))
    assert found.low == 0
    assert found.high == pytest.approx(4 * 10_000 * 0.058, rel=0.02)  # 3 of 50: the rule of three


def test_one_source_tells_no_range() -> None:
    assert Sample(np.ones(1), 9, 9).range([2.0]).high == np.inf


# ---------------------------------------------------------------- sources


def test_the_draw_is_the_same_again_and_other_with_another_seed() -> None:
    items = [Item(f"{i}.mp4") for i in range(100)]
    assert draw(items, 10, 0) == draw(items, 10, 0) != draw(items, 10, 1)
    assert draw(items, 1000, 0) == list(range(100))


def test_sizes_are_listed_for_files_and_not_for_web_addresses(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(bytes(30))
    found = sizes([Item(str(tmp_path / "a.mp4")), Item(str(tmp_path / "gone.mp4"))])
    assert found is not None
    assert found.tolist() == [30, 0]
    assert sizes([Item(str(tmp_path / "a.mp4")), Item("http://host/a.mp4")]) is None


# ---------------------------------------------------------------- time and cost


def test_the_bottleneck_and_both_costs() -> None:
    none = Sample(np.ones(1), 1, 1).range([0.0])
    hour = Sample(np.ones(1), 1, 1).range([3600.0])
    stages = [
        Stage("ingest", hour.times(100), 1, 0, 100, None),
        Stage("measure", hour.times(400), 1, 0.25, 40, None),
        Stage("pack", hour.times(100), 1, 0, 100, None),
    ]
    found = Forecast(9, 1, False, False, none, none, none, none, none, stages, {}, {}, Machines(100, 10, 0.04, 2.5))
    assert found.wall == 3600 * (1 + 10 + 1)
    assert found.cost_of_work == pytest.approx(600 * 0.04 + 100 * 2.5)
    assert found.cost_when_held == pytest.approx(12 * (100 * 0.04 + 10 * 2.5))
    text = time_and_cost(found)
    assert "12.0 h" in text
    assert "83% of it is [magenta]measure[/], which the GPUs hold to 40 workers" in text


# ---------------------------------------------------------------- for real


def test_a_plan_of_eight_videos_from_four(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    shop = Workshop(tmp_path)
    for i in range(7):
        seconds = 2.0 + i % 3
        sound = clicks(seconds) * (1 if i % 2 else 0.01)
        write_video(shop.videos / f"{i}.mp4", seconds, picture=lambda t, i=i: moving_square(t + i), sound=sound)
    (shop.videos / "7.mp4").write_text("<html>")
    words = ["plan", "curate", shop.videos, "--sample", 4, "--recipe", shop.recipe_file, "--workers", 8]
    words += ["--keep", tmp_path / "trial"]
    with without_ray():
        printed = s2v(*words)
        again = s2v(*words)
    assert re.search(r"8 sources hold about .* would be kept", printed)
    assert "4 of 8 sources tried" in printed
    assert "the rest goes by its bytes" in printed
    for word in ("ingest", "measure", "pack", "with 8 workers", "decode", "loudness.peak", "unreadable sources"):
        assert word in printed
    trial = str(tmp_path / "trial")
    assert {row["stage"] for row in costs(trial).read().to_pylist()} == {"ingest", "measure", "pack"}
    assert read(f"{trial}/dataset", CLIPS).num_rows in (3, 4)

    assert again.count("nothing to do") == 3
    assert printed[printed.index("8 sources hold") :] == again[again.index("8 sources hold") :]
    assert "another sample" in s2v(*words, "--seed", 5, code=2)
    assert "another recipe" in s2v(*words, "--recipe", "embedded", code=2)


def test_a_plan_without_a_name_is_one_for_training() -> None:
    assert "curate" in s2v("plan", "--help")
    assert "nonsense" in s2v("plan", "--stage", "nonsense", code=2)
    assert "nonsense" in s2v("plan", "train", "--stage", "nonsense", code=2)


@pytest.mark.parametrize(("sources", "sample", "told"), [(["."], 0, "--sample"), (["list.csv"], 5, "no sources")])
def test_bad_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sources: list[str], sample: int, told: str) -> None:
    from rich.console import Console

    monkeypatch.chdir(tmp_path)
    Path("list.csv").write_text("path\n")
    with pytest.raises(UsageError, match=told):
        plan(sources, sample, 0, "", "", "", Machines(1), Console(quiet=True))

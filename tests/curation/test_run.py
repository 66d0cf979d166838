"""`s2v curate` end to end on small real videos and filters from outside the package, with real Ray where it matters."""

import collections
import contextlib
import io
import os
import re
from pathlib import Path

import pytest
import ray
import webdataset
import yaml

import cli
from curation.layout import FAILURES, SCORES, VERDICTS, read
from curation.recipe import Recipe
from dataset.stage import start_ray
from tests.curation.without_ray import without_ray
from tests.videos import clicks, moving_square, write_video

PLUGINS = Path(__file__).parent / "plugins.py"


def s2v(*args: object, code: int = 0) -> str:
    """Run the command line in this process, on the Ray that is already there; returns what it printed."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed), pytest.raises(SystemExit) as ended:
        cli.main([str(a) for a in args])
    assert (ended.value.code or 0) == code, printed.getvalue()
    return printed.getvalue()


class Workshop:
    """A folder with videos, a recipe, a policy and a dataset."""

    def __init__(self, folder: Path):
        self.videos, self.dataset, self.log = folder / "videos", folder / "dataset", folder / "log"
        self.recipe_file, self.policy_file = folder / "recipe.yaml", folder / "policy.yaml"
        self.videos.mkdir()
        self.recipe()
        self.policy()

    def recipe(self, *, level: int = 0, cascade: bool = True, trouble: bool = False, **settings: object) -> None:
        plugin = [
            "header",
            {f"{PLUGINS}:Brightness": {"log": str(self.log)}},
            {f"{PLUGINS}:Loudness": {"log": str(self.log), "level": level}},
        ]
        plugin += [f"{PLUGINS}:Trouble"] if trouble else []
        data = {"name": "test", "policy": str(self.policy_file), "filters": plugin, "cascade": cascade, **settings}
        self.recipe_file.write_text(yaml.safe_dump(data))

    def policy(self, *, brightest: float = 255) -> None:
        rules = [
            {"score": "header.duration", "min": 1, "source": "test"},
            {"score": "brightness.mean", "max": brightest, "source": "test"},
            {"score": "loudness.peak", "min": 0.1, "source": "test"},
        ]
        self.policy_file.write_text(yaml.safe_dump({"name": "test", "rules": rules}))

    def curate(self, *args: object, code: int = 0) -> str:
        self.log.write_text("")
        return s2v("curate", self.videos, "--out", self.dataset, "--recipe", self.recipe_file, *args, code=code)

    def measured(self) -> collections.Counter:
        """How often each filter ran in the last run."""
        return collections.Counter(line.split()[0] for line in self.log.read_text().splitlines())

    def kept(self) -> set[str]:
        verdicts = read(str(self.dataset), VERDICTS)
        return {row["clip_id"] for row in verdicts.to_pylist() if row["keep"]}

    def index(self) -> bytes:
        return (self.dataset / "shards" / "index.parquet").read_bytes()

    def failures(self) -> dict[str, dict]:
        return {Path(row["source"]).name: row for row in read(str(self.dataset), FAILURES).to_pylist()}


@pytest.fixture(scope="module")
def shared_ray():
    """One Ray for the commands of this file that need it."""
    start_ray()
    yield
    ray.shutdown()


@pytest.fixture
def here():
    with without_ray():
        yield


@pytest.fixture(autouse=True)
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "160")


@pytest.fixture
def shop(tmp_path) -> Workshop:
    return Workshop(tmp_path)


def write_good(shop: Workshop, count: int = 4) -> None:
    for i in range(count):
        sound = clicks(2) * (0.5 + 0.1 * i)
        write_video(shop.videos / f"good_{i}.mp4", 2, picture=lambda t, i=i: moving_square(t + i, 96, 128), sound=sound)


def test_from_videos_to_shards_and_on(shared_ray, shop):
    """The whole way, then: nothing to do, a new source, a changed filter, a loosened and a tightened policy."""
    write_good(shop)
    write_video(shop.videos / "short.mp4", 0.4, sound=clicks(0.6))
    write_video(shop.videos / "silent.mp4", 2)
    write_video(shop.videos / "quiet.mp4", 2, sound=clicks(2) * 0.01)
    (shop.videos / "page.mp4").write_text("<html>")
    printed = shop.curate()
    assert "kept" in printed
    assert "Report:" in printed
    assert (shop.dataset / "report" / "index.html").stat().st_size > 10_000
    assert len(shop.kept()) == 5  # silent.mp4 has no loudness to break a rule
    assert set(shop.failures()) == {"page.mp4"}
    assert shop.measured() == {"brightness": 6, "loudness": 6}  # the short one was stopped by its header
    decoded = re.search(r"(\d\.\d+) a frame; (\d+) files opened", printed)
    assert decoded
    assert float(decoded[1]) <= 1.05
    shards = sorted(str(p) for p in (shop.dataset / "shards").glob("*.tar"))
    samples = list(webdataset.WebDataset(shards, shardshuffle=False))
    assert {s["__key__"] for s in samples} == shop.kept()
    assert all(s["mp4"][4:8] == b"ftyp" and b"caption" in s["json"] for s in samples)

    index = shop.index()
    assert shop.curate().count("nothing to do") == 3
    assert shop.index() == index
    with without_ray():
        and_on(shop)


def and_on(shop: Workshop) -> None:
    write_video(shop.videos / "more.mp4", 2, picture=lambda t: moving_square(t + 9), sound=clicks(2))
    shop.curate()
    assert shop.measured() == {"brightness": 1, "loudness": 1}
    assert len(shop.kept()) == 6

    shop.recipe(level=1)
    shop.curate()
    assert shop.measured() == {"loudness": 7}  # only the changed filter, on every clip that had it

    shop.policy(brightest=1)
    s2v("select", shop.dataset, "--policy", shop.policy_file)
    assert not shop.kept()
    shop.curate()
    assert shop.measured() == {}
    assert not list((shop.dataset / "shards").glob("*.tar"))


def test_a_loosened_threshold_measures_only_what_the_cascade_skipped(here, shop):
    write_good(shop)
    write_video(shop.videos / "dark.mp4", 2, picture=lambda t: moving_square(t) // 4, sound=clicks(2))
    shop.policy(brightest=60)
    shop.curate()
    assert shop.measured() == {"brightness": 5, "loudness": 1}
    assert len(shop.kept()) == 1
    shop.policy(brightest=255)
    waiting = s2v("select", shop.dataset, "--policy", shop.policy_file)
    assert "4 clips may need more measuring" in waiting
    assert len(shop.kept()) == 1
    shop.curate()
    assert shop.measured() == {"loudness": 4}
    assert len(shop.kept()) == 5
    scores = read(str(shop.dataset), SCORES)
    assert len(set(scores["clip_id"].to_pylist())) == scores.num_rows == 5


def test_bad_clips_cost_only_themselves(shared_ray, shop):
    write_good(shop)
    for name in ("segfault", "raise"):
        write_video(
            shop.videos / f"{name}.mp4", 2, picture=lambda t, n=name: moving_square(t + len(n)), sound=clicks(2)
        )
    write_video(shop.videos / "later_segfault.mp4", 6, picture=lambda t: moving_square(t + 30), sound=clicks(6))
    (shop.videos / "empty.mp4").touch()
    os.mkfifo(shop.videos / "pipe.mp4")
    os.symlink(shop.videos / "gone", shop.videos / "dangling.mp4")
    (shop.videos / "list.csv").write_text("path\nhttp://127.0.0.1:9/unreachable.mp4\n")
    (shop.videos / "copy.mp4").write_bytes((shop.videos / "good_0.mp4").read_bytes())
    shop.recipe(trouble=True, shots={"max_seconds": 3})
    printed = shop.curate(shop.videos / "list.csv")
    failures = shop.failures()
    expected = {
        "segfault.mp4": "killed its worker twice .*SIGSEGV",
        "later_segfault.mp4": "killed its worker twice .*SIGSEGV",
        "raise.mp4": "ValueError: no good",
        "empty.mp4": "empty file",
        "pipe.mp4": "not a regular file",
        "dangling.mp4": "no such file",
        "unreachable.mp4": "can't be fetched",
        "good_0.mp4": "same bytes as .*copy.mp4",
    }
    assert set(failures) == set(expected)
    for name, words in expected.items():
        assert re.match(words, failures[name]["error"]), failures[name]
        assert failures[name]["remedy"]
    assert len(shop.kept()) == 5  # the good ones, and the first half of later_segfault
    assert "8 failures" in printed
    with without_ray():
        assert "Measure" in shop.curate(shop.videos / "list.csv")
    assert shop.measured() == {}  # lasting failures are not tried again


def test_a_clip_that_hangs_is_given_up_and_no_other(here, shop, monkeypatch):
    limits = Recipe.limits

    def patient(recipe: Recipe, source: str) -> dict[str, float]:
        """The others may take what they need on a busy machine."""
        hangs = Path(source).name == "hang.mp4"
        return limits(recipe if hangs else recipe.model_copy(update={"time_limit": 120.0}), source)

    monkeypatch.setattr(Recipe, "limits", patient)
    write_good(shop, 2)
    write_video(shop.videos / "hang.mp4", 2, picture=lambda t: moving_square(t + 5), sound=clicks(2))
    shop.recipe(trouble=True, time_limit=1)
    assert "1 failures" in shop.curate()
    failures = shop.failures()
    assert set(failures) == {"hang.mp4"}
    assert failures["hang.mp4"]["error"] == "took longer than 1 s"
    assert failures["hang.mp4"]["remedy"]
    assert len(shop.kept()) == 2
    assert shop.curate().count("nothing to do") == 3


def test_caption_screen_spares_the_decode(here, shop):
    write_good(shop, 2)
    manifest = shop.videos / "list.csv"
    manifest.write_text("path,caption\ngood_0.mp4,a woman speaks\ngood_1.mp4,an empty road at dusk\n")
    data = yaml.safe_load(shop.recipe_file.read_text())
    data["filters"].insert(0, "caption")
    shop.recipe_file.write_text(yaml.safe_dump(data))
    rules = yaml.safe_load(shop.policy_file.read_text())
    rules["rules"].insert(0, {"score": "caption.person", "min": 1, "source": "test"})
    shop.policy_file.write_text(yaml.safe_dump(rules))
    shop.log.write_text("")
    s2v("curate", manifest, "--out", shop.dataset, "--recipe", shop.recipe_file)
    assert shop.measured() == {"brightness": 1, "loudness": 1}
    assert len(shop.kept()) == 1


def test_dry_run_writes_nothing(shop):
    write_good(shop, 2)
    printed = shop.curate("--dry-run")
    assert "2 sources, 2 of them not ingested yet" in printed
    assert not shop.dataset.exists()


def test_explain_and_status(here, shop):
    write_good(shop, 2)
    write_video(shop.videos / "quiet [bold].mp4", 2, sound=clicks(2) * 0.01)
    shop.curate()
    card = s2v("explain", shop.dataset, "quiet")
    assert "quiet [bold].mp4" in card  # a name is text, not markup
    assert re.search(r"peak .* >= 0.1 .* -0.09", card)
    assert "past the threshold 0.1" in card
    assert "dropped by loudness" in s2v("status", shop.dataset)
    assert "2 clips match" in s2v("explain", shop.dataset, "good", code=2)
    assert "No clip" in s2v("explain", shop.dataset, "nobody", code=2)
    assert "has no tracks" in s2v("render-pose", shop.dataset, "quiet", "--out", shop.videos / "p.mp4", code=1)
    assert "is not a dataset" in s2v("status", shop.videos, code=2)

"""What TensorBoard and Weights & Biases are given."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from dataset.errors import UsageError
from trainer import loggers
from trainer.loggers import Loggers, TensorBoard, check_wandb, open_loggers

# The calls of the real module that are used here, kept in a file. `steps` is what the service has of the run.
WANDB = """
import json, os, sys

class Error(Exception):
    pass

class Settings:
    def __init__(self, **settings):
        self.settings = settings

class Image:
    def __init__(self, picture):
        assert picture.dtype == "uint8"

class Video:
    def __init__(self, path, format):
        assert format == "mp4" and isinstance(path, str)

class Run:
    step = 0
    def __init__(self, told):
        self.told = told
    def log(self, values, step):
        assert step >= self.step, "the service would warn and drop it"
        self.step = step
        kinds = {key: value if isinstance(value, float) else type(value).__name__ for key, value in values.items()}
        self.told({"log": kinds, "step": step})
    def finish(self):
        self.told({"finish": True})

def init(*, entity, project, name, id, resume, dir, config, settings):
    if project == "locked":
        raise Error("api_key not configured.")
    told = lambda row: open(os.path.join(dir, "told.jsonl"), "a").write(json.dumps(row) + "\\n")
    told({"entity": entity, "project": project, "name": name, "id": id, "resume": resume, "config": config,
          "settings": settings.settings})
    run = Run(told)
    file = os.path.join(dir, "steps")
    run.step = int(open(file).read()) if os.path.exists(file) else 0
    return run
"""


@pytest.fixture
def wandb(tmp_path, monkeypatch):
    folder = tmp_path / "modules"
    folder.mkdir()
    (folder / "wandb.py").write_text(WANDB)
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.delitem(sys.modules, "wandb", raising=False)
    yield
    sys.modules.pop("wandb", None)


@pytest.fixture
def run(tmp_path) -> Path:
    folder = tmp_path / "run"
    folder.mkdir()
    return folder


def events(run: Path) -> EventAccumulator:
    accumulator = EventAccumulator(str(run / "tensorboard"))
    accumulator.Reload()
    return accumulator


def told(run: Path) -> list[dict]:
    return [json.loads(text) for text in (run / "told.jsonl").read_text().splitlines()]


def test_tensorboard_reads_what_was_logged(run):
    logger = TensorBoard(run)
    for step in (1, 2):
        logger.scalars(step, {"train/loss": 1 / step, "speed/mfu": 0.4})
    logger.image(2, "video/a", np.full((8, 12, 3), 200, np.uint8))
    logger.video(2, "video/a", run / "a.mp4")
    logger.close()
    found = events(run)
    assert [(e.step, e.value) for e in found.Scalars("train/loss")] == [(1, 1.0), (2, 0.5)]
    assert found.Tags()["scalars"] == ["train/loss", "speed/mfu"]
    (image,) = found.Images("video/a")
    assert (image.width, image.height) == (12, 8)


def test_tensorboard_shows_a_resumed_run_as_one(run):
    first = TensorBoard(run)
    for step in range(1, 8):
        first.scalars(step, {"train/loss": 1.0})
    first.close()
    second = TensorBoard(run, after=5)
    for step in range(6, 9):
        second.scalars(step, {"train/loss": 2.0})
    second.close()
    found = events(run).Scalars("train/loss")
    assert [e.step for e in found] == list(range(1, 9))
    assert [e.value for e in found] == [1.0] * 5 + [2.0] * 3


def test_tensorboard_forgets_a_run_that_never_saved(run):
    for value in (1.0, 2.0):
        logger = TensorBoard(run, after=0)
        for step in (0, 1):
            logger.scalars(step, {"train/loss": value})
        logger.close()
    assert [(e.step, e.value) for e in events(run).Scalars("train/loss")] == [(0, 2.0), (1, 2.0)]


def test_without_weights_and_biases_the_message_says_what_to_install(run, monkeypatch):
    monkeypatch.setattr(loggers, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match="pip install wandb"):
        check_wandb()
    with pytest.raises(UsageError, match="pip install wandb"):
        open_loggers(run, {}, wandb="talkers")
    assert not (run / "tensorboard").exists()


def test_a_folder_that_weights_and_biases_left_behind_is_no_package(tmp_path, monkeypatch):
    (tmp_path / "wandb").mkdir()
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    monkeypatch.delitem(sys.modules, "wandb", raising=False)
    with pytest.raises(UsageError, match="pip install wandb"):
        check_wandb()


def test_weights_and_biases_gets_numbers_pictures_and_settings(wandb, run):
    logger = open_loggers(run, {"name": "speech"}, wandb="team/talkers")
    logger.scalars(1, {"train/loss": 0.5})
    logger.image(1, "video/a", np.zeros((4, 4, 3), np.uint8))
    logger.video(1, "video/a/film", run / "a.mp4")
    logger.close()
    start, *logged, end = told(run)
    assert (start["entity"], start["project"], start["name"]) == ("team", "talkers", "run")
    assert start["config"] == {"name": "speech"}
    assert start["resume"] == "allow"
    assert logged == [
        {"log": {"train/loss": 0.5}, "step": 1},
        {"log": {"video/a": "Image"}, "step": 1},
        {"log": {"video/a/film": "Video"}, "step": 1},
    ]
    assert end == {"finish": True}
    assert events(run).Tags()["scalars"] == ["train/loss"]


def test_weights_and_biases_is_told_nothing_of_the_environment(wandb, run):
    open_loggers(run, {}, wandb="talkers").close()
    start = told(run)[0]
    assert start["entity"] is None
    settings = start["settings"]
    assert settings["console"] == "off"
    assert settings["save_code"] is settings["x_save_requirements"] is False
    assert all(value for key, value in settings.items() if "disable" in key)
    assert str(run) not in json.dumps(start)


def test_a_resumed_run_goes_on_with_the_same_id_and_sends_no_step_twice(wandb, run):
    first = open_loggers(run, {}, wandb="talkers")
    first.scalars(7, {"train/loss": 1.0})
    first.close()
    (run / "steps").write_text("8")
    second = open_loggers(run, {}, after=5, wandb="talkers")
    for step in range(6, 10):
        second.scalars(step, {"train/loss": 2.0})
    second.close()
    rows = told(run)
    assert len({row["id"] for row in rows if "id" in row}) == 1
    assert [row["step"] for row in rows if "step" in row] == [7, 8, 9]


def test_whoever_is_not_logged_in_hears_what_to_do(wandb, run):
    with pytest.raises(UsageError, match="wandb login"):
        open_loggers(run, {}, wandb="locked")


def test_every_logger_is_closed_even_if_one_fails():
    closed = []

    class Failing:
        def close(self):
            raise OSError("disk full")

    class Good:
        def close(self):
            closed.append(self)

    with pytest.raises(OSError, match="disk full"):
        Loggers([Good(), Failing(), Good()]).close()
    assert len(closed) == 2

"""`kill -9` at random moments: after one more run, every clip is there once and the index is the same to the byte."""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import webdataset
import yaml

from curation.layout import CLIPS, FAILURES, SCORES, VERDICTS, read
from tests.curation.test_run import s2v
from tests.curation.without_ray import without_ray
from tests.videos import clicks, moving_square, write_video

PLUGINS = Path(__file__).parent / "plugins.py"
SOURCES = 14


@pytest.fixture(scope="module")
def recipe(tmp_path_factory) -> Path:
    """A recipe over short videos, with a filter slow enough to be killed in the middle until `hurry` is there."""
    folder = tmp_path_factory.mktemp("kill")
    (folder / "videos").mkdir()
    for i in range(SOURCES):
        picture = lambda t, i=i: moving_square(t + i)  # noqa: E731
        write_video(folder / "videos" / f"{i:02d}.mp4", 2, picture=picture, sound=clicks(2))
    (folder / "policy.yaml").write_text("name: all\nrules: []\n")
    filters = ["header", {f"{PLUGINS}:Slow": {"seconds": 1.0, "hurry": str(folder / "hurry")}}]
    data = {"name": "slow", "policy": str(folder / "policy.yaml"), "filters": filters, "shard_clips": 4}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(data))
    return folder / "recipe.yaml"


@contextmanager
def in_a_hurry(recipe: Path) -> Iterator[None]:
    hurry = recipe.with_name("hurry")
    hurry.touch()
    yield
    hurry.unlink()


@pytest.fixture(scope="module")
def calm(recipe: Path) -> Path:
    """What comes of it when nothing is killed."""
    dataset = recipe.with_name("calm")
    with in_a_hurry(recipe), without_ray():
        s2v("curate", recipe.parent / "videos", "--out", dataset, "--recipe", recipe)
    return dataset


def start(recipe: Path, dataset: Path) -> subprocess.Popen:
    command = [sys.executable, "-m", "cli", "curate", recipe.parent / "videos", "--out", dataset, "--recipe", recipe]
    env = {**os.environ, "PYTHONPATH": str(PLUGINS.parents[2])}
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    return subprocess.Popen(list(map(str, command)), env=env, start_new_session=True, **quiet)


def workers(driver: int) -> list[int]:
    """Processes below the driver that do the work: Ray's actors, and the children that decode."""
    parents, found = {}, []
    for pid in (int(p) for p in os.listdir("/proc") if p.isdigit()):
        try:
            parents[pid] = int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[1])
            command = Path(f"/proc/{pid}/cmdline").read_bytes()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if b"dataset.isolate" in command or b"MapWorker" in command:
            found.append(pid)
    return [pid for pid in found if driver in ancestors(pid, parents)]


def ancestors(pid: int, parents: dict[int, int]) -> list[int]:
    found = []
    while pid := parents.get(pid, 0):
        found.append(pid)
    return found


def storm(recipe: Path, dataset: Path, targets: Sequence[str], dice: random.Random) -> None:
    """Run and kill, one target after the other: a worker, the driver, or either."""
    run = start(recipe, dataset)
    for target in targets:
        while not kill(target, run, dice):
            if run.poll() is not None:  # it was killed, or came to its end in between: go on with the next
                run = start(recipe, dataset)
    run.kill()
    run.wait()


def kill(target: str, run: subprocess.Popen, dice: random.Random) -> bool:
    """After a while. False: there was nothing of it to kill."""
    time.sleep(dice.uniform(0.3, 4))
    victims = workers(run.pid) if run.poll() is None else []
    if not victims and (target == "worker" or run.poll() is not None or dice.random() < 0.8):
        return False  # while it starts, it is rarely worth a kill
    worker = target == "worker" or (target == "either" and victims and dice.random() < 0.6)
    try:
        os.kill(dice.choice(victims) if worker else run.pid, signal.SIGKILL)
    except ProcessLookupError:
        return False
    if not worker:
        run.wait()
    return True


@pytest.mark.parametrize(
    "targets", [("worker", "driver"), pytest.param(("either",) * 20, marks=pytest.mark.real)], ids=len
)
def test_a_storm_of_kills_loses_and_doubles_nothing(recipe, calm, tmp_path, targets):
    stormy = tmp_path / "stormy"
    storm(recipe, stormy, targets, random.Random(len(targets)))
    with in_a_hurry(recipe):
        assert start(recipe, stormy).wait(timeout=300) == 0
    for name in (CLIPS, SCORES, VERDICTS):
        ids = read(str(stormy), name)["clip_id"].to_pylist()
        assert len(ids) == len(set(ids)) == SOURCES, name
    assert read(str(stormy), FAILURES).num_rows == 0
    index = stormy / "shards" / "index.parquet"
    assert index.read_bytes() == (calm / "shards" / "index.parquet").read_bytes()
    assert pq.read_table(index).num_rows == SOURCES
    shards = sorted(str(p) for p in (stormy / "shards").glob("*.tar"))
    keys = [s["__key__"] for s in webdataset.WebDataset(shards, shardshuffle=False)]
    assert len(keys) == len(set(keys)) == SOURCES
    for shard in shards:
        assert Path(shard).read_bytes() == (calm / "shards" / Path(shard).name).read_bytes()

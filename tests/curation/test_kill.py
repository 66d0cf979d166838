"""`kill -9` at random moments: after one more run, every clip is there once and the index is the same to the byte."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import webdataset
import yaml

from curation.layout import CLIPS, FAILURES, SCORES, VERDICTS, read
from tests.videos import clicks, moving_square, write_video

PLUGINS = Path(__file__).parent / "plugins.py"
SOURCES = 14


@pytest.fixture(scope="module")
def recipe(tmp_path_factory) -> Path:
    """A recipe over short videos, with a filter slow enough to be killed in the middle."""
    folder = tmp_path_factory.mktemp("kill")
    (folder / "videos").mkdir()
    for i in range(SOURCES):
        picture = lambda t, i=i: moving_square(t + i)  # noqa: E731
        write_video(folder / "videos" / f"{i:02d}.mp4", 2, picture=picture, sound=clicks(2))
    (folder / "policy.yaml").write_text("name: all\nrules: []\n")
    filters = ["header", {f"{PLUGINS}:Slow": {"seconds": 0.4}}]
    data = {"name": "slow", "policy": str(folder / "policy.yaml"), "filters": filters, "shard_clips": 4}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(data))
    return folder / "recipe.yaml"


def start(recipe: Path, dataset: Path) -> subprocess.Popen:
    command = [sys.executable, "-m", "cli", "curate", recipe.parent / "videos", "--out", dataset, "--recipe", recipe]
    env = {**os.environ, "PYTHONPATH": str(PLUGINS.parents[2])}
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    return subprocess.Popen(list(map(str, command)), env=env, start_new_session=True, **quiet)


def finish(recipe: Path, dataset: Path) -> None:
    assert start(recipe, dataset).wait(timeout=300) == 0


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


def storm(recipe: Path, dataset: Path, kills: int, dice: random.Random) -> list[str]:
    """Run and kill, until `kills` processes were killed; returns what was killed."""
    killed: list[str] = []
    run = start(recipe, dataset)
    while len(killed) < kills:
        time.sleep(dice.uniform(0.3, 4))
        if run.poll() is not None:  # it came to its end in between: go on with the next
            run = start(recipe, dataset)
            continue
        victims = workers(run.pid)
        if not victims and dice.random() < 0.8:
            continue  # still starting: rarely worth a kill
        name, victim = ("worker", dice.choice(victims)) if victims and dice.random() < 0.6 else ("driver", run.pid)
        try:
            os.kill(victim, signal.SIGKILL)
            killed.append(name)
        except ProcessLookupError:
            continue
        if name == "driver":
            run.wait()
            run = start(recipe, dataset)
    run.kill()
    run.wait()
    return killed


@pytest.mark.parametrize("kills", [pytest.param(4), pytest.param(20, marks=pytest.mark.real)])
def test_a_storm_of_kills_loses_and_doubles_nothing(recipe, tmp_path, kills):
    calm, stormy = tmp_path / "calm", tmp_path / "stormy"
    finish(recipe, calm)
    killed = storm(recipe, stormy, kills, random.Random(kills))
    assert len(killed) == kills
    finish(recipe, stormy)
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

"""Training over two nodes, as torchrun sees them: two agents on loopback. One is lost; the other goes on."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

pytest.importorskip("deepspeed")

from torch.distributed import TCPStore

from cluster.job import Job, State
from cluster.ray_jobs import RayJobs
from cluster.settings import Cluster
from cluster.torchrun_on_ray import torchrun
from tests.cluster.ray_cluster import ROOT, RayCluster
from tests.trainer.runs import losses_of, rows_of, settings, write_latents
from trainer.checkpoints import newest, read_saved

CHANGES = ("save_every=2", "batch=2", "validation.every=0", "steps=40", "workers=0")


class Node:
    """torchrun's agent and the ranks that it starts, told apart from those of another node by nothing but this."""

    def __init__(self, command: list[str], log: Path):
        self.log = log
        with open(log, "w") as file:
            self.process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, start_new_session=True)

    def lose(self) -> None:
        """As when its power fails: nothing of it says goodbye."""
        family = [psutil.Process(self.process.pid), *psutil.Process(self.process.pid).children(recursive=True)]
        for process in family:
            process.kill()
        self.process.wait()

    def end(self) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


def wait_for(what, nodes: list[Node], seconds: float = 300) -> None:
    limit = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < limit, "\n".join(node.log.read_text()[-3000:] for node in nodes)
        time.sleep(0.1)


def world(run: Path) -> int:
    """Of the ranks that wrote the newest checkpoint."""
    found = newest(run)[0]
    assert found
    return read_saved(found).world


@pytest.mark.real  # torchrun gives a lost node 45 s to come back
def test_when_a_node_is_lost_the_other_goes_on_from_the_checkpoint(tiny: Path, tmp_path: Path) -> None:
    latents, run = write_latents(tmp_path / "latents"), tmp_path / "run"
    words = ["--stage", "tiny", "--data", str(latents), "--init", str(tiny), "--out", str(run), *settings(CHANGES)]
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    command = torchrun("1:2", 0, 3, f"127.0.0.1:{store.port}", "a-run", words)
    nodes = [Node(command, tmp_path / f"node-{i}.log") for i in range(2)]
    try:
        wait_for(lambda: len(rows_of(run)) >= 5, nodes)
        nodes[1].lose()
        assert newest(run)[0]
        assert world(run) == 2
        wait_for(lambda: nodes[0].process.poll() is not None, nodes)
        assert nodes[0].process.returncode == 0, nodes[0].log.read_text()[-3000:]
    finally:
        for node in nodes:
            node.end()
    assert world(run) == 1
    assert len(losses_of(run)) == 40  # every step once


@pytest.mark.real  # Ray has to be sure that the node is lost, too
def test_over_the_nodes_of_a_ray_cluster(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    latents, run = write_latents(tmp_path / "latents"), tmp_path / "run"
    words = ["--stage", "tiny", "--data", str(latents), "--init", str(tiny), "--out", str(run), *settings(CHANGES)]
    with RayCluster(2) as ray:
        monkeypatch.setenv("RAY_AUTH_TOKEN", ray.token)
        training = {"nodes": 2, "least": 1, "gpus_per_node": 0}
        jobs = RayJobs(Cluster.model_validate({"ray": {"address": ray.address}, "training": training}))
        job_id = jobs.submit(Job("train", "train-it", ("train", *words), str(run)))
        ray.wait(lambda: len(rows_of(run)) >= 5)
        assert world(run) == 2
        ray.nodes[2].kill()
        ray.wait(lambda: jobs.condition(job_id).ended)
        assert jobs.condition(job_id).state is State.SUCCEEDED, jobs.logs(job_id, 100)
    assert world(run) == 1
    assert len(losses_of(run)) == 40


@pytest.mark.real
def test_a_job_of_ray_that_is_stopped_saves_first(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    latents, run = write_latents(tmp_path / "latents"), tmp_path / "run"
    changes = ("save_every=1000", "steps=1000", *CHANGES[1:3], "workers=0")
    words = ["--stage", "tiny", "--data", str(latents), "--init", str(tiny), "--out", str(run), *settings(changes)]
    with RayCluster(2) as ray:
        monkeypatch.setenv("RAY_AUTH_TOKEN", ray.token)
        training = {"nodes": 2, "gpus_per_node": 0}
        jobs = RayJobs(Cluster.model_validate({"ray": {"address": ray.address}, "training": training}))
        job_id = jobs.submit(Job("train", "train-it", ("train", *words), str(run)))
        ray.wait(lambda: len(rows_of(run)) >= 3)
        jobs.stop(job_id)
        ray.wait(lambda: jobs.condition(job_id).ended)
        assert jobs.condition(job_id).state is State.STOPPED
    found = newest(run)[0]
    assert found
    assert read_saved(found).step == len(rows_of(run))


@pytest.mark.parametrize("mistake", ["batch=3", pytest.param("trains=[nothing]", marks=pytest.mark.real)])
def test_a_mistake_ends_it_at_once_and_is_told_once(mistake: str, tiny: Path, tmp_path: Path) -> None:
    """One that shows where the ranks are arranged, and one that each of them finds alone."""
    latents, run = write_latents(tmp_path / "latents"), tmp_path / "run"
    words = ["--stage", "tiny", "--data", str(latents), "--init", str(tiny), "--out", str(run), *settings([mistake])]
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    command = torchrun("2:2", 0, 3, f"127.0.0.1:{store.port}", "a-run", words)
    nodes = [Node(command, tmp_path / f"node-{i}.log") for i in range(2)]
    try:
        wait_for(lambda: all(node.process.poll() is not None for node in nodes), nodes)
    finally:
        for node in nodes:
            node.end()
    assert all(node.process.returncode for node in nodes)
    told = "".join(node.log.read_text() for node in nodes)
    assert told.count({"batch=3": "does not divide over 2", "trains=[nothing]": "matches no parameter"}[mistake]) == 1


RANK = """
import os, sys, time
from trainer.ranks import join

rank, *_ = join()
open(f"{sys.argv[1]}/{rank}", "w").close()
time.sleep(600)
"""


def test_when_torchrun_is_killed_its_ranks_do_not_stay(tmp_path: Path) -> None:
    (tmp_path / "rank.py").write_text(RANK)
    words = ("--standalone", "--nproc-per-node=2", str(tmp_path / "rank.py"), str(tmp_path))
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    agent = subprocess.Popen([sys.executable, "-m", "torch.distributed.run", *words], env=environment)
    ranks: list[psutil.Process] = []
    try:
        limit = time.monotonic() + 300
        while not all((tmp_path / rank).exists() for rank in "01"):
            assert time.monotonic() < limit
            assert agent.poll() is None
            time.sleep(0.1)
        ranks = psutil.Process(agent.pid).children(recursive=True)
        assert len(ranks) >= 2
        agent.kill()
        _, left = psutil.wait_procs(ranks, timeout=60)
        assert not left
    finally:
        agent.kill()
        agent.wait()
        for rank in ranks:
            with contextlib.suppress(psutil.NoSuchProcess):
                rank.kill()


def test_the_command_line_is_torchruns(tmp_path: Path) -> None:
    command = torchrun("6:8", 8, 10, "10.0.0.1:1234", "job", ["--help"])
    told = subprocess.run([sys.executable, *command[1:-3], "--help"], capture_output=True, text=True, check=True)
    for word in command[3:-3]:
        assert word.split("=")[0] in told.stdout

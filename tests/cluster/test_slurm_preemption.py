"""Jobs on a real Slurm whose nodes another job takes: they save, are queued again, and go on where they were."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cluster.job import Job, State
from cluster.slurm import SlurmJobs
from tests.cluster.slurm_here import missing, slurm_here
from tests.cluster.test_ray_cluster import Shop
from tests.cluster.test_slurm_real import ROOT, here, state, until, wait_for_step  # noqa: F401 - state is a fixture

pytestmark = pytest.mark.real
PREEMPTION = """\
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SchedulerParameters=batch_sched_delay=1,sched_interval=1
PartitionName=low Nodes=n1,n2 PriorityTier=1 GraceTime={grace}
PartitionName=high Nodes=n1,n2 PriorityTier=2 PreemptMode=OFF
{more}
"""
WAYS = {
    "only the steps are told": (120, ""),
    "the script is told": (120, "SlurmctldParameters=preempt_send_user_signal"),
    "without grace": (0, ""),
}


@pytest.fixture(scope="module", params=WAYS.values(), ids=WAYS)
def slurm(request: pytest.FixtureRequest) -> Iterator[tuple[int, str]]:
    if why_not := missing():
        pytest.skip(why_not)
    grace, more = request.param
    with slurm_here(PREEMPTION.format(grace=grace, more=more)) as variables, pytest.MonkeyPatch.context() as patch:
        patch.setenv("SLURM_CONF", variables["SLURM_CONF"])
        patch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")
        yield request.param


def take_the_nodes(jobs: SlurmJobs, job_id: str) -> None:
    """By a job of higher priority, which is soon over. Returns when the other one has made room."""
    command = ["sbatch", "--partition=high", "--nodes=2", "--exclusive", "--output=/dev/null", "--wait", "--wrap=:"]
    subprocess.run(command, check=True)
    now = jobs.condition(job_id)
    assert now.state in (State.WAITING, State.RUNNING), (now, jobs.logs(job_id, 50))
    assert "Restarts=1" in subprocess.check_output(["scontrol", "show", "job", job_id], text=True)


def wait_until(done: Callable[[], bool], jobs: SlurmJobs, job_id: str) -> None:
    limit = time.monotonic() + 300
    while not done():
        now = jobs.condition(job_id)
        assert not now.ended, (now, jobs.logs(job_id, 50))
        assert time.monotonic() < limit, (now, jobs.logs(job_id, 50))
        time.sleep(0.1)


def test_training_saves_and_goes_on(slurm: tuple[int, str], tmp_path: Path, tiny: Path) -> None:
    from tests.trainer.runs import SHORT, rows_of, settings, write_latents

    data, run = write_latents(tmp_path / "latents"), tmp_path / "run"
    words = ("train", "--stage", "tiny", "--data", str(data), "--init", str(tiny), "--out", str(run))
    job = Job("train", "train-tiny", (*words, *settings((*SHORT[1:], "save_every=1000", "steps=400"))), str(run))
    jobs = here(partition="low")
    job_id = jobs.submit(job)
    wait_for_step(jobs, job_id, run, 4)
    take_the_nodes(jobs, job_id)
    steps = len(rows_of(run))
    grace, _ = slurm
    if grace:  # without it, KillWait is all the time there is
        assert (run / f"step-{steps:06d}").is_dir()
        assert "Stopped, as asked" in jobs.logs(job_id, 100)
        assert "It is handed in again" in jobs.logs(job_id, 100)
    wait_for_step(jobs, job_id, run, steps + 4)
    jobs.stop(job_id)
    until(jobs, job_id, State.STOPPED)
    done = [row["step"] for row in rows_of(run)]
    assert done == list(range(1, len(done) + 1))


@pytest.mark.parametrize("slurm", [WAYS["only the steps are told"]], indirect=True)
def test_curation_goes_on(slurm: tuple[int, str], tmp_path: Path) -> None:
    shop = Shop(tmp_path)
    environment = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "S2V_TEST_NODE": "any"}
    jobs = here(partition="low", env=environment)
    job_id = jobs.submit(shop.job)
    wait_until(lambda: shop.count() >= 2, jobs, job_id)
    take_the_nodes(jobs, job_id)
    shop.hurry.touch()
    until(jobs, job_id, State.SUCCEEDED)
    shop.check()

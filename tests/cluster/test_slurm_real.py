"""Jobs on a real Slurm of two nodes: how they wait, end, stop, and go on."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from cluster.job import Condition, Job, State
from cluster.settings import Cluster
from cluster.slurm import SlurmJobs
from curation.layout import CLIPS, SCORES, read
from dataset.errors import RunError
from tests.cluster.slurm_here import missing, slurm_here
from tests.videos import clicks, moving_square, write_video

pytestmark = pytest.mark.real
ROOT = Path(__file__).parents[2]
CURATE = Job("curate", "curate-some", ("curate",))


@pytest.fixture(autouse=True)
def state(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("S2V_STATE", str(tmp_path / "state"))
    return tmp_path / "state"


@pytest.fixture(scope="module")
def slurm() -> Iterator[None]:
    if why_not := missing():
        pytest.skip(why_not)
    with slurm_here() as variables, pytest.MonkeyPatch.context() as patch:
        patch.setenv("SLURM_CONF", variables["SLURM_CONF"])
        patch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")
        yield


def here(**settings: object) -> SlurmJobs:
    """On the two nodes of this machine."""
    slurm = {"nodes": 2, "cpus": 2, "time": "60", "env": {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}}
    training = {"nodes": 2, "gpus_per_node": 0, "restarts": 3}
    return SlurmJobs(Cluster.model_validate({"slurm": slurm | settings, "training": training}))


def until(jobs: SlurmJobs, job_id: str, *states: State) -> Condition:
    limit = time.monotonic() + 600
    while (now := jobs.condition(job_id)).state not in states:
        assert not now.ended, (now, jobs.logs(job_id, 50))
        assert time.monotonic() < limit, (now, jobs.logs(job_id, 50))
        time.sleep(0.2)
    return now


def test_a_job_that_waits_says_why_and_is_taken_out_of_the_queue(slurm: None) -> None:
    jobs = here(partition="short", time="59")
    job_id = jobs.submit(Job("curate", "never", ("curate",)))
    limit = time.monotonic() + 60
    while "will never start" not in (now := jobs.condition(job_id)).detail:
        assert now.state is State.WAITING, now
        assert time.monotonic() < limit, now
        time.sleep(0.2)
    with pytest.raises(RunError, match="A job never is there already"):
        jobs.submit(Job("curate", "never", ("curate",)))
    jobs.stop(job_id)
    assert until(jobs, job_id, State.STOPPED).ended
    assert jobs.logs(job_id, 5) == ""


def test_what_slurm_refuses_has_a_remedy(slurm: None) -> None:
    with pytest.raises(RunError, match="invalid partition specified: nope: the cluster has no such partition"):
        here(partition="nope").submit(CURATE)
    with pytest.raises(RunError, match="no such nodes"):
        here(memory="900G").submit(CURATE)
    with pytest.raises(RunError, match="no such GPUs"):
        here(gpus=4).submit(CURATE)
    assert here().condition("999").state is State.GONE


def test_how_a_job_ended_and_what_it_printed(slurm: None, state: Path) -> None:
    jobs = here(nodes=1, setup=["echo on the node", "exit 5"], options=["--comment=it's two words"])
    job_id = jobs.submit(Job("curate", "fails", ("curate",)))
    assert until(jobs, job_id, State.FAILED) == Condition(State.FAILED, "exit code 5")
    assert jobs.logs(job_id, 5).strip() == "on the node"
    assert (state / "slurm" / f"fails-{job_id}.out").is_file()


def test_curation_on_two_nodes_has_every_clip_once(slurm: None, tmp_path: Path) -> None:
    (tmp_path / "videos").mkdir()
    for i in range(6):
        picture = lambda t, i=i: moving_square(t + i)  # noqa: E731
        write_video(tmp_path / "videos" / f"{i}.mp4", 2, picture=picture, sound=clicks(2))
    (tmp_path / "policy.yaml").write_text("name: all\nrules: []\n")
    recipe = {"name": "test", "policy": str(tmp_path / "policy.yaml"), "filters": ["header"]}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    words = ("curate", f"{tmp_path}/videos", "--out", f"{tmp_path}/data", "--recipe", f"{tmp_path}/recipe.yaml")
    jobs = here()
    job_id = jobs.submit(Job("curate", "curate-six", words))
    until(jobs, job_id, State.SUCCEEDED)
    assert not os.path.exists(f"/tmp/s2v-{job_id}")  # Ray's own folder
    assert "Ray is up on 2 node(s) (n[1-2])" in jobs.logs(job_id, 100)
    for table in (CLIPS, SCORES):
        ids = read(f"{tmp_path}/data", table)["clip_id"].to_pylist()
        assert len(ids) == len(set(ids)) == 6


def test_training_on_two_nodes_stops_with_a_checkpoint_and_goes_on_when_one_is_lost(
    slurm: None, tmp_path: Path, tiny: Path
) -> None:
    from tests.trainer.runs import SHORT, rows_of, settings, write_latents

    data, run = write_latents(tmp_path / "latents"), tmp_path / "run"
    words = ("train", "--stage", "tiny", "--data", str(data), "--init", str(tiny), "--out", str(run))
    job = Job("train", "train-tiny", (*words, *settings((*SHORT, "steps=40"))), str(run))
    jobs = here()
    job_id = jobs.submit(job)
    wait_for_step(jobs, job_id, run, 4)
    jobs.stop(job_id)
    until(jobs, job_id, State.STOPPED)
    steps = len(rows_of(run))
    assert (run / f"step-{steps:06d}").is_dir()
    assert "Stopped, as asked" in jobs.logs(job_id, 100)

    jobs = SlurmJobs(jobs.cluster.model_copy(update={"training": jobs.training.model_copy(update={"least": 1})}))
    job_id = jobs.submit(job)
    wait_for_step(jobs, job_id, run, steps + 4)
    subprocess.run(["scontrol", "update", "nodename=n2", "state=down", "reason=test"], check=True)
    until(jobs, job_id, State.SUCCEEDED)
    assert [row["step"] for row in rows_of(run)] == list(range(1, 41))


def wait_for_step(jobs: SlurmJobs, job_id: str, run: Path, step: int) -> None:
    from tests.trainer.runs import rows_of

    limit = time.monotonic() + 300
    while len(rows_of(run)) < step:
        now = jobs.condition(job_id)
        assert not now.ended, (now, jobs.logs(job_id, 50))
        assert time.monotonic() < limit, (now, jobs.logs(job_id, 50))
        time.sleep(0.1)

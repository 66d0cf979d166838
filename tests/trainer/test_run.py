"""`s2v train` as a user runs it: stopped, killed, resumed, on another number of ranks, on a full disk."""

import random
import resource
import shutil

import pytest

pytest.importorskip("deepspeed")

from tests.trainer.runs import SHORT, losses_of, resume, rows_of, start, write_latents
from trainer.checkpoints import newest


@pytest.fixture(scope="module")
def latents(tmp_path_factory):
    return write_latents(tmp_path_factory.mktemp("latents"))


@pytest.fixture(scope="module")
def straight(tiny, latents, tmp_path_factory):
    """A run that nothing disturbed."""
    run = tmp_path_factory.mktemp("straight") / "run"
    told = start(latents, tiny, run, *SHORT).wait()
    assert "Done" in told
    assert len(rows_of(run)) == 9
    return run


def test_a_run_that_was_stopped_and_killed_goes_on_bit_for_bit(straight, tiny, latents, tmp_path):
    run = tmp_path / "run"
    first = start(latents, tiny, run, *SHORT, "workers=1")
    first.wait_for_step(1)
    first.terminate()
    first.wait(143)
    stopped = len(rows_of(run))
    assert newest(run)[0] == run / f"step-{stopped:06d}"
    second = resume(run)
    second.wait_for_step(stopped + 2)
    second.kill()
    resume(run, "workers=2").wait()
    assert losses_of(run) == losses_of(straight)
    assert newest(run)[0] == run / "step-000009"


def test_another_number_of_ranks_goes_on_alike(straight, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(straight, run)
    shutil.rmtree(run / "step-000009")
    (run / "step-000006" / "checkpoint.json").unlink()  # torn: not to be loaded
    told = resume(run, ranks=1).wait()
    assert "step-000006 holds no checkpoint.json" in told
    assert losses_of(run) == pytest.approx(losses_of(straight), rel=1e-5)


def test_a_full_disk_costs_no_step_and_nothing_that_was_saved(straight, tmp_path):
    """Files of more than a megabyte can't be written: the system's own error, from the system's own call."""
    run = tmp_path / "run"
    shutil.copytree(straight, run)
    for step in (6, 9):
        shutil.rmtree(run / f"step-00000{step}")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, before[1]))
    try:
        process = resume(run)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    told = process.wait(1)
    assert "can't be written" in told
    assert "Training goes on" in told
    assert "Traceback" not in told
    assert losses_of(run) == losses_of(straight)
    assert sorted(path.name for path in run.glob("*step*")) == ["step-000003"]


@pytest.mark.real
def test_ten_kills_at_any_moment_lose_nothing(straight, tiny, latents, tmp_path):
    run, luck = tmp_path / "run", random.Random(0)
    process = start(latents, tiny, run, *SHORT, "save_every=1")
    for _ in range(10):
        process.wait_for_step(min(len(rows_of(run)) + luck.choice([0, 1]), 8))
        process.kill()
        process = resume(run)
    process.wait()
    assert losses_of(run) == losses_of(straight)


@pytest.mark.real
def test_four_ranks_become_two(tiny, latents, tmp_path):
    four, two = tmp_path / "four", tmp_path / "two"
    start(latents, tiny, four, *SHORT, "ulysses=2", ranks=4).wait()
    shutil.copytree(four, two)
    for step in (6, 9):
        shutil.rmtree(two / f"step-00000{step}")
    resume(two, "ulysses=0", ranks=2).wait()
    assert losses_of(two) == pytest.approx(losses_of(four), rel=1e-5)

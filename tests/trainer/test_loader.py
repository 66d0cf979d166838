"""The loader: the same samples for any number of processes and after any restart, and no hang where one dies."""

import gc
import multiprocessing
import os
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

from dataset.errors import RunError
from dataset.shards import make_shard
from model.config import S2VConfig
from tests.trainer.examples import example
from tests.trainer.readers import arrays, broken, fatal, large, latent, mistaken, name, slowly, surroundings
from tests.trainer.shards import Made, make_dataset, number_of, pointing, stage, tone
from trainer.corpus import read_corpus
from trainer.loader import ATTEMPTS, Loader
from trainer.reading import read_pixels
from trainer.sample import Clip, Pixels, Replaced
from trainer.schedule import Schedule
from trainer.stages import Stage

CONFIG = S2VConfig()


def clips(count: int = 10) -> list[Clip]:
    return [Clip(f"c{n}", "speech", f"{n // 4}.tar", 512 * n, 3.0, 128, 96) for n in range(count)]


def load(read: Any, settings: Stage, there: list[Clip] | None = None, **options: Any) -> Loader:
    ranks = options.pop("ranks", 1)
    return Loader(Schedule(there or clips(), settings, CONFIG, ranks), read, settings, **options)


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    """No processes, and no warnings about files or memory that nobody closed."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", ResourceWarning)
        yield
        gc.collect()
    assert multiprocessing.active_children() == []


# ---------------------------------------------------------------- order and content


def test_steps_come_in_order_with_the_samples_of_the_schedule():
    settings = stage(steps=5)
    wanted = Schedule(clips(), settings, CONFIG)
    found = list(load(name, settings))
    assert [step for step, _, _ in found] == [0, 1, 2, 3, 4]
    assert [samples for _, samples, _ in found] == [[name(r) for r in wanted.step(k)[0]] for k in range(5)]
    assert all(replaced == [] for *_, replaced in found)


@pytest.mark.parametrize("workers", [1, 3])
def test_any_number_of_processes_gives_the_same(workers):
    read = partial(broken, frozenset({"c2", "c3"}))
    alone = list(load(read, stage()))
    assert list(load(read, stage(workers=workers))) == alone
    assert any(replaced for *_, replaced in alone)


def test_slow_samples_hold_up_the_order_but_do_not_change_it():
    assert list(load(slowly, stage(workers=3))) == list(load(name, stage()))


@pytest.mark.parametrize("workers", [0, 2])
def test_a_restart_at_any_step_goes_on_as_if_it_had_not_been(workers):
    """10 clips, 4 a step: no step begins an epoch but every fifth."""
    read = partial(broken, frozenset({"c5"}))
    straight = list(load(read, stage()))
    for first in (3, 7) if workers else range(9):
        assert list(load(read, stage(workers=workers), first_step=first)) == straight[first:]


def test_data_ranks_share_a_step():
    settings = stage(steps=4)
    alone = [samples for _, samples, _ in load(name, settings)]
    ranks = [[samples for _, samples, _ in load(name, settings, ranks=2, data_rank=rank)] for rank in (0, 1)]
    for whole, first, second in zip(alone, *ranks, strict=True):
        assert [s for micro in zip(first, second, strict=True) for s in micro] == whole


def test_pixels_of_real_shards_do_not_depend_on_processes_or_restarts(tmp_path):
    made = [Made(f"c{n}", 2.0, sound=tone(2.0), tracks=pointing(lambda t: (0.5, 0.5), 2.0)) for n in range(5)]
    there = read_corpus([str(make_dataset(tmp_path / "data", made))], stage())
    Path(there[4].shard).write_bytes(make_shard([])[0])  # c4 lies alone in the second shard
    read = partial(read_pixels, seed=3)
    alone: list[tuple[int, list[Pixels], list[Replaced]]] = list(load(read, stage(steps=4), there))
    others = list(load(read, stage(steps=4, workers=2), there, first_step=1))
    assert len(others) == 3
    for (step, samples, replaced), (again, also, instead) in zip(alone[1:], others, strict=True):
        assert (step, replaced) == (again, instead)
        for one, two in zip(samples, also, strict=True):
            assert (one.request, one.window, one.caption) == (two.request, two.window, two.caption)
            for part in ("frames", "reference", "pose", "speech"):
                assert np.array_equal(getattr(one, part), getattr(two, part))
            assert number_of(two.frames[-1]) == two.window.end - 1
    torn = [row for *_, rows in alone for row in rows]
    assert {row.clip_id for row in torn} == {"c4"}
    assert all("has nothing at byte" in row.error for row in torn)


# ---------------------------------------------------------------- stand-ins


def test_what_is_replaced_is_recorded():
    settings = stage(steps=5)
    schedule = Schedule(clips(), settings, CONFIG)
    bad = frozenset({"c1", "c6"})
    rows = 0
    for step, samples, replaced in load(partial(broken, bad), settings):
        wanted = iter(replaced)
        for request, sample in zip(schedule.step(step)[0], samples, strict=True):
            assert sample[0] not in bad
            tried = [request, *(schedule.replacement(request, n) for n in range(ATTEMPTS))]
            failed = next(n for n, r in enumerate(tried) if r.clip.clip_id not in bad)
            assert sample == name(tried[failed])
            for r in tried[:failed]:
                clip = r.clip
                row = Replaced(step, clip.clip_id, clip.shard, r.epoch, f"{clip.clip_id} is torn", "mend it", sample[0])
                assert next(wanted) == row
                rows += 1
        assert next(wanted, None) is None
    assert rows >= 4  # each of the two once an epoch, and there are two of them


@pytest.mark.parametrize("workers", [0, 2])
def test_when_no_stand_in_can_be_read_either_the_run_ends_with_a_sentence(workers):
    all_bad = frozenset(c.clip_id for c in clips())
    with pytest.raises(RunError, match=r"The clip c\d in \d.tar can't be read: c\d is torn. Nor could 10 .*mend it"):
        list(load(partial(broken, all_bad), stage(workers=workers)))


# ---------------------------------------------------------------- processes


@pytest.mark.parametrize("how", ["killed", "segfault", "hang"])
def test_a_process_that_dies_ends_the_run_and_names_what_it_read(how, monkeypatch):
    monkeypatch.setattr(_MultiProcessingDataLoaderIter._try_get_data, "__defaults__", (0.2,))  # not every 5 s
    began = time.monotonic()
    with pytest.raises(
        RunError, match=r"died, or hung for 600 s, at the clip c7 in 1.tar at byte 3584\..*--set workers="
    ):
        list(load(partial(fatal, how), stage(workers=2)))
    assert time.monotonic() - began < 200  # far less, on a machine that is not busy


@pytest.mark.parametrize("workers", [0, 1])
def test_a_mistake_in_the_code_is_not_taken_for_a_broken_sample(workers):
    with pytest.raises(ZeroDivisionError, match="a mistake in the reading code"):
        list(load(mistaken, stage(workers=workers)))


def test_processes_compute_with_one_thread_and_are_not_forked():
    found = [s for _, samples, _ in load(surroundings, stage(workers=2, steps=4)) for s in samples]
    assert {(s["torch"], s["cv2"], s["omp"], s["openblas"]) for s in found} == {(1, 1, "1", "1")}
    assert len({s["pid"] for s in found} - {os.getpid()}) == 2


def test_the_environment_and_the_random_state_stay_as_they_were():
    before, state = dict(os.environ), torch.get_rng_state()
    list(load(name, stage(workers=1, steps=1)))
    assert dict(os.environ) == before
    assert torch.equal(torch.get_rng_state(), state)


def test_stopping_in_the_middle_ends_the_processes():
    began = time.monotonic()
    with closing(iter(load(slowly, stage(workers=2, steps=1000)))) as steps:
        next(steps)
        assert len(multiprocessing.active_children()) == 2
    assert multiprocessing.active_children() == []
    assert time.monotonic() - began < 100


def test_a_stage_that_has_ended_starts_nothing():
    assert list(load(name, stage(workers=2, steps=3), first_step=3)) == []


ORPHANS = """
import time
from model.config import S2VConfig
from tests.trainer.readers import slowly
from trainer.loader import Loader
from trainer.sample import Clip
from trainer.schedule import Schedule
from trainer.stages import Stage

if __name__ == "__main__":
    stage = Stage(name="test", steps=10**6, batch=4, workers=2)
    clips = [Clip(f"c{n}", "speech", "x.tar", 0, 3.0, 128, 96) for n in range(9)]
    steps = iter(Loader(Schedule(clips, stage, S2VConfig()), slowly, stage))
    next(steps)
    print("ready", flush=True)
    time.sleep(100)
"""


def test_killing_the_run_leaves_no_processes(tmp_path):
    script = tmp_path / "run.py"
    script.write_text(ORPHANS)
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    run = subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True, env=environment)
    assert run.stdout
    assert run.stdout.readline() == "ready\n"
    family = psutil.Process(run.pid).children(recursive=True)
    assert len(family) >= 3  # two readers, and what starts them
    run.kill()
    run.communicate()
    _, alive = psutil.wait_procs(family, timeout=60)
    assert not alive


# ---------------------------------------------------------------- on the way


def test_what_is_read_arrives_as_it_was():
    there = list(load(arrays, stage(workers=2, steps=3)))
    here = list(load(arrays, stage(steps=3)))
    for (_, came, _), (_, made, _) in zip(there, here, strict=True):
        for one, two in zip(came, made, strict=True):
            assert one.keys() == two.keys()
            for key in one:
                if isinstance(one[key], np.ndarray):
                    assert one[key].dtype == two[key].dtype
                    assert np.array_equal(one[key], two[key])
                    one[key] += 1  # ours alone, and to be written to
            assert one["floats"].ctypes.data % 64 == 0
            assert one["tensor"].dtype == torch.float16
            assert torch.equal(one["tensor"], two["tensor"])
            assert one["nothing"] is None


def test_examples_arrive():
    for _, samples, _ in load(latent, stage(workers=1, steps=1)):
        for came in samples:
            for key, tensor in example(came.clip_id).tensors().items():
                assert torch.equal(getattr(came, key), tensor)


def test_large_samples_take_no_memory_once_they_are_gone():
    """Beyond the step at hand, and the one that is read ahead."""
    process = psutil.Process()
    files, peak = process.num_fds(), 0
    before = process.memory_info().shared
    for _, samples, _ in load(partial(large, 32), stage(workers=1, steps=12, batch=2)):
        assert all(s.all() for s in samples)
        del samples
        peak = max(peak, process.memory_info().shared - before)
    assert peak < 3 * 64 << 20  # 12 steps have 768 MB
    del _
    gc.collect()
    assert process.num_fds() <= files + 8

"""Seconds by part, the line of a step, and RUN/metrics.jsonl."""

import json
import time
from contextlib import suppress
from dataclasses import replace
from itertools import count
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing

from model import ring, sequence_parallel
from model.config import S2VConfig
from model.layout import Layout
from model.sequence_parallel import SequenceParallel, build_mesh
from tests.tiny_checkpoint import CONFIG
from tests.trainer.examples import example
from trainer import metrics
from trainer.metrics import (
    JsonLines,
    Lap,
    Left,
    StepRecord,
    Stopwatch,
    Work,
    collectives_watched,
    line,
    mfu,
    peak_of,
    peak_of_name,
    read_rows,
    short,
)

CPU = torch.device("cpu")
LATE = 0.5  # seconds


@pytest.fixture
def clock(monkeypatch):
    """Seconds that only pass when told to."""
    now = SimpleNamespace(seconds=100.0)
    monkeypatch.setattr(metrics, "time", SimpleNamespace(perf_counter=lambda: now.seconds))
    return now


def test_a_part_within_a_part_counts_for_itself_and_the_rest_is_other(clock):
    watch = Stopwatch(CPU)
    for _ in range(2):  # micro-steps
        with watch("data"):
            clock.seconds += 1
        with watch("forward"):
            clock.seconds += 2
            with watch("communication"):
                clock.seconds += 4
            clock.seconds += 8
        clock.seconds += 16
    lap = watch.lap()
    assert lap.seconds == pytest.approx(62)
    assert lap.split == pytest.approx({"data": 2, "forward": 20, "communication": 8, "other": 32})


def test_a_lap_begins_where_the_last_one_ended_or_at_a_restart(clock):
    watch = Stopwatch(CPU)
    with watch("data"):
        clock.seconds += 5
    watch.lap()
    clock.seconds += 3
    assert watch.lap() == Lap(pytest.approx(3), {})
    with watch("forward"):
        clock.seconds += 7  # of validation
    watch.restart()
    clock.seconds += 1
    assert watch.lap() == Lap(pytest.approx(1), {})


def test_a_part_ends_with_an_exception(clock):
    watch = Stopwatch(CPU)
    with suppress(ValueError), watch("data"), watch("wait"):
        clock.seconds += 1
        raise ValueError
    with watch("forward"):
        clock.seconds += 1
    assert watch.lap().split == pytest.approx({"data": 0, "wait": 1, "forward": 1, "other": 0})


def test_on_a_gpu_nothing_waits_within_the_step(monkeypatch):
    calls = []

    class Event:
        numbers = count()

        def __init__(self, enable_timing):
            assert enable_timing
            self.number = next(self.numbers)

        def record(self):
            calls.append(("record", self.number))

        def synchronize(self):
            calls.append(("synchronize", self.number))

        def elapsed_time(self, later):
            calls.append("read")
            return 1000.0 * (later.number - self.number)

    monkeypatch.setattr(torch.cuda, "Event", Event)
    watch = Stopwatch(torch.device("cuda", 0))
    with watch("backward"), watch("communication"):
        pass
    recorded = [("record", 0), ("record", 2), ("record", 3), ("record", 1)]
    assert calls == recorded
    assert watch.lap().parts == {"backward": 0.0, "communication": 1.0}
    assert calls == [*recorded, ("synchronize", 1), "read", "read"]


def test_the_mean_of_all_ranks_keeps_the_sum():
    laps = [Lap(10.0, {"data": 4.0, "forward": 5.0, "saving": 1.0}), Lap(10.0, {"forward": 9.0})]
    sums = []
    for lap in laps:
        lap.mean(lambda values: sums.append(values) or values, 2)
    mean = laps[0].mean(lambda values: sum(sums), 2)
    assert mean.split == {"data": 2.0, "forward": 7.0, "other": 1.0}


# ---- communication, on two ranks


def talk(rank: int, folder: Path) -> None:
    """Attention and its gradient, watched and not; the second rank comes late."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    results = {}
    for name, degrees in {"ring": (2, 1), "ulysses": (1, 2)}.items():
        parallel = SequenceParallel(build_mesh(*degrees, num_heads=4))
        layout = Layout.of(3, 4, 4, (), rank, 2)
        q, k, v = torch.randn(3, 1, layout.tokens, 4, 16, requires_grad=True).unbind()
        attend = parallel.attention(layout)
        plain = attend(q, k, v)
        watch = Stopwatch(CPU)
        with collectives_watched(watch):
            dist.barrier()
            watch.restart()
            for part in ("forward", "backward"):
                if rank == 1:
                    time.sleep(LATE)
                with watch(part):
                    if part == "forward":
                        watched = attend(q, k, v)
                    else:
                        watched.sum().backward()
        lap = watch.lap()
        results[name] = {"equal": bool(torch.equal(plain, watched)), "parts": dict(lap.parts), "seconds": lap.seconds}
    restored = sequence_parallel.dist is dist and ring.dist is dist
    dist.destroy_process_group()
    (folder / f"{rank}.json").write_text(json.dumps(results | {"restored": restored}))


@pytest.fixture(scope="module")
def talked(tmp_path_factory) -> list[dict]:
    folder = tmp_path_factory.mktemp("talk")
    torch.multiprocessing.spawn(talk, (folder,), nprocs=2)
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(2)]


@pytest.mark.parametrize("way", ["ring", "ulysses"])
def test_communication_is_the_time_spent_in_collectives_waiting_for_others_included(talked, way):
    early, late = (rank[way] for rank in talked)
    assert early["equal"]
    assert late["equal"]
    assert early["parts"]["communication"] > LATE  # in forward and in backward, so about twice that
    assert early["parts"]["forward"] + early["parts"]["backward"] < early["parts"]["communication"]
    assert late["parts"]["communication"] > 0
    for rank in (early, late):
        assert sum(rank["parts"].values()) <= rank["seconds"]


def test_the_network_finds_torch_distributed_again_afterwards(talked):
    assert all(rank["restored"] for rank in talked)


# ---- work


def test_work_is_three_forward_passes_of_what_the_sample_has():
    sample = example("a", frames=3, height=8, width=16)
    forward, short_forward = (sum(CONFIG.flops(3, 64, 128, motion).values()) for motion in (True, False))
    assert Work.of(CONFIG, sample) == Work(1, CONFIG.tokens(3, 64, 128), 3 * forward)
    assert Work.of(CONFIG, sample, {"motion", "text"}) == Work(1, CONFIG.tokens(3, 64, 128, False), 3 * short_forward)
    parts = CONFIG.flops(3, 64, 128)
    frozen = Work.of(CONFIG, sample, blocks_learn=False)
    assert 3 * forward - frozen.flops == pytest.approx(parts["linear"] + parts["text"])


def test_work_of_ranks_that_share_samples_counts_once():
    here = Work(2, 100, 5e12) + Work(1, 50, 1e12)
    assert here.total(lambda values: 8 * values, sharing=4) == Work(6, 300, 12e12)


def test_mfu_of_the_14b_model():
    """45,000 tokens on 8 H100: 6 FLOPs a parameter that tokens pass, and attention."""
    config = S2VConfig()
    flops = config.flops(12, 768, 1024)
    work = Work(8, 8 * config.tokens(12, 768, 1024), 8 * 3 * sum(flops.values()))
    peak = peak_of_name("NVIDIA H100 80GB HBM3")
    assert mfu(work, 30.0, 8, peak) == pytest.approx(3 * sum(flops.values()) / 30 / 989e12)
    assert mfu(work, 30.0, 8, None) is None


@pytest.mark.parametrize(
    ("name", "peak"),
    [
        ("NVIDIA A100-SXM4-80GB", 312),
        ("NVIDIA H100 80GB HBM3", 989),
        ("NVIDIA H100 PCIe", 756),
        ("NVIDIA H20", 148),
        ("NVIDIA H200", 989),
        ("NVIDIA GH200 480GB", 989),
        ("NVIDIA B200", 2250),
        ("NVIDIA GB200", 2500),
        ("NVIDIA GeForce RTX 4090", None),
    ],
)
def test_peaks_by_name(name, peak):
    assert peak_of_name(name) == (peak and peak * 1e12)


def test_a_cpu_has_no_peak():
    assert peak_of(CPU) is None


# ---- what is told

RECORD = StepRecord(
    step=120,
    steps=20_000,
    loss=0.43123,
    grad_norm=0.812,
    rate=2e-5,
    seconds=2.312,
    samples=8,
    tokens=356_000,
    split={"data": 0.02, "forward": 0.65, "backward": 1.27, "optimiser": 0.14, "communication": 0.2, "other": 0.032},
    mfu=0.4481,
    left=45_662.4,
    memory=61.2e9,
)


def test_a_step_is_one_readable_line():
    assert line(RECORD) == (
        "step    120/20,000  loss 0.4312  grad  0.81  lr 2.0e-05    2.31 s/iter   3.46 samples/s   154k tokens/s  "
        "MFU 44.8%  data  1% fwd 28% bwd 55% opt  6% comm  9% other  1%  left 12:41:02"
    )


def test_lines_stand_below_one_another():
    other = replace(RECORD, step=20_000, loss=0.0721, grad_norm=12.3, rate=1.5e-6, seconds=31.4, left=9, tokens=1_000)
    for word in ("loss", "grad", "lr", "s/iter", "samples/s", "tokens/s", "MFU", "data", "left"):
        assert line(RECORD).index(word) == line(other).index(word)


def test_a_cpu_shows_no_mfu_and_a_diverged_run_its_nan():
    told = line(replace(RECORD, mfu=None, loss=float("nan"), grad_norm=float("inf")))
    assert "MFU     -  " in told
    assert "loss nan" in told
    assert "grad   inf" in told


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (0, "0"),
        (0.02134, "0.0213"),
        (3.456, "3.46"),
        (999.4, "999"),
        (999.6, "1k"),
        (154_321, "154k"),
        (2e12, "2e+03G"),
    ],
)
def test_three_digits(value, told):
    assert short(value) == told


def test_scalars_are_numbers_by_name():
    scalars = RECORD.scalars()
    assert scalars["train/loss"] == 0.43123
    assert scalars["speed/samples_per_second"] == pytest.approx(3.46, abs=0.001)
    assert scalars["speed/memory_gb"] == pytest.approx(61.2)
    assert scalars["time/forward"] == 0.65
    assert "speed/mfu" not in replace(RECORD, mfu=None).scalars()


def test_time_left_follows_the_pace_of_the_last_steps():
    left = Left(over=2)
    assert left.after(Lap(9.0, {}), 10) == 90
    assert left.after(Lap(1.0, {}), 9) == 45
    assert left.after(Lap(3.0, {}), 8) == 16


# ---- RUN/metrics.jsonl


def test_lines_are_on_the_disk_at_once(tmp_path):
    path = tmp_path / "metrics.jsonl"
    with JsonLines(path) as lines:
        lines.write(replace(RECORD, loss=float("nan")).row())
        (row,) = read_rows(path)
    assert row["step"] == 120
    assert row["loss"] is None
    assert row["split"]["forward"] == 0.65
    assert "NaN" not in path.read_text()


def test_a_resumed_run_reads_as_one_run(tmp_path):
    path = tmp_path / "metrics.jsonl"
    with JsonLines(path, after=0) as lines:
        for step in range(1, 8):
            lines.write({"step": step, "of": "first"})
    with path.open("a") as file:
        file.write('{"step": 8, "of": "fir')  # killed while writing
    with JsonLines(path, after=5) as lines:
        for step in range(6, 9):
            lines.write({"step": step, "of": "second"})
    rows = [json.loads(text) for text in path.read_text().splitlines()]
    assert [row["step"] for row in rows] == list(range(1, 9))
    assert [row["of"] for row in rows] == ["first"] * 5 + ["second"] * 3
    assert [file.name for file in tmp_path.iterdir()] == ["metrics.jsonl"]


def test_a_run_that_never_saved_begins_anew(tmp_path):
    path = tmp_path / "validation.jsonl"
    for _ in range(2):
        with JsonLines(path, after=0) as lines:
            for step in (0, 1):
                lines.write({"step": step})
    assert [row["step"] for row in read_rows(path)] == [0, 1]


def test_a_torn_line_alone_is_no_row(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step": 1}\n{"step": 2, "x": "\xff\n[3]\n{"loss": 4}\n\n{"step": 5}\n')
    assert [row["step"] for row in read_rows(path)] == [1, 5]

"""Ten million clips on a thousand workers: what can be measured on one machine, and the rest by a small model.

    python -m benchmarks.scale [--quick] [--clips 10000000] [--seconds 2.76] [--dataset DATASET]

Measured: time and memory of the driver over parts without video, requests to an object store (moto's, on this machine)
and what Ray adds to a part. Fitted: a straight line through the smaller sizes, whose error at the largest is told.
Simulated: benchmarks/fleet.py. Assumed: what ASSUMED says.
"""

import argparse
import io
import multiprocessing
import os
import resource
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console
from rich.table import Table as Grid

from benchmarks.curation import FACTS, seconds_a_task
from benchmarks.fleet import Fleet, Outcome, part_size, simulate
from curation import measure, pack
from curation.chain import Chain, Job
from curation.layout import CLIPS, SCORES, read, rows_of, table
from curation.policy import Policy, Rule
from curation.recipe import Recipe
from curation.run import write_settings
from curation.score_rows import ScoreRows
from curation.select import select
from curation.status import status
from dataset.records import Clip, make_clip_id

console = Console(width=170)
RECIPE = Recipe(name="scale", filters=["header"])
POLICY = Policy(name="scale", rules=[Rule(score="header.duration", min=3, source="benchmark")])
STEPS = ("plan measuring", "select", "plan again", "plan packing", "status")
LATENCY = 0.03  # seconds of a request, assumed
THREADS = 8  # of dataset.tables.in_threads
CLIP_BYTES = 5.4e6  # a clip of 5 s at 1280x720, 8.6 Mbit/s, assumed; a source is fetched whole by each of three stages
GPU_SECONDS = 1.0  # of measuring a clip on a quarter of a GPU, assumed: nothing was measured on one yet
HEAD_GB = 16  # memory of the head node that cluster.yaml gives by default
ASSUMED = (
    f"Assumed: {1000 * LATENCY:.0f} ms a request to the store, {CLIP_BYTES / 1e6:.1f} MB of video a clip, "
    f"{GPU_SECONDS:g} s a clip on a quarter of a GPU, clips that differ by a sigma of 0.6, 2 % of the workers at half "
    "speed, 1 in 20 lost an hour and back after 5 minutes."
)


# ---------------------------------------------------------------- measured: the driver


def made(folder: Path, count: int) -> str:
    """A dataset of `count` clips in full parts, measured by the header alone, without videos."""
    dataset, size = str(folder / f"{count}"), measure.CLIPS_PER_PART
    write_settings(dataset, RECIPE, POLICY)
    rows = ScoreRows(RECIPE, POLICY)
    chain = Chain(rows.chain, POLICY)
    clips = [Clip(clip_id=f"{i}", source="/x", source_id="x", start=0, end=5, media=FACTS) for i in range(size)]
    plain = rows_of(CLIPS, clips)
    scores = pa.Table.from_pylist([rows.row(j) for c in clips for j in chain.run("/x", [Job(c)])], schema=rows.schema)
    for name in (CLIPS, SCORES):
        Path(dataset, name).mkdir()
    for first in range(0, count, size):
        ids = pa.array([make_clip_id(f"{i}", 0, 5) for i in range(first, min(count, first + size))])
        sources = pa.array([f"s3://bucket/raw/{i // 4:08d}.mp4" for i in range(first, first + len(ids))])
        named = plain.slice(0, len(ids)).set_column(plain.schema.get_field_index("source"), "source", sources)
        for name, rows_of_part in ((CLIPS, named), (SCORES, scores.slice(0, len(ids)))):
            part = rows_of_part.set_column(0, "clip_id", ids)
            pq.write_table(part, f"{dataset}/{name}/part-{first:09d}.parquet", compression="zstd")
    return dataset


def step(name: str, dataset: str) -> None:
    """One thing that the driver does."""
    rows = ScoreRows(RECIPE, POLICY)
    quiet = Console(file=io.StringIO())
    work: dict[str, Callable[[], object]] = {
        "plan measuring": partial(measure.plan, f"{dataset}/new", rows, 1000),
        "select": partial(select, dataset, POLICY, ["header"]),
        "plan again": partial(measure.plan, dataset, rows, 1000),
        "plan packing": partial(pack.plan, dataset, RECIPE),
        "status": partial(status, dataset, quiet),
    }
    work[name]()


def in_a_process(name: str, dataset: str) -> tuple[float, float]:
    """Seconds of a step, and GB that it adds to the peak of a process of its own."""
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()
    process = context.Process(target=timed_step, args=(name, dataset, theirs))
    process.start()
    theirs.close()
    found = ours.recv()
    process.join()
    return found


def timed_step(name: str, dataset: str, pipe: Any) -> None:
    before, began = peak_gb(), time.perf_counter()
    step(name, dataset)
    pipe.send((time.perf_counter() - began, peak_gb() - before))


def peak_gb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


@dataclass(frozen=True)
class Line:
    """y = base + slope * x through all points. error: by which a line through all but the last misses the last."""

    base: float
    slope: float
    error: float

    def at(self, x: float) -> float:
        return self.base + self.slope * x


def line(x: list[int], y: list[float]) -> Line:
    slope, base = np.polyfit(x[:-1], y[:-1], 1)
    error = (base + slope * x[-1]) / y[-1] - 1
    slope, base = np.polyfit(x, y, 1)
    return Line(float(base), float(slope), float(error))


def driver(sizes: list[int], clips: int) -> tuple[dict[str, Line], dict[str, Line]]:
    """Fits of seconds and GB by step."""
    grid = Grid(title=f"The driver, parts of {measure.CLIPS_PER_PART} clips on a local disk", title_justify="left")
    heads = ["step", *(f"{n:,}" for n in sizes), "s at " + f"{clips:,}", "fit", "GB at " + f"{sizes[-1]:,}"]
    for name in (*heads, "GB at " + f"{clips:,}", "fit"):
        grid.add_column(name, justify="left" if name == "step" else "right")
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in STEPS}
    with tempfile.TemporaryDirectory() as folder:
        for count in sizes:
            dataset = made(Path(folder), count)
            Path(dataset, "new").mkdir()
            Path(dataset, "new", CLIPS).symlink_to(Path(dataset, CLIPS))
            for name in STEPS:
                found[name].append(in_a_process(name, dataset))
    seconds = {name: line(sizes, [s for s, _ in points]) for name, points in found.items()}
    memory = {name: line(sizes, [gb for _, gb in points]) for name, points in found.items()}
    for name, points in found.items():
        s, gb = seconds[name], memory[name]
        measured = [f"{took:.1f}" for took, _ in points]
        fits = (
            f"{s.at(clips):,.0f}",
            f"{s.error:+.0%}",
            f"{points[-1][1]:.2f}",
            f"{gb.at(clips):.1f}",
            f"{gb.error:+.0%}",
        )
        grid.add_row(name, *measured, *fits)
    console.print(grid)
    return seconds, memory


# ---------------------------------------------------------------- measured: the object store


def serve(pipe: Any) -> None:
    from tests.cluster.object_store import ObjectStore

    store = ObjectStore()
    pipe.send(store.url)
    while pipe.recv():
        pipe.send(sum(store.happened.values()))


@contextmanager
def object_store() -> Iterator[Callable[[], int]]:
    """S3 of a process of its own, as this process finds it; yields how many requests it had."""
    ours, theirs = multiprocessing.get_context("spawn").Pipe()
    process = multiprocessing.get_context("spawn").Process(target=serve, args=(theirs,), daemon=True)
    process.start()
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        os.environ[name] = "x"
    os.environ.update(AWS_ENDPOINT_URL=ours.recv(), AWS_DEFAULT_REGION="us-east-1")

    def requests() -> int:
        ours.send(True)
        return ours.recv()

    yield requests
    process.terminate()
    process.join()


def store_requests(parts: int) -> tuple[dict[str, float], float]:
    """Requests of each step for a part, and CPU seconds of the client for one."""
    grid = Grid(title=f"Through an object store, {parts} parts", title_justify="left")
    for name in ("step", "requests", "a part", "CPU ms a request"):
        grid.add_column(name, justify="left" if name == "step" else "right")
    found, spent, asked = {}, 0.0, 0
    with object_store() as requests, tempfile.TemporaryDirectory() as folder:
        local = made(Path(folder), parts * measure.CLIPS_PER_PART)
        fs = fsspec.filesystem("s3")
        fs.mkdir("scale")
        fs.put(local, "scale/data", recursive=True)
        fs.put(f"{local}/{CLIPS}", f"scale/data/new/{CLIPS}", recursive=True)
        works: dict[str, Callable[[], object]] = {
            "list": lambda: table("s3://scale/data", CLIPS).parts(),
            "read keys": lambda: read("s3://scale/data", CLIPS, ["clip_id"]),
        }
        works |= {name: partial(step, name, "s3://scale/data") for name in STEPS}
        for name, work in works.items():
            before, cpu = requests(), time.process_time()
            work()
            took, count = time.process_time() - cpu, requests() - before
            found[name] = count / parts
            spent, asked = spent + took, asked + count
            grid.add_row(name, f"{count:,}", f"{count / parts:.2f}", f"{1000 * took / count:.1f}")
    console.print(grid)
    return found, spent / asked


# ---------------------------------------------------------------- the table


@dataclass(frozen=True)
class Place:
    name: str
    workers: int
    seconds: float


@dataclass(frozen=True)
class Costs:
    """What was measured: of the driver by step; requests a part by step; CPU seconds a request; seconds a task."""

    seconds: dict[str, Line]
    memory: dict[str, Line]
    requests: dict[str, float]
    request: float
    task: float

    def planning(self, clips: int) -> float:
        """Seconds of the driver before, between and after the stages, with the dataset on an object store."""
        parts = clips / measure.CLIPS_PER_PART
        asked = sum(self.requests[name] for name in STEPS) * parts
        return sum(self.seconds[name].at(clips) for name in STEPS) + asked * max(self.request, LATENCY / THREADS)

    def driver_gb(self, clips: int) -> float:
        return max(fit.at(clips) for fit in self.memory.values())


def breaks_first(place: Place, outcome: Outcome, costs: Costs, clips: int) -> str:
    """The thing that is used most of what there is of it."""
    planning = costs.planning(clips) / 3600
    shares = {
        "the driver's time": outcome.driver,
        f"{HEAD_GB} GB memory": costs.driver_gb(clips) / HEAD_GB,
        "the run is planning": planning / (planning + outcome.hours),
        "3,500 puts/s": outcome.requests / 2 / 3500,
    }
    name, share = max(shares.items(), key=lambda item: item[1])
    return f"{share:.0%} of {name}"


def print_table(clips: int, seconds: float, costs: Costs) -> None:
    places = [
        Place("64 cores", 64, seconds),
        Place("1,000 cores", 1000, seconds),
        *(Place(f"{gpus:,} GPU{'s' * (gpus > 1)}", 4 * gpus, GPU_SECONDS) for gpus in (1, 8, 64, 1024)),
    ]
    grid = Grid(title=f"Measuring {clips:,} clips", title_justify="left")
    heads = (
        "",
        "workers",
        "clips a part",
        "parts",
        "hours",
        "clips/s",
        "busy",
        "tail, min",
        "lost",
        "driver",
        "MB/s",
        "requests/s",
    )
    for name in (*heads, "used most"):
        grid.add_column(name, justify="left" if name in ("", "used most") else "right")
    for place in places:
        fleet = replace(Fleet(place.workers, place.seconds), dispatch=costs.task, store=LATENCY)
        outcome = simulate(fleet, clips)
        rate = outcome.clips_a_second(clips)
        numbers = (f"{part_size(clips, place.workers)}", f"{outcome.parts:,}", f"{outcome.hours:,.1f}", f"{rate:,.1f}")
        shares = (f"{outcome.busy:.0%}", f"{outcome.tail / 60:.0f}", f"{outcome.lost:.1%}", f"{outcome.driver:.0%}")
        store = (f"{rate * CLIP_BYTES / 1e6:,.0f}", f"{outcome.requests:,.0f}")
        grid.add_row(
            place.name, f"{place.workers:,}", *numbers, *shares, *store, breaks_first(place, outcome, costs, clips)
        )
    console.print(grid)
    console.print(
        f"Driver: {costs.driver_gb(clips):.1f} GB at most; {costs.planning(clips) / 60:,.0f} minutes of planning, "
        f"judging and status with the dataset on an object store. {ASSUMED}"
    )


def seconds_a_clip(dataset: str) -> float:
    """Of measuring, from what the filters of a real dataset took."""
    rows = read(dataset, SCORES, ["ms"])["ms"].to_pylist()
    return sum(ms for row in rows for _, ms in row) / 1000 / len(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=10_000_000)
    parser.add_argument("--sizes", type=int, nargs="+", default=[100_000, 300_000, 1_000_000], help="that are measured")
    parser.add_argument("--seconds", type=float, default=2.76, help="of a core to measure a clip (recipe embedded)")
    parser.add_argument("--dataset", help="take those seconds from its scores")
    parser.add_argument("--quick", action="store_true", help="small sizes: whether it runs, not what it says")
    arguments = parser.parse_args()
    quick = arguments.quick
    seconds = seconds_a_clip(arguments.dataset) if arguments.dataset else arguments.seconds
    fits = driver([2_000, 4_000, 8_000] if quick else arguments.sizes, arguments.clips)
    requests, request = store_requests(10 if quick else 300)
    task = 0.0135 if quick else seconds_a_task(2000)
    if not quick:
        console.print(f"Ray adds {1000 * task:.1f} ms to a part.")
    print_table(arguments.clips, seconds, Costs(*fits, requests, request, task))


if __name__ == "__main__":
    main()

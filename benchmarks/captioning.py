"""What captioning costs beside the servers: do they stay busy, and what does the client take?

    python -m benchmarks.captioning [--servers 1 2 4 8] [--slots 16] [--seconds 27] [--clips 5]

The whole stage runs (Ray, child processes, decoding of 720p video, HTTP) against servers that only wait: each has the
slots of a vLLM with --max-num-seqs, and a request stays in one for a time drawn around --seconds (600 tokens at 25 a
second, and what reading the pictures takes). They run in processes of their own, whose work is not counted.
"""

import argparse
import random
import sys
import tempfile
import time
from functools import partial
from multiprocessing import get_context
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa
from rich.console import Console
from rich.table import Table as Grid

from captioning.preflight import Ready
from captioning.settings import Captioning
from curation import caption
from curation.layout import CAPTIONS, CLIPS, SCORES, VERDICTS, read, rows_of, table
from curation.recipe import Recipe
from dataset.media import Counters
from dataset.records import Clip, Verdict, make_clip_id
from dataset.scan import probe
from dataset.stage import Resources, run_tasks, start_ray, worker_count
from tests.captioning.fake_server import FakeServer, Request, default_answer
from tests.videos import write_video

console = Console(width=120)
SPREAD = 0.25  # of the latencies: standard deviation of their logarithm


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--servers", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--slots", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=27.0, help="mean time of a request in its slot")
    parser.add_argument("--clips", type=int, default=5, help="for each slot")
    arguments = parser.parse_args()
    start_ray()
    grid = Grid(title=f"{arguments.slots} slots a server, {arguments.seconds:g} s a request", title_justify="left")
    for name in ("servers", "clips", "busy, while there is work", "clips/s", "of the ideal", "CPU-s a clip", "cores"):
        grid.add_column(name, justify="right")
    with tempfile.TemporaryDirectory() as folder:
        video = write_video(Path(folder) / "film.mp4", 60, picture=noisy, gop=50)
        for servers in arguments.servers:
            grid.add_row(*measure(Path(folder) / str(servers), video, servers, arguments))
    console.print(grid)


def noisy(time: float) -> np.ndarray:
    """720p that costs a decoder about what film does: a drifting texture."""
    size = (720, 1280)
    image = np.random.default_rng(0).integers(0, 255, (90, 160, 3), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
    return np.roll(image, (int(40 * time), int(90 * time)), (0, 1))[: size[0], : size[1]]


def measure(dataset: Path, video: Path, servers: int, arguments: argparse.Namespace) -> list[str]:
    """One run of the stage; cells of a row."""
    count = servers * arguments.slots * arguments.clips
    write_dataset(str(dataset), video, count)
    fakes = [start_fake(arguments.slots, arguments.seconds, seed) for seed in range(servers)]
    settings = Captioning(servers=tuple(pipe.recv() for _, pipe in fakes), concurrency=arguments.slots)
    recipe = Recipe(name="bench", filters=["header"], captioning=settings)
    resources = Resources(most=arguments.slots)
    workers = worker_count(resources)
    parts = caption.plan(str(dataset), workers)
    limit, at_once = caption.shares(settings, parts, workers)
    resources = Resources(most=arguments.slots, tasks=at_once)
    apart = {process.pid for process, _ in fakes}
    before, began = processor_time(apart), time.monotonic()
    make = partial(caption.CaptionWorker, str(dataset), recipe, Ready("fake"), limit, None)
    done = sum(result["done"] for result in run_tasks(make, parts, resources))
    wall, spent = time.monotonic() - began, processor_time(apart) - before
    assert done == count == len(set(read(str(dataset), CAPTIONS, ["clip_id"])["clip_id"].to_pylist()))
    spans = sorted(span for process, pipe in fakes for span in finish(process, pipe))
    first, last = spans[0][0], spans[-1][0]
    # While there is work: from the moment at which the first slots could have been given back, to the last request.
    share = busy(spans, first + arguments.seconds / 2, last) / (servers * arguments.slots)
    ideal = servers * arguments.slots / arguments.seconds
    rate = count / wall
    cells = [servers, count, f"{share:.1%}", f"{rate:.2f}", f"{rate / ideal:.0%}", f"{spent / count:.2f}"]
    console.print(f"{servers} servers: {wall:.0f} s, {share:.1%} busy")
    return [str(cell) for cell in (*cells, f"{spent / wall:.2f}")]


def busy(spans: list[tuple[float, float]], start: float, end: float) -> float:
    """Mean number of requests in slots between two moments."""
    return sum(max(0.0, min(b, end) - max(a, start)) for a, b in spans) / (end - start)


def write_dataset(dataset: str, video: Path, count: int) -> None:
    """Kept clips of 5 s, anywhere in the video."""
    media, luck = probe(str(video), Counters()), random.Random(0)
    starts = [round(luck.uniform(0, media.duration - 5.1), 3) for _ in range(count)]
    clips = [
        Clip(clip_id=make_clip_id(f"{i}", s, s + 5), source=str(video), source_id="a", start=s, end=s + 5, media=media)
        for i, s in enumerate(starts)
    ]
    table(dataset, CLIPS).write(rows_of(CLIPS, clips))
    table(dataset, SCORES).write(pa.table({"clip_id": [c.clip_id for c in clips]}))
    verdicts = [Verdict(clip_id=c.clip_id, keep=True, reasons=[], policy="") for c in clips]
    table(dataset, VERDICTS).write(rows_of(VERDICTS, verdicts))


# ---------------------------------------------------------------- servers


def start_fake(slots: int, seconds: float, seed: int) -> tuple[SpawnProcess, Connection]:
    spawn = get_context("spawn")  # a copy of this process would hold Ray's connections
    ours, theirs = spawn.Pipe()
    process = spawn.Process(target=serve, args=(theirs, slots, seconds, seed), daemon=True)
    process.start()
    return process, ours


def serve(pipe: Connection, slots: int, seconds: float, seed: int) -> None:
    """Tell the address, and at the end when each request was in its slot."""
    luck = random.Random(seed)

    def answer(request: Request) -> str:
        request.frames.clear()  # thousands of them
        return default_answer(request.clip)

    def latency(request: Request) -> float:
        return seconds * luck.lognormvariate(-(SPREAD**2) / 2, SPREAD)

    with FakeServer(slots=slots, latency=latency, answer=answer) as fake:
        pipe.send(fake.url)
        pipe.recv()
        pipe.send([(r.began, r.ended) for r in fake.requests])


def finish(process: SpawnProcess, pipe: Connection) -> list[tuple[float, float]]:
    pipe.send("stop")
    spans = pipe.recv()
    process.join(10)
    return spans


def processor_time(apart: set[int | None]) -> float:
    """CPU seconds of this process and all below it, but the servers."""
    total = 0.0
    for process in (psutil.Process(), *psutil.Process().children(recursive=True)):
        if process.pid not in apart:
            times = process.cpu_times()
            total += times.user + times.system + times.children_user + times.children_system
    return total


if __name__ == "__main__":
    sys.exit(main())

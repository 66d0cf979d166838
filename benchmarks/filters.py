"""What each filter of a recipe costs, and the whole chain with and without the cascade.

    python -m benchmarks.filters CLIP... [--recipe paper] [--policy NAME] [--random] [--compare]

Every file is one clip (its first 5 s, unless --seconds says otherwise). Filters run one by one on clips that are
already decoded; then the chain runs as a worker does, with its decoding thread ahead. --random puts random weights of
the official size in the place of weights that are missing: costs are the same, scores and what the cascade drops mean
nothing, and people are those that the recipe `embedded` finds. --compare also runs every filter on the CPU and prints
how far the GPU's scores are from its own.

"CPU outside" is what a core has to do beside the networks of torch, and goes on having to do where a GPU runs these;
"TFLOP" and "operations" are what it hands to them for a clip.
"""

import argparse
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
import psutil
import torch
from rich.console import Console
from rich.table import Table as Grid

from benchmarks.network_work import Inside, Work, counted
from curation.chain import Chain, Job
from curation.policy import Policy, load_policy
from curation.recipe import ensure_weights, load_recipe
from dataset.media import Counters, DecodedClip, read_clips
from dataset.records import Clip, make_clip_id
from dataset.scan import probe
from filters.base import Filter
from filters.nets import device as placement

console = Console(width=120)
CUDA = torch.cuda.is_available()
NO_RULES = Policy(name="none", rules=[])
PACE = 0.02  # seconds between two looks at memory and GPU


@dataclass
class Cost:
    """Of one filter over all clips."""

    setup: float = 0.0  # seconds
    wall: list[float] = field(default_factory=list)  # seconds a clip
    cpu: list[float] = field(default_factory=list)
    outside: list[float] = field(default_factory=list)  # CPU seconds a clip outside the networks of torch
    work: Work = field(default_factory=Work)  # of the first clip
    memory: float = 0.0  # MB of this process beyond what there was, setup included
    gpu_memory: float = 0.0
    gpu_busy: float | None = None  # share of the time


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clips", nargs="+", type=Path, metavar="CLIP")
    parser.add_argument("--recipe", default="paper")
    parser.add_argument("--policy", default="", help="for the cascade; default: the recipe's")
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--random", action="store_true")
    parser.add_argument("--compare", action="store_true")
    arguments = parser.parse_args()
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    recipe = load_recipe(arguments.recipe)
    chain = recipe.build()
    if arguments.random:
        from benchmarks.random_weights import find_people, stand_in

        chain = stand_in(chain)
    else:
        ensure_weights(chain)
    clips = [clip_of(path, arguments.seconds) for path in arguments.clips]
    spent = time.process_time()
    decoded = [decode(clip, chain) for clip in clips]
    decoding = (time.process_time() - spent) / len(clips)
    if arguments.random:
        find_people(clips, decoded)
    jobs = [Job(clip) for clip in clips]
    costs = {f.name(): measured(f, jobs, decoded) for f in chain}
    show(costs, decoded, decoding)
    if arguments.compare and CUDA:
        show_agreement(chain, clips, decoded, jobs)
    policy = load_policy(arguments.policy or recipe.policy)
    for cascade in (False, True):
        whole = Chain([fresh(f) for f in chain], policy, cascade=cascade)
        list(run(whole, clips[:1]))  # loads the networks
        began, spent = time.perf_counter(), time.process_time()
        done = list(run(whole, clips))
        wall, cpu = (time.perf_counter() - began) / len(clips), (time.process_time() - spent) / len(clips)
        stopped = sum(job.stopped is not None for job in done)
        title = f"with the cascade ({stopped} of {len(clips)} clips stopped)" if cascade else "without the cascade"
        console.print(f"the chain {title}: {1 / wall:.2f} clips/s, {1000 * wall:,.0f} ms a clip, {cpu:.2f} CPU-s")


def clip_of(path: Path, seconds: float) -> Clip:
    media = probe(str(path), Counters())
    end = min(seconds, media.duration)
    name = str(path.resolve())
    return Clip(clip_id=make_clip_id(name, 0, end), source=name, source_id=name, start=0.0, end=end, media=media)


def fresh(f: Filter) -> Filter:
    """The same, without its networks."""
    return type(f).model_validate(f.model_dump())


def decode(clip: Clip, chain: list[Filter]) -> DecodedClip:
    needs = list(dict.fromkeys(need for f in chain for need in f.needs.frames))
    return next(read_clips(clip.source, [(clip.start, clip.end)], needs, audio=True, counters=Counters()))


def measured(f: Filter, jobs: list[Job], decoded: list[DecodedClip]) -> Cost:
    """Run a filter on every clip behind those before it. The first clip warms up and is measured again."""
    cost, chain = Cost(), Chain([f], NO_RULES, cascade=False)
    with watched(cost):
        began = time.perf_counter()
        f.setup()
        chain.ready.add(f.name())
        cost.setup = time.perf_counter() - began
        with counted(cost.work):
            chain.measure(f, jobs[0], decoded[0])
        for job, seen in zip(jobs, decoded, strict=True):
            with Inside() as networks:
                wall, cpu = time.perf_counter(), time.process_time()
                chain.measure(f, job, seen)
                synchronise()
                cost.wall.append(time.perf_counter() - wall)
                cost.cpu.append(time.process_time() - cpu)
                cost.outside.append(cost.cpu[-1] - networks.seconds)
    return cost


@contextmanager
def watched(cost: Cost) -> Iterator[None]:
    """Peak memory and the GPU's busy share while the block runs."""
    process, ended, busy = psutil.Process(), threading.Event(), []
    before = process.memory_info().rss
    if CUDA:
        torch.cuda.reset_peak_memory_stats()

    def look() -> None:
        peak = before
        while not ended.wait(PACE):
            peak = max(peak, process.memory_info().rss)
            cost.memory = (peak - before) / 1e6
            if CUDA:
                busy.append(utilisation())

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
    if CUDA:
        cost.gpu_memory = torch.cuda.max_memory_allocated() / 1e6
        cost.gpu_busy = float(np.mean(busy)) if busy and min(busy) >= 0 else None


def utilisation() -> float:
    """Share of the last moments in which a kernel ran, as NVML tells; -1 without NVML's Python package."""
    try:
        return torch.cuda.utilization() / 100
    except ModuleNotFoundError:
        return -1.0


def synchronise() -> None:
    if CUDA:
        torch.cuda.synchronize()


def run(chain: Chain, clips: list[Clip]) -> Iterator[Job]:
    for clip in clips:
        for job in chain.run(clip.source, [Job(clip)]):
            if job.error:
                sys.exit(f"{clip.source}: {job.error}")
            yield job


# ---------------------------------------------------------------- tables


def show(costs: dict[str, Cost], decoded: list[DecodedClip], decoding: float) -> None:
    """decoding: CPU seconds a clip."""
    where = torch.cuda.get_device_name() if CUDA else "CPU, 1 thread"
    grid = Grid(title=f"{len(decoded)} clips on {where}; medians", title_justify="left")
    titles = ("ms/clip", "CPU ms", "CPU outside", "TFLOP", "operations", "setup s", "MB", "GPU MB", "GPU busy")
    grid.add_column("filter")
    for title in titles:
        grid.add_column(title, justify="right")
    grid.add_row("decode", "", *[f"{1000 * decoding:,.0f}"] * 2)
    sums = np.array([0.0, decoding, decoding, 0.0, 0.0])
    for name, cost in costs.items():
        spent = [float(np.median(values)) for values in (cost.wall, cost.cpu, cost.outside)]
        sums += (*spent, cost.work.tflop, cost.work.operations)
        busy = "-" if cost.gpu_busy is None else f"{cost.gpu_busy:.0%}"
        gpu = f"{cost.gpu_memory:,.0f}" if CUDA else "-"
        work = f"{cost.work.tflop:.2f}", f"{cost.work.operations:,}"
        grid.add_row(
            name, *(f"{1000 * s:,.0f}" for s in spent), *work, f"{cost.setup:.1f}", f"{cost.memory:,.0f}", gpu, busy
        )
    grid.add_row("all", *(f"{1000 * s:,.0f}" for s in sums[:3]), f"{sums[3]:.2f}", f"{sums[4]:,.0f}", style="bold")
    console.print(grid)


def show_agreement(chain: list[Filter], clips: list[Clip], decoded: list[DecodedClip], jobs: list[Job]) -> None:
    """Largest difference of every score between the GPU and the CPU."""
    placement.device = on_cpu  # filters ask for it when they load and run
    again = [Job(clip) for clip in clips]
    for f in chain:
        measured(fresh(f), again, decoded)
    grid = Grid(title="GPU against CPU", title_justify="left")
    for name in ("score", "largest difference", "largest value"):
        grid.add_column(name, justify="left" if name == "score" else "right")
    for f in chain:
        for score in type(f).Scores.model_fields:
            ours, theirs = (np.array([value(job, f, score) for job in side]) for side in (jobs, again))
            known = np.isfinite(ours) & np.isfinite(theirs)
            if known.any():
                worst, most = np.abs(ours - theirs)[known].max(), np.abs(theirs)[known].max()
                grid.add_row(f"{f.name()}.{score}", f"{worst:.3g}", f"{most:.3g}")
    console.print(grid)


def value(job: Job, f: Filter, score: str) -> float:
    """NaN where the score does not apply."""
    found = getattr(job.measured[f.name()], score)
    return float("nan") if found is None else float(found)


def on_cpu() -> torch.device:
    return torch.device("cpu")


if __name__ == "__main__":
    main()

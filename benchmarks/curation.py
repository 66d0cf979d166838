"""What curation costs: against Data-Juicer on the same clips, on top of the filters, and at a million clips.

    python -m benchmarks.curation peer --datajuicer DIRECTORY CLIP...    # DIRECTORY: of setup_datajuicer.sh
    python -m benchmarks.curation overhead [--tasks 2000]
    python -m benchmarks.curation scale [--clips 1000000]

Costs are CPU seconds with one thread, and ratios within one run.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import cv2
from rich.console import Console
from rich.table import Table as Grid

from benchmarks.peer_filters import PeerFaces, PeerMotion, PeerText
from curation import ingest, measure
from curation.chain import Chain, Job
from curation.policy import Policy, Rule
from curation.recipe import Recipe
from curation.run import write_settings
from curation.score_rows import ScoreRows
from curation.select import select
from curation.sources import Item
from curation.status import status
from dataset.errors import RunError
from dataset.media import Counters
from dataset.records import Clip, MediaFacts, make_clip_id
from dataset.scan import probe
from dataset.stage import Resources, run_tasks, start_ray, worker_count

console = Console(width=120)
OPS = {"motion": "peer_motion", "ocr": "peer_text", "face": "peer_faces"}
AGREE = 0.02  # relative difference of motion scores that different scalers and colour conversions may cause


# ---------------------------------------------------------------- peer


def peer(arguments: argparse.Namespace) -> None:
    """Motion, text and faces: one decode and three filters, against three operators that open the file themselves."""
    clips = [str(Path(c).resolve()) for c in arguments.clips]
    theirs = datajuicer(arguments.datajuicer, clips)
    ours = {clip: in_one_pass(clip) for clip in clips}
    grid = Grid(title="CPU seconds a clip (one thread)", title_justify="left")
    for name in ("clip", "Data-Juicer", "motion", "text", "faces", "opens", "s2v", "opens", "ratio", "motion scores"):
        grid.add_column(name, justify="left" if name == "clip" else "right")
    ratios, worst = [], 0.0
    for clip in clips:
        rows, (cpu, score, opens) = theirs[clip], ours[clip]
        total = sum(row["cpu_s"] for row in rows.values())
        motion = rows["motion"]["stats"]["video_motion_score"][0]
        worst = max(worst, abs(score - motion) / motion)
        ratios.append((total, cpu))
        each = [f"{rows[op]['cpu_s']:.2f}" for op in OPS]
        shown = f"{motion:.4f} {score:.4f}"
        opened = str(sum(r["opens"] for r in rows.values()))
        grid.add_row(
            Path(clip).name, f"{total:.2f}", *each, opened, f"{cpu:.2f}", str(opens), f"{total / cpu:.1f}x", shown
        )
    console.print(grid)
    total, cpu = (sum(column) for column in zip(*ratios, strict=True))
    console.print(f"All clips: {total:.1f} s against {cpu:.1f} s, {total / cpu:.1f} times less.")
    console.print(f"Motion scores differ by at most {100 * worst:.2f} % (allowed: {100 * AGREE:.0f} %).")
    if worst > AGREE:
        raise RunError("The motion scores do not agree, so the comparison is void.")


def datajuicer(folder: str, clips: list[str]) -> dict[str, dict[str, dict]]:
    """clip -> operator -> row, measured by Data-Juicer's own operators in its own environment."""
    worker = Path(__file__).with_name("datajuicer_worker.py")
    command = [f"{folder}/bin/python", str(worker), "--ops", ",".join(OPS), *clips]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RunError(
            f"Data-Juicer's worker failed; make its environment with benchmarks/setup_datajuicer.sh.\n{done.stderr}"
        )
    found: dict[str, dict[str, dict]] = defaultdict(dict)
    for row in map(json.loads, done.stdout.splitlines()):
        if "error" in row:
            raise RunError(f"Data-Juicer's {row['op']} failed on {row['clip']}: {row['error']}")
        found[row["clip"]][row["op"]] = row
    return found


def in_one_pass(clip: str) -> tuple[float, float, int]:
    """(CPU seconds, motion score, opens) of the same three measurements by one chain."""
    cv2.setNumThreads(1)
    chain = Chain([PeerMotion(), PeerText(), PeerFaces()], Policy(name="none", rules=[]))
    facts = probe(clip, Counters())
    spans = Clip(clip_id="x", source=clip, source_id="x", start=0, end=facts.duration + 1, media=facts)
    for f in chain.filters:  # loading networks is no part of a clip's cost, here as there
        f.setup()
        chain.ready.add(f.name())
    list(chain.run(clip, [Job(spans)]))  # warm
    began = time.process_time()
    (job,) = chain.run(clip, [Job(spans)])
    cpu = time.process_time() - began
    if job.error:
        raise RunError(job.error)
    return cpu, job.measured["peer_motion"].score, job.opens  # type: ignore[attr-defined]


# ---------------------------------------------------------------- overhead and scale


class Nothing:
    def __call__(self, task: int) -> dict[str, int]:
        return {"done": 1, "failed": 0}


def overhead(arguments: argparse.Namespace) -> None:
    """What Ray adds to a task, and so to a clip."""
    took = seconds_a_task(arguments.tasks)
    clips = measure.CLIPS_PER_PART
    count = arguments.tasks
    console.print(f"{count} empty tasks in {count * took:.1f} s: {1000 * took:.1f} ms a task of up to ", end="")
    console.print(f"{clips} clips, {1000 * took / clips:.2f} ms a clip in full parts.")


def seconds_a_task(tasks: int) -> float:
    start_ray()
    list(run_tasks(Nothing, range(8), Resources()))
    began = time.perf_counter()
    done = sum(1 for _ in run_tasks(Nothing, range(tasks), Resources()))
    return (time.perf_counter() - began) / done


FACTS = MediaFacts(
    width=1280,
    height=720,
    fps=25.0,
    duration=5.0,
    frames=125,
    video_codec="h264",
    pix_fmt="yuv420p",
    bit_rate=2_000_000,
    audio_codec="aac",
    audio_rate=48_000,
    audio_channels=2,
)


class NoIngest(ingest.IngestWorker):
    """Ingest without opening anything: one clip a source, of a length told by its number."""

    def ingest(self, item: Item) -> ingest.Found:
        end = 1.0 + int(item.uri.split("/")[-1].split(".")[0]) % 100 / 10
        media = FACTS.model_copy(update={"duration": end})
        clip_id = make_clip_id(item.uri, 0.0, end)
        return [Clip(clip_id=clip_id, source=item.uri, source_id=item.uri, start=0.0, end=end, media=media)], []


class NoMeasure(measure.MeasureWorker):
    """Measure with filters that need no pixels, in the worker itself."""

    def measure(self, unit: list[Job]) -> list[Job]:
        chain = Chain(self.rows.chain, self.policy)
        return list(chain.run(unit[0].clip.source, unit))


def scale(arguments: argparse.Namespace) -> None:
    """Everything but reading video: planning, tables, Ray, judging, status."""
    count = arguments.clips
    recipe = Recipe(name="scale", filters=["header"])
    policy = Policy(name="scale", rules=[Rule(score="header.duration", min=3, source="benchmark")])
    grid = Grid(title=f"{count:,} clips, a chain that decodes nothing", title_justify="left")
    for name in ("stage", "seconds", "clips/s", "driver's peak memory, GB"):
        grid.add_column(name, justify="left" if name == "stage" else "right")
    with tempfile.TemporaryDirectory(dir=arguments.folder) as dataset:
        start_ray()
        write_settings(dataset, recipe, policy)
        for name, work in stages(dataset, recipe, policy, count):
            began = time.perf_counter()
            work()
            took = time.perf_counter() - began
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
            grid.add_row(name, f"{took:,.1f}", f"{count / took:,.0f}", f"{peak:.2f}")
            console.print(f"{name}: {took:.1f} s")
        console.print(grid)


def stages(dataset: str, recipe: Recipe, policy: Policy, count: int) -> Iterator[tuple[str, partial]]:
    workers = worker_count(Resources())
    rows = ScoreRows(recipe, policy)

    def run(make: partial, plan: Callable[[], Any]) -> None:
        done = sum(result["done"] for result in run_tasks(make, plan(), Resources()))
        assert done == count, done

    items = (Item(f"/nowhere/{i:07d}.mp4") for i in range(count))
    yield (
        "ingest",
        partial(run, partial(NoIngest, dataset, recipe, policy), lambda: ingest.plan(dataset, items, workers).groups),
    )
    yield "look for copies", partial(ingest.drop_copies, dataset)
    yield (
        "measure",
        partial(run, partial(NoMeasure, dataset, recipe, policy), partial(measure.plan, dataset, rows, workers)),
    )
    yield "select", partial(select, dataset, policy, ["header"])
    yield "plan again (nothing to do)", partial(measure.plan, dataset, rows, workers)
    yield "status", partial(status, dataset, console)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    command = commands.add_parser("peer", help="against Data-Juicer on the same clips")
    command.add_argument("--datajuicer", required=True, metavar="DIRECTORY", help="its environment")
    command.add_argument("clips", nargs="+", metavar="CLIP")
    command.set_defaults(run=peer)
    command = commands.add_parser("overhead", help="of Ray, a clip")
    command.add_argument("--tasks", type=int, default=2000)
    command.set_defaults(run=overhead)
    command = commands.add_parser("scale", help="a million clips without video")
    command.add_argument("--clips", type=int, default=1_000_000)
    command.add_argument("--folder", help="where the dataset is made for the while (default: the system's)")
    command.set_defaults(run=scale)
    arguments = parser.parse_args()
    try:
        arguments.run(arguments)
    except RunError as e:
        sys.exit(f"Error: {e}")


if __name__ == "__main__":
    main()

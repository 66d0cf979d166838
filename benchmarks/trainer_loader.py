"""What reading pixels costs for the speech stage, against what eight H100 use up: how many cores must read for a node.

    python -m benchmarks.trainer_loader [--shards DIR] [--clips N]

Without --shards, clips of 6 s at 1280x720 and 25 frames a second are made, with sound and a person's pose. Rates are
wall time of the loader, transfer included, after its processes have started; a core's rate is of their CPU time, which
other work on the machine does not change.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Sequence
from functools import partial
from itertools import cycle, islice
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from rich.table import Table as Grid

from benchmarks.measuring import REAL, console, number
from dataset.cut import cut_clip
from dataset.shards import Sample, make_shard
from dataset.tracks import KEYPOINTS, Tracks
from dataset.video_out import VideoWriter
from trainer.budget import fit
from trainer.corpus import read_corpus
from trainer.loader import Loader
from trainer.reading import read_pixels
from trainer.sample import Clip, Pixels, Request
from trainer.schedule import Schedule
from trainer.stages import Stage, speech

GPUS, PEAK, MFU = 8, 989.4e12, 0.45  # H100, dense bfloat16
PASSES = 3  # forward, and twice that backward
SECONDS, FPS, WIDTH, HEIGHT = 6, 25, 1280, 720
DISTINCT = 2  # clips that are made; they are packed over and over


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shards", help="of a dataset: real clips")
    parser.add_argument("--clips", type=int, default=24, help="that are read by each number of processes")
    arguments = parser.parse_args()
    stage = speech().model_copy(update={"batch": 1, "steps": arguments.clips + 1})
    with tempfile.TemporaryDirectory() as folder:
        clips = read_corpus([arguments.shards or make_shards(Path(folder))], stage, REAL, console.print)
        need = samples_needed(clips, stage)
        console.print(f"{GPUS} H100 at {MFU:.0%} MFU use up {number(need)} samples a second of this corpus.")
        grid = Grid(title="Reading the speech stage's samples", title_justify="left")
        rates = ("samples/s", "of the need", "CPU s a sample", "samples/s a core", "cores for 8 H100", "MB a sample")
        for column in ("processes", *rates):
            grid.add_column(column, justify="right")
        for workers in (1, 2):
            rate, cpu, size = measure(clips, stage.model_copy(update={"workers": workers}))
            row = [str(workers), *(number(v) for v in (rate, rate / need, cpu, 1 / cpu, need * cpu, size / 1e6))]
            grid.add_row(*row)
        console.print(grid)


def samples_needed(clips: Sequence[Clip], stage: Stage) -> float:
    """Samples a second that the GPUs learn from, by the FLOPs of a mean clip."""
    shapes = [fit(clip.seconds, clip.width, clip.height, stage, REAL) for clip in clips]
    flops = [sum(REAL.flops(s.latent_frames, s.height, s.width).values()) for s in shapes if s]
    return GPUS * PEAK * MFU / (PASSES * float(np.mean(flops)))


def measure(clips: Sequence[Clip], stage: Stage) -> tuple[float, float, float]:
    """(samples a second, CPU seconds of a sample, its bytes)"""
    loader = Loader(Schedule(clips, stage, REAL), partial(timed_read, stage.seed), stage)
    samples = (sample for _, step, _ in loader for sample in step)
    next(samples)
    began, costs, sizes = time.perf_counter(), [], []
    for pixels, cpu in samples:
        costs.append(cpu)
        parts = (pixels.frames, pixels.reference, pixels.pose, pixels.speech)
        sizes.append(sum(part.nbytes for part in parts if part is not None))
        del pixels, parts
    return len(costs) / (time.perf_counter() - began), float(np.mean(costs)), float(np.mean(sizes))


def timed_read(seed: int, request: Request) -> tuple[Pixels, float]:
    began = time.process_time()
    return read_pixels(request, seed), time.process_time() - began


# ---------------------------------------------------------------- clips


def make_shards(folder: Path, count: int = 2 * DISTINCT) -> str:
    made = [make_clip(folder, n) for n in range(DISTINCT)]
    data, offsets = make_shard(Sample(f"{n:06d}", files) for n, files in enumerate(islice(cycle(made), count)))
    (folder / "000000.tar").write_bytes(data)
    facts = {"shard": "000000.tar", "seconds": float(SECONDS), "width": WIDTH, "height": HEIGHT}
    rows = [{"clip_id": key, "offset": offset, **facts} for key, offset in offsets.items()]
    pq.write_table(pa.Table.from_pylist(rows), folder / "index.parquet")
    size = np.mean([len(files["mp4"]) for files in made])
    console.print(f"Made clips of {SECONDS} s at {WIDTH}x{HEIGHT}, {8 * size / SECONDS / 1e6:.1f} Mbit/s.")
    return str(folder)


def make_clip(folder: Path, number: int) -> dict[str, bytes]:
    """Cut as curation cuts: a textured picture that pans, with some grain."""
    luck = np.random.default_rng(number)
    small = luck.integers(0, 255, (HEIGHT // 8, WIDTH // 4, 3), np.uint8)
    wide = cv2.GaussianBlur(cv2.resize(small, (2 * WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC), (9, 9), 0)
    sound = luck.normal(0, 0.1, (2, SECONDS * 48_000)).astype(np.float32)
    path = folder / "source.mp4"
    with VideoWriter(str(path), WIDTH, HEIGHT, FPS, sound) as writer:
        for n in range(SECONDS * FPS):
            at = 2 * n
            grain = luck.integers(-8, 9, (HEIGHT, WIDTH, 1))
            writer.add(np.clip(wide[None, :, at : at + WIDTH] + grain, 0, 255).astype(np.uint8))
    facts = {"captions": ["A person speaks.", "Somebody talks to the camera."]}
    video = cut_clip(str(path), 0, SECONDS).video
    return {"mp4": video, "json": json.dumps(facts).encode(), "pose.npz": somebody(luck).to_npz_bytes()}


def somebody(luck: np.random.Generator) -> Tracks:
    """All keypoints of one person, who sways."""
    times = np.arange(0, SECONDS, 1 / 8)
    points = np.ones((1, len(times), KEYPOINTS, 3), np.float32)
    points[..., :2] = luck.uniform(0.3, 0.7, (1, 1, KEYPOINTS, 2)) + 0.02 * np.sin(times)[None, :, None, None]
    boxes = np.full((1, len(times), 4), np.nan, np.float32)
    return Tracks(times, np.array([1]), points, boxes, boxes)


if __name__ == "__main__":
    main()

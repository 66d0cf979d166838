"""Run Data-Juicer's own operators over clips and say what each cost: one JSON line per operator and clip.

Run it with the Python of the environment that setup_datajuicer.sh makes; it imports nothing of ours:

    DIRECTORY/bin/python benchmarks/datajuicer_worker.py [--ops motion,face] [--threads 1] CLIP... > rows.jsonl

With no CLIP, paths are read from standard input, one a line. Each operator has a process of its own, so that memory
is told apart and a crash costs one operator. The operators are as shipped but for `give_dlib_whole_arrays`. A row:

    op, clip      the operator's name below, the path as given
    cpu_s         CPU seconds, user and system, of all threads and of child processes (ffprobe)
    wall_s        seconds by the clock
    opens         how often the file was opened, as the kernel saw it
    seeks         jumps asked of OpenCV's reader; each one decodes anew from the last keyframe
    peak_rss_mb   the most memory this process has held so far
    stats         what the operator measured
    error         instead of stats, where the operator raised; where it crashed, the row is op, clip and error
"""

# pyright: reportMissingImports=false

import argparse
import contextlib
import ctypes
import json
import os
import resource
import shutil
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

# Read when the packages below are first imported.
os.environ.setdefault("EASYOCR_MODULE_PATH", str(Path(sys.prefix) / "easyocr"))
os.environ.setdefault("DATA_JUICER_CACHE_HOME", str(Path(sys.prefix) / "cache"))
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import av
import cv2
import numpy as np
import torch

SEEKS = 0
RealCapture = cv2.VideoCapture
DECLARED: list[Any] = []  # see let_torchvision_import


class CountingCapture:
    """Stands in for OpenCV's reader and counts the jumps it is asked for. (Deriving from it corrupts memory.)"""

    def __init__(self, *arguments: Any):
        self.reader = RealCapture(*arguments)

    def set(self, prop: int, value: float) -> bool:
        global SEEKS
        SEEKS += prop == cv2.CAP_PROP_POS_FRAMES
        return self.reader.set(prop, value)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.reader, name)


class OpenCounter:
    """Counts the opens of one file by any process, through Linux's inotify."""

    # Reads and closes are watched too: the kernel merges equal events in a row, and these stand between two opens.
    ACCESS, CLOSE, OPEN, NONBLOCK = 0x1, 0x18, 0x20, 0o4000

    def __init__(self, path: str):
        libc = ctypes.CDLL(None, use_errno=True)
        self.descriptor = libc.inotify_init1(self.NONBLOCK)
        watched = self.ACCESS | self.CLOSE | self.OPEN
        if self.descriptor < 0 or libc.inotify_add_watch(self.descriptor, os.fsencode(path), watched) < 0:
            raise OSError(ctypes.get_errno(), "inotify", path)

    def close(self) -> int:
        """Stop watching; how many opens there were."""
        count = 0
        with contextlib.suppress(BlockingIOError):
            while events := os.read(self.descriptor, 1 << 16):
                # 16 bytes an event, as the watch is on a file: watch, mask, cookie, length of a name (0)
                count += sum(bool(mask & self.OPEN) for _, mask, _, _ in struct.iter_unpack("iIII", events))
        os.close(self.descriptor)
        return count


def operators() -> dict[str, Callable[[], Any]]:
    """Data-Juicer's filters, with the settings that make them measure and drop nothing."""
    from data_juicer.ops.filter.video_duration_filter import VideoDurationFilter
    from data_juicer.ops.filter.video_face_ratio_filter import VideoFaceRatioFilter
    from data_juicer.ops.filter.video_motion_score_filter import VideoMotionScoreFilter
    from data_juicer.ops.filter.video_ocr_area_ratio_filter import VideoOcrAreaRatioFilter
    from data_juicer.ops.filter.video_resolution_filter import VideoResolutionFilter

    backend = "ffmpeg" if shutil.which("ffprobe") else "av"  # the first is its default
    return {
        "resolution": lambda: VideoResolutionFilter(min_width=480, min_height=480),
        "duration": lambda: VideoDurationFilter(min_duration=2, max_duration=60, video_backend=backend),
        "motion": lambda: VideoMotionScoreFilter(min_score=0.0, sampling_fps=2, size=256),
        "ocr": lambda: VideoOcrAreaRatioFilter(max_area_ratio=1.0, frame_sample_num=3, languages_to_detect=["en"]),
        "face": lambda: VideoFaceRatioFilter(threshold=0.0, detect_interval=12),
    }


def give_dlib_whole_arrays() -> None:
    """Data-Juicer 1.6.1 hands dlib an array with negative strides, which the dlib-bin wheel misreads.

    As shipped, the operator found faces in none of the frames of clips that show one all the time. A contiguous copy
    costs next to nothing and makes it do what it is meant to.
    """
    from data_juicer.ops.filter import video_face_ratio_filter as face

    convert = face.pil_to_opencv
    face.pil_to_opencv = lambda image: np.ascontiguousarray(convert(image))


def let_torchvision_import() -> None:
    """Next to a CPU build of torch, PyPI's torchvision fails to import unless two operators are declared before."""
    if torch.version.cuda is None:
        library = torch.library.Library("torchvision", "FRAGMENT")
        for name in ("nms", "qnms"):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        DECLARED.append(library)  # the declarations live as long as this object


def cpu_seconds() -> float:
    """Of this process with all its threads, and of its finished children."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in used)


def measure(operator: Any, clip: str) -> dict[str, Any]:
    """Let one operator measure one clip."""
    global SEEKS
    from data_juicer.utils.constant import Fields

    sample = {"text": "<__dj__video>", "videos": [clip], Fields.stats: {}, Fields.meta: {}}
    opens, SEEKS, cpu, wall = OpenCounter(clip), 0, cpu_seconds(), time.perf_counter()
    try:
        stats = operator.compute_stats_single(sample)[Fields.stats]
        outcome: dict[str, Any] = {"stats": {name: np.asarray(value).tolist() for name, value in stats.items()}}
    except Exception as error:  # one clip that an operator can't take must not end the run
        outcome = {"error": f"{type(error).__name__}: {error}"}
    cpu, wall = cpu_seconds() - cpu, time.perf_counter() - wall
    return {
        "cpu_s": round(cpu, 3),
        "wall_s": round(wall, 3),
        "opens": opens.close(),
        "seeks": SEEKS,
        "peak_rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        **outcome,
    }


def write_tiny_clip(path: str) -> None:
    """Two seconds of noise: the first call of an operator, which imports and loads, is spent on it."""
    noise = np.random.default_rng(0)
    with av.open(path, "w") as container:
        stream = container.add_stream("mpeg4", rate=8)
        stream.width = stream.height = 64
        for _ in range(16):
            frame = av.VideoFrame.from_ndarray(noise.integers(0, 255, (64, 64, 3), np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def measure_all(op: str, clips: list[str]) -> Iterator[dict[str, Any]]:
    """One operator over all clips, in this process."""
    cv2.VideoCapture = CountingCapture  # pyright: ignore[reportAttributeAccessIssue]
    let_torchvision_import()
    give_dlib_whole_arrays()
    operator = operators()[op]()
    with tempfile.TemporaryDirectory() as scratch:
        tiny = str(Path(scratch) / "tiny.mp4")
        write_tiny_clip(tiny)
        measure(operator, tiny)
        for clip in clips:
            own = shutil.copy(clip, scratch)  # nobody else's opens are counted
            yield {"op": op, "clip": clip, **measure(operator, own)}


def measure_apart(op: str, clips: list[str], threads: int) -> Iterator[str]:
    """The rows of one operator, as lines, measured in a process of its own."""
    command = [sys.executable, __file__, "--here", "--ops", op, "--threads", str(threads), *clips]
    done: set[str] = set()
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout
        for line in child.stdout:
            done.add(json.loads(line)["clip"])
            yield line
    for clip in clips:
        if clip not in done:
            yield json.dumps({"op": op, "clip": clip, "error": f"the process ended with {child.returncode}"}) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clips", nargs="*", metavar="CLIP")
    parser.add_argument("--ops", default="resolution,duration,motion,ocr,face", help="which operators, by comma")
    parser.add_argument("--threads", type=int, default=1, help="of OpenCV and of torch (default: 1)")
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    clips = arguments.clips or sys.stdin.read().splitlines()
    output = sys.stdout
    if not arguments.here:
        for op in arguments.ops.split(","):
            for line in measure_apart(op, clips, arguments.threads):
                output.write(line)
                output.flush()
        return
    cv2.setNumThreads(arguments.threads)
    torch.set_num_threads(arguments.threads)
    with contextlib.redirect_stdout(sys.stderr):  # some operators print
        for row in measure_all(arguments.ops, clips):
            print(json.dumps(row), file=output, flush=True)


if __name__ == "__main__":
    main()

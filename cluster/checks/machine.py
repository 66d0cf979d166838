"""One node by itself: room, limits, codecs, versions."""

import importlib.metadata
import os
import platform
import resource
import shutil
import tempfile
from pathlib import Path

import av
import numpy as np

from cluster.checks import Check, Verdict
from dataset.video_out import VideoWriter
from filters import weights

ROOM, LEAST_ROOM = 20.0, 2.0  # GB: sources are copied to the temporary folder, one for each worker
SHARED = 1.0  # GB: containers have 64 MB unless told otherwise, which neither Ray nor a loader of samples can live with
FILES, PROCESSES = 8192, 4096
PACKAGES = ("s2v", "ray", "av", "torch")
FRAMES, FPS = 8, 25


def temporary_room() -> Check:
    return room("room for temporary files", tempfile.gettempdir(), "free some, or set TMPDIR to a larger disk")


def cache_room() -> Check:
    return room("room for weights", str(weights.store.cache_dir()), "free some, or set S2V_CACHE to a larger disk")


def room(name: str, folder: str, remedy: str, wanted: float = ROOM, least: float = LEAST_ROOM) -> Check:
    """wanted, least: GB."""
    place = next(p for p in (Path(folder), *Path(folder).absolute().parents) if p.exists())
    if not os.access(place, os.W_OK):
        return Check(name, "bad", f"{place} can't be written to", remedy)
    free = shutil.disk_usage(place).free / 1e9
    verdict: Verdict = "ok" if free >= wanted else "warn" if free >= least else "bad"
    return Check(name, verdict, f"{{}} GB free in {folder}", remedy if verdict != "ok" else "", (free,))


def shared_memory(wanted: float = SHARED) -> Check:
    size = shutil.disk_usage("/dev/shm").total / 1e9
    if size >= wanted:
        return Check("shared memory", "ok", "{} GB", numbers=(size,))
    remedy = "give the container more: --shm-size=16g, or an emptyDir of medium Memory at /dev/shm"
    return Check("shared memory", "bad", "{} GB in /dev/shm", remedy, (size,))


def limits(files: int = FILES, processes: int = PROCESSES) -> Check:
    may_open, may_run = resource.getrlimit(resource.RLIMIT_NOFILE)[0], resource.getrlimit(resource.RLIMIT_NPROC)[0]
    low = []
    if 0 <= may_open < files:
        low.append(f"{may_open:,} open files (ulimit -n 65536)")
    if 0 <= may_run < processes:
        low.append(f"{may_run:,} processes (ulimit -u unlimited)")
    for path in ("/sys/fs/cgroup/pids.max", "/sys/fs/cgroup/pids/pids.max"):
        text = Path(path).read_text().strip() if Path(path).exists() else "max"
        if text.isdigit() and int(text) < processes:
            low.append(f"{text} processes in the container (its pids limit)")
    if low:
        return Check("limits", "warn", f"only {' and '.join(low)}", "raise them where the node or container is set up")
    return Check("limits", "ok", "open files and processes")


def codecs() -> Check:
    """H.264 and AAC there and back, as cutting clips does it."""
    sound = np.sin(np.linspace(0, 300, 48_000 * FRAMES // FPS, dtype=np.float32))
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/probe.mp4"
        with VideoWriter(path, 64, 64, FPS, np.stack([sound, sound])) as out:
            out.add(np.stack([np.full((64, 64, 3), 20 * i, np.uint8) for i in range(FRAMES)]))
        with av.open(path) as container:
            pictures = sum(1 for _ in container.decode(video=0))
        with av.open(path) as container:
            samples = sum(frame.samples for frame in container.decode(audio=0))
    if pictures != FRAMES or samples < sound.size:
        what = f"{pictures} of {FRAMES} frames and {samples} of {sound.size} samples came back"
        return Check("codecs", "bad", what, "install PyAV again: pip install --force-reinstall av")
    return Check("codecs", "ok", f"H.264 and AAC there and back, FFmpeg {av.ffmpeg_version_info}")


def versions() -> dict[str, str]:
    """Of what must be the same on all nodes."""
    return {"python": platform.python_version()} | {name: version(name) for name in PACKAGES}


def version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "none"

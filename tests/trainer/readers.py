"""Ways to read a sample, for the processes of the loader. They import this file, so it imports little."""

import ctypes
import os
import signal
import time
from typing import Any

import cv2
import numpy as np
import torch

from trainer.reading import Unreadable
from trainer.sample import Example, Request


def name(request: Request) -> tuple[str, int, int]:
    return request.clip.clip_id, request.epoch, request.shape.frames


def slowly(request: Request) -> tuple[str, int, int]:
    """The later ones of a step are done first."""
    time.sleep(0.02 * (hash(request.clip.clip_id[-1]) % 4))
    return name(request)


def broken(bad: frozenset[str], request: Request) -> tuple[str, int, int]:
    if request.clip.clip_id in bad:
        raise Unreadable(request.clip, f"{request.clip.clip_id} is torn", "mend it")
    return name(request)


def fatal(how: str, request: Request) -> str:
    if request.clip.clip_id == "c7":
        if how == "segfault":
            ctypes.string_at(0)
        if how == "hang":
            signal.alarm(1)  # as after PATIENCE
            time.sleep(60)
        os.kill(os.getpid(), signal.SIGKILL)
    return request.clip.clip_id


def mistaken(request: Request) -> None:
    raise ZeroDivisionError("a mistake in the reading code")


def surroundings(request: Request) -> dict[str, Any]:
    return {
        "pid": os.getpid(),
        "torch": torch.get_num_threads(),
        "cv2": cv2.getNumThreads(),
        "omp": os.environ.get("OMP_NUM_THREADS"),
        "openblas": os.environ.get("OPENBLAS_NUM_THREADS"),
    }


def arrays(request: Request) -> dict[str, Any]:
    n = int(request.clip.clip_id[1:])
    return {
        "bytes": np.full((3, n + 1), n, np.uint8),
        "floats": np.arange(1000.0) + n,
        "view": np.arange(24).reshape(4, 6)[:, ::2],
        "fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        "empty": np.zeros((0, 3), np.float32),
        "tensor": torch.full((4,), float(n), dtype=torch.float16),
        "nothing": None,
    }


def large(megabytes: int, request: Request) -> np.ndarray:
    return np.ones((megabytes, 1 << 20), np.uint8)


def latent(request: Request) -> Example:
    from tests.trainer.examples import example

    return example(request.clip.clip_id)

"""Start one process a GPU on this machine, as torchrun does."""

import logging
import os
import sys
import uuid
from collections.abc import Sequence

import torch
from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch


def launched() -> bool:
    """Is this one of several processes that torchrun started?"""
    return int(os.environ.get("WORLD_SIZE", 1)) > 1


def own_device() -> torch.device:
    """The GPU that this process is to use, made the current one; the CPU where there is none."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
    torch.cuda.set_device(device)
    return device


def run_processes(processes: int, module: str, arguments: Sequence[str], *, patience: int = 30) -> int:
    """`python -m MODULE ARGUMENTS` that many times, without torchrun's report: the process that failed has told why.

    A signal is passed on; after `patience` seconds, those that are still there are killed. Returns the exit code.
    """
    for name in list(logging.root.manager.loggerDict):
        if name.startswith("torch.distributed.elastic"):
            logging.getLogger(name).setLevel(logging.CRITICAL)
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=processes,
        run_id=str(uuid.uuid4()),
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=0,
        shutdown_timeout=patience,
    )
    try:
        elastic_launch(config, sys.executable)("-m", module, *arguments)
    except ChildFailedError as failed:
        return abs(failed.get_first_failure()[1].exitcode)
    except SignalException as stopped:
        return 128 + stopped.sigval
    return 0

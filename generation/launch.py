"""Several GPUs: the same command again, in one process a GPU."""

import logging
import os
import sys
import uuid

import torch
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from model.errors import InputError


def launched() -> bool:
    """Is this one of several processes that torchrun started?"""
    return int(os.environ.get("WORLD_SIZE", 1)) > 1


def launch(processes: int, arguments: list[str]) -> int:
    """Run `s2v ARGUMENTS` on that many GPUs of this machine; returns the exit code."""
    there = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if processes > there:
        raise InputError(
            f"--gpus {processes}: this machine has {there}. Several machines: start the command with torchrun."
        )
    return run(processes, arguments)


def run(processes: int, arguments: list[str]) -> int:
    """What torchrun does, without its report: the process that failed has told why."""
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=processes,
        run_id=str(uuid.uuid4()),
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=0,
    )
    try:
        elastic_launch(config, sys.executable)("-m", "cli", *arguments)
    except ChildFailedError as failed:
        return abs(failed.get_first_failure()[1].exitcode)
    return 0

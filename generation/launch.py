"""Several GPUs: the same command again, in one process a GPU."""

import os
import subprocess
import sys

import torch

from model.errors import InputError


def launched() -> bool:
    """Is this one of the processes that torchrun started?"""
    return "WORLD_SIZE" in os.environ


def launch(processes: int, arguments: list[str]) -> int:
    """Run `s2v ARGUMENTS` in that many processes of this machine, through torchrun; returns the exit code."""
    there = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if processes > there:
        raise InputError(
            f"--gpus {processes}: this machine has {there}. Several machines: start the command with torchrun."
        )
    return subprocess.call(torchrun(processes, arguments))


def torchrun(processes: int, arguments: list[str]) -> list[str]:
    start = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    return [*start, "-m", "cli", *arguments]

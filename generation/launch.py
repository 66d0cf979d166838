"""Several GPUs: the same command again, in one process a GPU."""

import torch

from model.errors import InputError
from model.launch import run_processes


def launch(processes: int, arguments: list[str]) -> int:
    """Run `s2v ARGUMENTS` on that many GPUs of this machine; returns the exit code."""
    there = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if processes > there:
        raise InputError(
            f"--gpus {processes}: this machine has {there}. Several machines: start the command with torchrun."
        )
    return run_processes(processes, "cli", arguments)

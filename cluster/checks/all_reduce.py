"""One process of the all-reduce check; torchrun starts one a GPU.

python -m torch.distributed.run --standalone --nproc-per-node=8 -m cluster.checks.all_reduce nccl 256 120
"""

import os
import sys
import time
from datetime import timedelta

import torch
import torch.distributed as dist

ROUNDS, WARM = 10, 3


def main(backend: str, megabytes: int, patience: float) -> None:
    """patience: seconds that a process waits for the others."""
    device = torch.device("cpu")
    if backend == "nccl":
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    dist.init_process_group(backend, timeout=timedelta(seconds=patience))
    rank, world = dist.get_rank(), dist.get_world_size()
    values = torch.full((megabytes * 250_000,), float(rank + 1), device=device)
    dist.all_reduce(values)
    wanted = world * (world + 1) / 2
    if not bool((values == wanted).all()):
        raise ArithmeticError(f"the sum over {world} ranks is wrong on rank {rank}")
    for _ in range(WARM):
        dist.all_reduce(values.zero_())
    finish(device)
    began = time.perf_counter()
    for _ in range(ROUNDS):
        dist.all_reduce(values)
    finish(device)
    seconds = (time.perf_counter() - began) / ROUNDS
    if os.environ["LOCAL_RANK"] == "0":  # once a node
        print(f"GB/s {2 * (world - 1) / world * megabytes / 1000 / seconds:.4g}", flush=True)
    dist.destroy_process_group()


def finish(device: torch.device) -> None:
    dist.barrier()
    if device.type == "cuda":
        torch.cuda.synchronize(device)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]))

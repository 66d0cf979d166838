"""How much memory a rank takes to start: it should never hold more of the network than its part.

python -m benchmarks.trainer start [--ranks 4]. A network of 200 million parameters on CPU ranks; anonymous memory only,
since the files of a checkpoint are mapped and shared.
"""

import argparse
import json
import os
import re
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.distributed as dist
from safetensors.torch import save_file

from benchmarks.measuring import console
from model.checkpoint import NETWORK, Checkpoint
from model.config import S2VConfig
from model.convert import write_json
from model.launch import run_processes
from model.names import to_official
from model.network import S2VModel
from trainer.stages import Stage

CONFIG = S2VConfig(
    dim=768,
    ffn_dim=2048,
    num_heads=12,
    num_layers=18,
    text_dim=512,
    audio_dim=256,
    audio_inject_layers=(0, 6, 12),
)


class Peak:
    """The most anonymous memory of this process while it watches, bytes."""

    def __enter__(self) -> "Peak":
        self.before = self.most = anonymous()
        self.watching = True
        self.thread = threading.Thread(target=self.watch, daemon=True)
        self.thread.start()
        return self

    def watch(self) -> None:
        while self.watching:
            self.most = max(self.most, anonymous())
            time.sleep(0.002)

    def __exit__(self, *error: object) -> None:
        self.watching = False
        self.thread.join()

    @property
    def grown(self) -> int:
        return self.most - self.before


def anonymous() -> int:
    found = re.search(r"RssAnon:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found
    return 1024 * int(found[1])


def write_checkpoint(folder: Path) -> None:
    network = S2VModel(CONFIG).bfloat16()
    tensors = {to_official(name, CONFIG): p.data for name, p in network.named_parameters()}
    save_file(tensors, folder / f"{NETWORK}.safetensors")
    write_json(folder / "config.json", CONFIG.to_official())


def work(checkpoint: Path, out: Path) -> None:
    from trainer.ranks import arrange, join
    from trainer.zero import deepspeed_config, load_parts, make_network

    stage = Stage(name="start", steps=1, batch=join()[1], precision="bf16")
    ranks = arrange(stage, CONFIG.num_heads)
    settings = deepspeed_config(stage, ranks.data_ranks, on_gpu=False)
    with Peak() as peak:
        objective = make_network(CONFIG, stage, settings)
        load_parts(objective.network, Checkpoint.open(checkpoint))
    held = sum(p.ds_tensor.nbytes for p in objective.parameters())  # type: ignore[attr-defined]
    everywhere: list = [None] * ranks.world
    dist.all_gather_object(everywhere, (peak.grown, held))
    if ranks.leads:
        out.write_text(json.dumps(everywhere))
    dist.destroy_process_group()


def measure(ranks: int) -> tuple[int, list[tuple[int, int]]]:
    """(bytes of the network in bfloat16, each rank's peak and what it holds in the end)."""
    whole = 2 * sum(CONFIG.parameters().values())
    with tempfile.TemporaryDirectory() as folder:
        write_checkpoint(Path(folder))
        out = Path(folder) / "peaks.json"
        os.environ["MALLOC_MMAP_THRESHOLD_"] = "65536"  # freed memory goes back at once: what is counted was in use
        code = run_processes(ranks, "benchmarks.trainer_start", ["--work", folder, "--out", str(out)])
        if code:
            raise RuntimeError(f"{ranks} ranks ended with {code}")
        return whole, json.loads(out.read_text())


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ranks", type=int, default=4)
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    if options.work:
        work(options.work, options.out)
        return
    whole, ranks = measure(options.ranks)
    console.print(f"The network: {whole / 1e6:.0f} MB in bfloat16, on {options.ranks} ranks.")
    for rank, (peak, held) in enumerate(ranks):
        console.print(f"Rank {rank}: holds {held / 1e6:.0f} MB, peak {peak / 1e6:.0f} MB ({peak / whole:.0%}).")


if __name__ == "__main__":
    main(sys.argv[1:])

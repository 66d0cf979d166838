"""Runs of training as a user starts them, on the CPU, from latents that need no encoding."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pyarrow as pa
from safetensors.torch import save

from dataset.shards import Sample, make_shard
from dataset.tables import to_parquet, write_atomically
from tests.tiny_checkpoint import CONFIG
from tests.trainer.examples import example
from trainer.encode import index_row
from trainer.latents import FACTS, INDEX, TENSORS, Facts, key_of
from trainer.sample import Clip, Request, Shape
from trainer.stages import find_stage

SHAPE = Shape(frames=16, history=12, height=64, width=64)  # what the tiny stage makes of 3 s at 64 x 64 pixels
SHORT = ["save_every=3", "batch=2", "validation.every=0", "steps=9", "workers=0"]


def write_latents(folder: Path, kinds: tuple[str, ...] = ("speech",), clips: int = 6) -> Path:
    """Clips of each kind, random, as `s2v encode` would write them."""
    stage, rows, samples = find_stage("tiny"), [], []
    names = [(f"{kind}{i:02d}", kind) for kind in kinds for i in range(clips)]
    requests = [Request(Clip(name, kind, "", 0, 3.0, 64, 64), SHAPE, 0) for name, kind in names]
    for request in requests:
        made = example(request.clip.clip_id, SHAPE.latent_frames)
        samples.append(Sample(key_of(request), {TENSORS: save(made.tensors()), "json": b"{}"}))
    data, offsets = make_shard(samples)
    rows = [index_row(request, "000000.tar", offsets[key_of(request)]) for request in requests]
    facts = Facts(
        tokens=stage.tokens,
        frames=stage.frames,
        seed=stage.seed,
        variants=1,
        channels=16,
        audio_dim=CONFIG.audio_dim,
        text_dim=CONFIG.text_dim,
        text_len=CONFIG.text_len,
        encoders="none",
    )
    write_atomically(f"{folder}/shards", "000000.tar", data)
    write_atomically(f"{folder}/shards", "index.parquet", to_parquet(pa.Table.from_pylist(rows, schema=INDEX)))
    write_atomically(str(folder), FACTS, facts.model_dump_json().encode())
    return folder


ALONE = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "LOCAL_WORLD_SIZE": "1"}
ALONE |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}


@dataclass
class Process:
    """`s2v train` with these options, in the background. One rank alone is started as torchrun does it: without the
    launcher, which would take as long to start as a rank."""

    options: list[str]
    run: Path
    ranks: int
    process: subprocess.Popen = field(init=False)

    def __post_init__(self) -> None:
        command = [sys.executable, "-m", "cli", "train", *self.options]
        env = os.environ | {"TORCHDYNAMO_DISABLE": "1"}  # DeepSpeed would compile an optimiser that isn't used: seconds
        if self.ranks == 1:
            env |= ALONE
        else:
            command += ["--processes", str(self.ranks)]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, env=env)

    def wait(self, code: int = 0) -> str:
        """What was told, once it has ended."""
        _, told = self.process.communicate(timeout=300)
        assert self.process.returncode == code, told
        return told

    def wait_for_step(self, step: int) -> None:
        while len(rows_of(self.run)) < step:
            assert self.process.poll() is None, self.process.communicate()[1]
            time.sleep(0.02)

    def kill(self) -> None:
        """-9 to the launcher and to every rank and reader."""
        family = [*psutil.Process(self.process.pid).children(recursive=True), psutil.Process(self.process.pid)]
        for process in family:
            process.kill()
        psutil.wait_procs(family)
        self.process.communicate()

    def terminate(self) -> None:
        os.kill(self.process.pid, signal.SIGTERM)


def start(data: Path, init: Path, run: Path, *changes: str, stage: str = "tiny", ranks: int = 2) -> Process:
    options = ["--stage", stage, "--data", str(data), "--init", str(init), "--out", str(run)]
    return Process([*options, *settings(changes)], run, ranks)


def resume(run: Path, *changes: str, ranks: int = 2) -> Process:
    return Process(["--resume", str(run), *settings(changes)], run, ranks)


def settings(changes: tuple[str, ...]) -> list[str]:
    return [word for change in changes for word in ("--set", change)]


def rows_of(run: Path) -> list[dict]:
    file = run / "metrics.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines() if line.endswith("}")] if file.exists() else []


def losses_of(run: Path) -> list[float]:
    rows = rows_of(run)
    assert [row["step"] for row in rows] == list(range(1, len(rows) + 1))
    return [row["loss"] for row in rows]

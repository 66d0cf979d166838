"""A real Ray cluster of several nodes on this machine: a head without CPUs, and nodes that come and are killed."""

import contextlib
import json
import os
import random
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).parents[2]
MARK = "S2V_TEST_NODE"  # in the environment of every process of a node: what tells whose it is
PATIENCE = 300  # seconds; generous, as tests share the machine


@dataclass
class Node:
    name: str
    log: Path
    port: int = 0
    dashboard: int = 0
    started: subprocess.Popen | None = None

    def kill(self) -> None:
        kill([self])


def kill(nodes: Sequence[Node]) -> None:
    """What the loss of machines looks like: nothing of them says goodbye."""
    names = {node.name for node in nodes}
    while processes := processes_of(names):
        for process in processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(processes, timeout=10)
    for node in nodes:
        if node.started:
            node.started.wait()
            node.started = None


def processes_of(names: set[str]) -> list[psutil.Process]:
    """All that run for these nodes, also those whose parents are gone."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            if process.environ().get(MARK) in names:
                found.append(process)
    return found


@dataclass
class RayCluster:
    """`with RayCluster(3) as cluster:` starts a head and 3 nodes. token: that it asks everyone for."""

    workers: int = 0
    token: str = field(default_factory=lambda: secrets.token_hex(16))
    nodes: list[Node] = field(default_factory=list)
    folder: Path = field(default_factory=lambda: Path(tempfile.mkdtemp(prefix="s2vr-", dir="/tmp")))  # sockets: short

    def __enter__(self) -> "RayCluster":
        try:
            self.start_all(1)
            self.start_all(self.workers)
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        kill(self.nodes)
        shutil.rmtree(self.folder, ignore_errors=True)

    @property
    def address(self) -> str:
        """Where jobs are handed in."""
        return f"http://127.0.0.1:{self.head.dashboard}"

    @property
    def environment(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        ray = {"RAY_AUTH_TOKEN": self.token, "RAY_AUTH_MODE": "token"}
        return kept | ray | {"PATH": path, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}

    @property
    def head(self) -> Node:
        return self.nodes[0]

    def start_all(self, count: int) -> list[Node]:
        """Further nodes; the first one of all is the head. Returns when they are part of the cluster."""
        names = [f"n{len(self.nodes) + i}" for i in range(count)]
        new = [Node(f"{self.folder.name}-{name}", self.folder / f"{name}.out") for name in names]
        self.nodes += new
        for node in new:
            self.start(node)
        self.wait(lambda: all(self.stands(node) for node in new))
        return new

    def stands(self, node: Node) -> bool:
        """A raylet gives up where the machine is so busy that its helpers take more than 15 s: it gets another try."""
        if node.started and node.started.poll() is not None:
            node.kill()
            self.start(node)
        return "Ray runtime started" in node.log.read_text()

    def start(self, node: Node) -> None:
        ports = free_ports(8)
        node.port, node.dashboard = ports[0], ports[1]
        here = ["--head", f"--port={node.port}", "--dashboard-host=127.0.0.1", f"--dashboard-port={node.dashboard}"]
        command = [
            *(sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--node-ip-address=127.0.0.1"),
            *(here if node is self.head else [f"--address=127.0.0.1:{self.head.port}"]),
            *(f"--num-cpus={int(node is not self.head)}", "--num-gpus=0", f"--temp-dir={node.log.with_suffix('')}"),
            *(f"--object-store-memory={100 << 20}", "--include-log-monitor=false", "--disable-usage-stats"),
            *(f"--dashboard-agent-listen-port={ports[2]}", f"--dashboard-agent-grpc-port={ports[3]}"),
            *(f"--runtime-env-agent-port={ports[4]}", f"--metrics-export-port={ports[5]}"),
            *(f"--object-manager-port={ports[6]}", f"--node-manager-port={ports[7]}"),
            *("--min-worker-port=0", "--max-worker-port=0"),
        ]
        env = self.environment | {MARK: node.name}
        with node.log.open("w") as log:
            node.started = subprocess.Popen(command, env=env, stdout=log, stderr=log, start_new_session=True)

    def records(self) -> Iterator[dict[str, Any]]:
        """What workers logged, on all nodes."""
        for file in self.folder.glob("n*/session_2*/logs/worker-*.err"):
            yield from (json.loads(line) for line in file.read_text().splitlines() if line.startswith("{"))

    def wait(self, until: Callable[[], Any], seconds: float = PATIENCE, pause: float = 0.3) -> None:
        end = time.monotonic() + seconds
        while not until():
            assert time.monotonic() < end, "\n".join(node.log.read_text()[-2000:] for node in self.nodes)
            time.sleep(pause)


def free_ports(count: int) -> list[int]:
    """Ports that nobody has now, all different, and none that the system gives to whoever asks for any."""
    found: dict[int, socket.socket] = {}
    while len(found) < count:
        port, taken = random.randrange(20_000, 32_000), socket.socket()
        with contextlib.suppress(OSError):
            taken.bind(("", port))
            found[port] = taken
    for taken in found.values():
        taken.close()
    return list(found)

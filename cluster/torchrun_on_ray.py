"""torchrun over nodes of a Ray cluster, as the entrypoint of a training job: one agent on each node.

Ray finds the nodes and starts an agent again when it loses one. Ranks, rendezvous and restarts are torchrun's. The
store of the rendezvous lives here, beside Ray's head, so that no worker node is dearer than another.

  python -m cluster.torchrun_on_ray --nodes 1:2 --gpus-per-node 8 -- --stage speech --data ... --out RUN
"""

import argparse
import signal
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

import ray

from cluster import keep
from trainer.commands import PATIENCE

GOODBYE = 120.0  # seconds that the other agents have to end after the first one is done
PAUSE = 1.0  # seconds after which a request to end is heard


def torchrun(nodes: str, per_node: int, restarts: int, address: str, run_id: str, words: Sequence[str]) -> list[str]:
    """The agent's command line. nodes: `LEAST:MOST`. words: of `s2v train`."""
    return [
        *(sys.executable, "-m", "torch.distributed.run", *meeting(nodes, per_node, address, run_id)),
        *(f"--max-restarts={restarts}", f"--shutdown-timeout={PATIENCE}", "-m", "trainer.train", *words),
    ]


def meeting(nodes: str, per_node: int, address: str, run_id: str) -> tuple[str, ...]:
    """torchrun's options for agents that meet at a store which is at `address` already."""
    return (
        *(f"--nnodes={nodes}", f"--nproc-per-node={max(1, per_node)}", "--rdzv-backend=c10d"),
        *(f"--rdzv-endpoint={address}", f"--rdzv-id={run_id}", "--rdzv-conf=is_host=0"),
    )


class Agent:
    """On one node, as long as the training is. Ray kills what its workers start outright: so it starts a keeper, whose
    death asks torchrun to end, and the ranks then save a checkpoint."""

    def __init__(self) -> None:
        self.keeper: subprocess.Popen | None = None
        self.asked = False

    def run(self, command: list[str]) -> int:
        """torchrun's exit code."""
        self.keeper = subprocess.Popen([sys.executable, "-I", keep.__file__, "", *command], start_new_session=True)
        if self.asked:
            self.keeper.terminate()
        return self.keeper.wait()

    def end(self) -> None:
        self.asked = True
        if self.keeper:
            self.keeper.terminate()


def run(command: list[str], nodes: int, gpus: int, asked: list[Any]) -> int:
    """Start the agents. The first one that ends says how it went, for all of them. asked: of a signal to end."""
    again: dict[str, Any] = {"max_restarts": -1, "max_task_retries": -1}
    size: dict[str, Any] = {"num_cpus": 1, "num_gpus": gpus, "max_concurrency": 2, "scheduling_strategy": "SPREAD"}
    placed: Any = ray.remote(**again, **size)(Agent)
    agents = [placed.remote() for _ in range(nodes)]
    waiting = [agent.run.remote(command) for agent in agents]
    first: list[Any] = []
    told = False
    while not first:
        first, _ = ray.wait(waiting, timeout=PAUSE)
        if asked and not told:
            ask_to_end(agents)
            told = True
    code = ray.get(first[0])
    if code and not told:
        ask_to_end(agents)
    # The others are about to end. One that was lost may begin anew, and finds nothing to join.
    ray.wait(waiting, num_returns=len(waiting), timeout=PATIENCE if code or told else GOODBYE)
    return code


def ask_to_end(agents: Sequence[Any]) -> None:
    for agent in agents:
        agent.end.remote()


def main() -> None:
    from torch.distributed import TCPStore

    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--nodes", required=True, metavar="LEAST:MOST", help="such as 6:8: goes on with 6 of 8 nodes")
    parser.add_argument("--gpus-per-node", type=int, default=8, help="processes of a node; 0: one, on CPUs")
    parser.add_argument("--restarts", type=int, default=10)
    parser.add_argument("words", nargs=argparse.REMAINDER, metavar="-- ARGS", help="of `s2v train`")
    given = parser.parse_args()
    words = given.words[1:] if given.words[:1] == ["--"] else given.words
    ray.init()
    asked: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, frame: asked.append(number))  # Ray's own would end this at once
    store = TCPStore("0.0.0.0", 0, is_master=True, wait_for_workers=False)
    address = f"{ray.util.get_node_ip_address()}:{store.port}"
    job = ray.get_runtime_context().get_job_id()
    command = torchrun(given.nodes, given.gpus_per_node, given.restarts, address, job, words)
    sys.exit(run(command, int(given.nodes.split(":")[-1]), given.gpus_per_node, asked))


if __name__ == "__main__":
    main()

"""torchrun over nodes of a Ray cluster, as the entrypoint of a training job: one agent on each node.

Ray finds the nodes and starts an agent again when it loses one. Ranks, rendezvous and restarts are torchrun's. The
store of the rendezvous lives here, beside Ray's head, so that no worker node is dearer than another.

  python -m cluster.torchrun_on_ray --nodes 1:2 --gpus-per-node 8 -- --stage speech --data ... --out RUN
"""

import argparse
import ctypes
import signal
import subprocess
import sys
from collections.abc import Sequence

import ray

GOODBYE = 120.0  # seconds that the others have to end after the first one is done


def torchrun(nodes: str, per_node: int, restarts: int, address: str, run_id: str, words: Sequence[str]) -> list[str]:
    """The agent's command line. nodes: `LEAST:MOST`. words: of `s2v train`."""
    return [
        *(sys.executable, "-m", "torch.distributed.run", f"--nnodes={nodes}", f"--nproc-per-node={max(1, per_node)}"),
        *("--rdzv-backend=c10d", f"--rdzv-endpoint={address}", f"--rdzv-id={run_id}", "--rdzv-conf=is_host=0"),
        *(f"--max-restarts={restarts}", "-m", "trainer.train", *words),
    ]


@ray.remote(max_retries=-1)
def agent(command: list[str]) -> int:
    """Runs where Ray puts it, as long as the training does. Returns torchrun's exit code."""
    return subprocess.call(command, preexec_fn=end_with_parent)


def end_with_parent() -> None:
    """Ray kills its workers outright: torchrun is then asked to end, and training saves a checkpoint."""
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG


def run(command: list[str], nodes: int, gpus: int) -> int:
    """Start the agents. The first one that ends says how it went, for all of them."""
    placed = agent.options(num_cpus=1, num_gpus=gpus, scheduling_strategy="SPREAD")
    waiting = [placed.remote(command) for _ in range(nodes)]
    first, waiting = ray.wait(waiting)
    code = ray.get(first[0])
    if not code and waiting:  # the others are about to end; one that was lost may begin anew, and finds nothing to join
        _, waiting = ray.wait(waiting, num_returns=len(waiting), timeout=GOODBYE)
    for ref in waiting:
        ray.cancel(ref, force=True)
    return code


def main() -> None:
    from torch.distributed import TCPStore

    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--nodes", required=True, metavar="LEAST:MOST", help="such as 6:8: goes on with 6 of 8 nodes")
    parser.add_argument("--gpus-per-node", type=int, default=8, help="processes of a node; 0: one, on CPUs")
    parser.add_argument("--restarts", type=int, default=10)
    parser.add_argument("words", nargs=argparse.REMAINDER, metavar="-- ARGS", help="of `s2v train`")
    asked = parser.parse_args()
    words = asked.words[1:] if asked.words[:1] == ["--"] else asked.words
    ray.init()
    store = TCPStore("0.0.0.0", 0, is_master=True, wait_for_workers=False)
    address = f"{ray.util.get_node_ip_address()}:{store.port}"
    job = ray.get_runtime_context().get_job_id()
    command = torchrun(asked.nodes, asked.gpus_per_node, asked.restarts, address, job, words)
    sys.exit(run(command, int(asked.nodes.split(":")[-1]), asked.gpus_per_node))


if __name__ == "__main__":
    main()

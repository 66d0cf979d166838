"""The same look at every node of a Ray cluster, and at what is between them: clocks and, for training, the network."""

import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from cluster.across import across
from cluster.checks import Check
from cluster.checks.gpus import sum_up
from cluster.checks.node import Answer, Asked, look
from cluster.settings import Training

PATIENCE = 600.0  # seconds; a slow all-reduce may take four minutes
PINGS, ANSWER = 3, 30.0  # and seconds for each


@ray.remote(num_cpus=0)
class Node:
    """Sits on one node with all of its GPUs."""

    def look(self, asked: Asked, name: str, gpus: int) -> Answer:
        return look(asked, name, gpus)

    def sum_up(self, meet: Sequence[str], backend: str, megabytes: int, patience: float) -> float | str:
        return sum_up(meet, backend, megabytes, patience)

    def now(self) -> float:
        return time.time()


def everywhere(asked: Asked, patience: float = PATIENCE) -> tuple[list[Answer], dict[str, float]]:
    """What the nodes say, and how many seconds their clocks are ahead of the median node's.

    A node that says nothing in `patience` seconds has a bad check that says so.
    """
    nodes = dict(named(node for node in ray.nodes() if node["Alive"]))
    sitting = {name: sit(node) for name, node in nodes.items()}
    promised = {name: int(node["Resources"].get("GPU", 0)) for name, node in nodes.items()}
    asking = {sitting[name].look.remote(asked, name, promised[name]): name for name in nodes}
    ready, _ = ray.wait(list(asking), num_returns=len(asking), timeout=patience)
    answers = {asking[ref]: heard(ref, asking[ref]) for ref in ready}
    ahead = clocks({name: sitting[name] for name, answer in answers.items() if answer.versions})
    if training := asked.training:
        able = {name: sitting[name] for name, answer in answers.items() if can_train(nodes[name], answer, training)}
        told = across(able, training.gpus_per_node)
        for name, answer in answers.items():
            answer.checks.extend([enough(len(able), training), *([told[name]] if name in told else [])])
    for actor in sitting.values():
        ray.kill(actor)
    return [answers.get(name) or silent(name, promised[name], patience) for name in nodes], ahead


def can_train(node: dict[str, Any], answer: Answer, training: Training) -> bool:
    """Would Ray place an agent of torchrun there?"""
    there, gpus = node["Resources"], training.gpus_per_node
    room = there.get("CPU", 0) >= 1 and there.get("GPU", 0) >= gpus
    return bool(answer.versions) and room and (answer.has_gpu or not gpus)


def enough(count: int, training: Training) -> Check:
    gpus = training.gpus_per_node
    what = f"{count} with {f'{gpus} GPUs' if gpus else 'a CPU'} each, of {training.nodes} that training.nodes wants"
    if count < training.nodes:
        remedy = "add nodes, mend what is bad above, or lower training.nodes or training.gpus_per_node"
        return Check("nodes for training", "bad", what, remedy)
    return Check("nodes for training", "ok", what)


def named(nodes: Iterable[dict[str, Any]]) -> Iterator[tuple[str, dict[str, Any]]]:
    """By host; by host and id where several share one."""
    listed = list(nodes)
    hosts = [node["NodeManagerHostname"] for node in listed]
    for host, node in sorted(zip(hosts, listed, strict=True), key=lambda pair: (pair[0], pair[1]["NodeID"])):
        yield host if hosts.count(host) == 1 else f"{host}/{node['NodeID'][:6]}", node


def sit(node: dict[str, Any]) -> Any:
    where = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
    return Node.options(num_gpus=node["Resources"].get("GPU", 0), scheduling_strategy=where).remote()  # type: ignore[attr-defined]


def heard(ref: Any, name: str) -> Answer:
    try:
        return ray.get(ref)
    except RayError as e:
        what = f"the checks don't run there: {type(e).__name__}: {str(e).strip().splitlines()[-1]}"
        return Answer(name, [Check("answers", "bad", what, "is the same s2v installed there?")])


def silent(name: str, gpus: int, patience: float) -> Answer:
    remedy = "is the node well? Drain it, or restart it"
    if gpus:
        remedy += "; or do other jobs hold its GPUs?"
    return Answer(name, [Check("answers", "bad", f"no answer in {patience:.0f} s", remedy)])


def clocks(sitting: dict[str, Any]) -> dict[str, float]:
    """Node -> seconds that its clock is ahead of the median one, each read in the middle of its quickest round trip."""
    offsets = {}
    for name, actor in sitting.items():
        trips = []
        with suppress(RayError):  # a node that was just lost
            for _ in range(PINGS):
                began = time.time()
                there = ray.get(actor.now.remote(), timeout=ANSWER)
                ended = time.time()
                trips.append((ended - began, there - (began + ended) / 2))
            offsets[name] = min(trips)[1]
    return relative(offsets)


def relative(offsets: dict[str, float]) -> dict[str, float]:
    """Against the median: one clock that is wrong, be it this one's, is then the odd one."""
    middle = sorted(offsets.values())[(len(offsets) - 1) // 2] if offsets else 0.0
    return {name: offset - middle for name, offset in offsets.items()}

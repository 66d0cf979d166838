"""A sum over all nodes that training can have: do they reach each other, how fast, and if not, which one doesn't?"""

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from typing import Any

import ray
from ray.exceptions import RayError

from cluster.checks import Check
from cluster.checks.gpus import PATIENCE, SLOW
from cluster.torchrun_on_ray import meeting

NAME = "all-reduce over nodes"
MEGABYTES = {"nccl": 256, "gloo": 4}
GOODBYE = 60.0  # seconds in which a node says what it waited for in vain
NETWORK = "which network does NCCL take? Set NCCL_DEBUG=INFO, and NCCL_SOCKET_IFNAME or NCCL_IB_HCA if it's a wrong one"


def across(sitting: Mapping[str, Any], processes: int, patience: float = PATIENCE) -> dict[str, Check]:
    """What to say of each node. sitting: an actor of cluster.nodes on each. processes: of each, one a GPU; 0: one, on
    CPUs.

    Where the sum over all fails, each node tries it with the one before it and the one after it: what gets through to
    neither is the culprit.
    """
    names, backend = list(sitting), "nccl" if processes else "gloo"
    if len(names) < 2:
        return {name: Check(NAME, "skipped", "one node") for name in names}
    if find_spec("torch") is None:
        return {
            name: Check(NAME, "bad", "torch isn't installed", "give Ray the environment of training") for name in names
        }
    over = f"{backend} over {len(names)} nodes"
    found = sums(sitting, [names], processes, patience)
    speeds = [speed for speed in found.values() if not isinstance(speed, str)]
    if len(speeds) == len(names):
        return dict.fromkeys(names, judged(over, min(speeds), len(names) * max(1, processes)))
    through: set[str] = set()
    for pairs in rounds(names):
        told = sums(sitting, pairs, processes, patience)
        through |= {name for pair in pairs if not any(isinstance(told[n], str) for n in pair) for name in pair}
    if not through or len(through) == len(names):
        return {name: Check(NAME, "bad", f"{over}: {found[name]}", NETWORK) for name in names}
    return {
        name: Check(NAME, "bad", f"{over} fails, and this one gets through to no other: {found[name]}", NETWORK)
        for name in names
        if name not in through
    }


def judged(over: str, speed: float, ranks: int) -> Check:
    """speed: GB/s on the bus of each GPU, which a number passes almost twice to be added up over all."""
    what, numbers = f"{over}, {{}} GB/s: 1 GB is added up in {{}} s", (speed, 2 * (ranks - 1) / ranks / speed)
    if over.startswith("nccl") and speed < SLOW:
        return Check(NAME, "warn", what, NETWORK, numbers)
    return Check(NAME, "ok", what, numbers=numbers)


def sums(
    sitting: Mapping[str, Any], groups: Sequence[Sequence[str]], processes: int, patience: float
) -> dict[str, float | str]:
    """Of groups that share no node, at the same time: node -> GB/s, or what went wrong there. Started as training is:
    agents meet at a store beside Ray's driver."""
    from torch.distributed import TCPStore

    backend, here = "nccl" if processes else "gloo", ray.util.get_node_ip_address()
    stores = [TCPStore("0.0.0.0", 0, is_master=True, wait_for_workers=False) for _ in groups]
    asked = {}
    for group, store in zip(groups, stores, strict=True):
        meet = meeting(str(len(group)), processes, f"{here}:{store.port}", "preflight")
        for name in group:
            asked[sitting[name].sum_up.remote(meet, backend, MEGABYTES[backend], patience)] = name
    ready, _ = ray.wait(list(asked), num_returns=len(asked), timeout=patience + GOODBYE)
    return {name: heard(ref) if ref in ready else "no answer" for ref, name in asked.items()}


def heard(ref: Any) -> float | str:
    try:
        return ray.get(ref)
    except RayError as e:
        return f"{type(e).__name__}: {str(e).strip().splitlines()[-1]}"


def rounds(names: Sequence[str]) -> list[list[tuple[str, str]]]:
    """Each node with the one before it and the one after it, in rounds of pairs that share no node."""
    ring = list(zip(names, [*names[1:], names[0]], strict=True))
    if len(ring) == 2:
        return []  # the two alone are what failed
    even = len(ring) - len(ring) % 2
    return [pairs for pairs in (ring[:even:2], ring[1:even:2], ring[even:]) if pairs]

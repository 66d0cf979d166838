"""All checks of one node, run on it; and those that compare nodes."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial

from captioning.protocol import Key
from cluster.checks import Check, guarded
from cluster.checks.gpus import between_gpus, gpus
from cluster.checks.machine import cache_room, codecs, limits, shared_memory, temporary_room, versions
from cluster.checks.recipe import servers_answer, weights_there
from cluster.checks.store import judge_clock, round_trip, sees_mark, store_clock
from cluster.settings import Training
from curation.recipe import Recipe


@dataclass(frozen=True)
class Asked:
    """What every node is asked about. recipe None: a run that needs none. home '': no dataset. token: of this look.

    marked: the first node has left a mark in home, which the others must see. training: the nodes that it is to have;
    None: it is for curation.
    """

    recipe: Recipe | None
    home: str
    token: str
    key: Key = None
    marked: bool = False
    training: Training | None = None


@dataclass(frozen=True)
class Answer:
    """What one node says. node: its name."""

    node: str
    checks: list[Check]
    versions: dict[str, str] = field(default_factory=dict)

    @property
    def has_gpu(self) -> bool:
        return any(check.name == "GPUs" and check.verdict in ("ok", "warn") for check in self.checks)


def look(asked: Asked, name: str, promised_gpus: int = 0) -> Answer:
    """promised_gpus: how many the cluster says this node has."""
    recipe, home = asked.recipe, asked.home
    checks: dict[str, Callable[[], Check]] = {
        "GPUs": partial(gpus, promised_gpus),
        "all-reduce": between_gpus,
        "room for temporary files": temporary_room,
        "room for weights": cache_room,
        "shared memory": shared_memory,
        "limits": limits,
        "codecs": codecs,
    }
    if asked.marked:
        checks["same place"] = partial(sees_mark, home, asked.token)
    if home:
        checks |= {
            "object store": partial(round_trip, home, asked.token),
            "clock of the store": partial(store_clock, home),
        }
    if recipe:
        checks |= {
            "weights": partial(weights_there, recipe),
            "caption servers": partial(servers_answer, recipe, asked.key),
        }
    return Answer(name, [guarded(about, check) for about, check in checks.items()], versions())


def compare(answers: list[Answer], ahead: Mapping[str, float], recipe: Recipe | None) -> list[Answer]:
    """The same answers with what only shows beside the others. ahead: seconds, of the nodes' clocks."""
    usual = {name: most(answer.versions.get(name) for answer in answers if answer.versions) for name in names(answers)}
    gpus_anywhere = any(answer.has_gpu for answer in answers)
    found = []
    for answer in answers:
        checks = list(answer.checks)
        if answer.versions:
            checks.append(same_versions(answer.versions, usual))
        if answer.node in ahead and len(answers) > 1:
            checks.append(judge_clock("clocks of nodes", ahead[answer.node]))
        if recipe and recipe.gpus and not gpus_anywhere:
            what = f"recipe {recipe.name} wants {recipe.gpus:g} of a GPU for each worker, and no node has one"
            checks.append(Check("GPUs wanted", "bad", what, "add nodes with GPUs, or copy the recipe with gpus: 0"))
        found.append(Answer(answer.node, checks, answer.versions))
    return found


def names(answers: list[Answer]) -> list[str]:
    return list(dict.fromkeys(name for answer in answers for name in answer.versions))


def most(values: Iterable[str | None]) -> str | None:
    return Counter(values).most_common(1)[0][0]


def same_versions(mine: Mapping[str, str], usual: Mapping[str, str | None]) -> Check:
    odd = [
        f"{name} {mine.get(name)} (others: {version})" for name, version in usual.items() if mine.get(name) != version
    ]
    if odd:
        return Check("versions", "bad", ", ".join(odd), "give all nodes the same image or environment")
    return Check("versions", "ok", ", ".join(f"{name} {version}" for name, version in usual.items()))

"""One stage of curation on many workers, simulated: one driver hands parts out, nodes are lost, some are slow.

What it knows of the code: parts as `curation.measure.plan` cuts them, two parts at an actor (Ray Data's default), a
part is whole or not there, and what was lost with its worker goes back to the driver. What it doesn't know: Ray's own
limits, networks that are shared, and downloads of long sources.
"""

import heapq
from dataclasses import dataclass

import numpy as np

from curation.measure import CLIPS_PER_PART

QUEUED = 2  # parts at an actor: one in work, one that waits (Ray Data's factor of tasks in flight)


@dataclass(frozen=True)
class Fleet:
    """seconds: of measuring a clip, on one worker, mean; spread: sigma of its logarithm; alike: share of that spread
    which the clips of a part have in common (they come from few sources). dispatch: seconds of the driver a part.
    requests, store: of a part to the store, and seconds that one takes. losses: of a worker, an hour; back: seconds
    until another is there. slow: share of workers that take `slower` times as long. start: seconds until one is ready.
    """

    workers: int
    seconds: float
    spread: float = 0.6
    alike: float = 0.5
    dispatch: float = 0.0135
    requests: int = 16
    store: float = 0.03
    losses: float = 0.05
    back: float = 300.0
    slow: float = 0.02
    slower: float = 2.0
    start: float = 60.0


@dataclass(frozen=True)
class Outcome:
    """hours: of the whole stage. busy: share of the workers' time that ended in parts. tail: seconds from the moment at
    which the driver has nothing left to give until the end. lost: share of the work that was done for nothing. driver:
    share of the time in which it hands out parts."""

    parts: int
    hours: float
    busy: float
    tail: float
    lost: float
    driver: float
    requests: float  # a second

    def clips_a_second(self, clips: int) -> float:
        return clips / (3600 * self.hours)


def part_size(clips: int, workers: int) -> int:
    """As `curation.measure.plan` has it."""
    return min(CLIPS_PER_PART, max(1, clips // (32 * workers)))


def work_of_parts(fleet: Fleet, clips: int, size: int, dice: np.random.Generator) -> np.ndarray:
    """Seconds of every part: lognormal clips, whose part has a factor of its own."""
    parts = -(-clips // size)
    common, own = fleet.alike * fleet.spread**2, (1 - fleet.alike) * fleet.spread**2
    factor = dice.lognormal(-common / 2, common**0.5, parts)
    deviation = ((np.exp(own) - 1) / size) ** 0.5  # of the mean of `size` clips
    return fleet.seconds * size * factor * np.maximum(0.2, dice.normal(1, deviation, parts))


def simulate(fleet: Fleet, clips: int, size: int | None = None, seed: int = 0) -> Outcome:
    return Simulation(fleet, clips, size or part_size(clips, fleet.workers), np.random.default_rng(seed)).run()


class Simulation:
    """Events are workers that look for work, and nodes that go, in the order of their times."""

    def __init__(self, fleet: Fleet, clips: int, size: int, dice: np.random.Generator):
        self.fleet, self.dice = fleet, dice
        self.work = work_of_parts(fleet, clips, size, dice)
        self.todo = list(range(len(self.work)))
        # The parts at each worker, the first in work, and when they were there.
        self.held: list[list[tuple[int, float]]] = [[] for _ in range(fleet.workers)]
        self.pace = np.where(dice.random(fleet.workers) < fleet.slow, fleet.slower, 1.0).tolist()
        self.goes = [fleet.start + self.life() for _ in range(fleet.workers)]
        self.events = [(fleet.start, worker, False) for worker in range(fleet.workers)]
        self.idle: set[int] = set()
        self.driver = self.given = self.empty = self.end = self.useful = self.wasted = 0.0

    def life(self) -> float:
        return self.dice.exponential(3600 / self.fleet.losses) if self.fleet.losses else float("inf")

    def run(self) -> Outcome:
        heapq.heapify(self.events)
        while self.events:
            now, worker, lost = heapq.heappop(self.events)
            if lost:
                self.lose(now, worker)
            else:
                self.look(now, worker)
        parts, total = len(self.work), self.fleet.workers * self.end
        return Outcome(
            parts=parts,
            hours=self.end / 3600,
            busy=self.useful / total,
            tail=self.end - self.empty,
            lost=self.wasted / (self.useful + self.wasted),
            driver=self.given / self.end,
            requests=parts * self.fleet.requests / self.end,
        )

    def look(self, now: float, worker: int) -> None:
        """A worker has nothing in work: the driver fills its queue, and it begins with the first that it has."""
        held = self.held[worker]
        while self.todo and len(held) < QUEUED:
            self.driver = max(self.driver, now) + self.fleet.dispatch
            held.append((self.todo.pop(), self.driver))
            self.given += self.fleet.dispatch
            self.empty = self.driver if not self.todo else self.empty
        if not held:
            self.idle.add(worker)
            return
        part, there = held[0]
        began = max(now, there)
        takes = (self.work[part] + self.fleet.requests * self.fleet.store) * self.pace[worker]
        if began + takes > self.goes[worker]:
            self.wasted += max(0.0, self.goes[worker] - began)
            heapq.heappush(self.events, (max(began, self.goes[worker]), worker, True))
            return
        held.pop(0)
        self.useful += takes
        self.end = max(self.end, began + takes)
        heapq.heappush(self.events, (began + takes, worker, False))

    def lose(self, now: float, worker: int) -> None:
        """Its parts go back to the driver, and to those that have nothing to do."""
        self.todo += [part for part, _ in self.held[worker]]
        self.held[worker] = []
        back = now + self.fleet.back
        self.goes[worker] = back + self.life()
        for other in (self.idle.pop() for _ in range(min(QUEUED, len(self.idle)))):
            heapq.heappush(self.events, (now, other, False))
        heapq.heappush(self.events, (back, worker, False))

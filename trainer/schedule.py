"""Which clips an update learns from, on which ranks: a pure function of the step, so that a run resumes anywhere."""

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from functools import lru_cache, partial

import numpy as np

from dataset.errors import UsageError
from model.config import S2VConfig
from trainer.budget import fit, tokens
from trainer.sample import Clip, Request, numpy_generator
from trainer.stages import Stage

BLOCK = 1024  # samples over which the shares of the kinds are kept exactly


class Schedule:
    """Update k takes samples k * batch to (k + 1) * batch of an endless sequence.

    Its kinds come in blocks, shuffled. The clips of a kind come in epochs: each clip once in each, in an order of its
    own. None of it depends on the number of ranks, nor on the order in which `clips` are given.
    """

    def __init__(self, clips: Sequence[Clip], stage: Stage, config: S2VConfig, data_ranks: int = 1):
        if stage.batch % data_ranks:
            raise UsageError(
                f"batch {stage.batch} does not divide over {data_ranks} groups of ranks: --set batch=a multiple."
            )
        self.stage, self.config, self.data_ranks = stage, config, data_ranks
        self.kinds = sorted(stage.mixture)
        self.clips: dict[str, list[Clip]] = {kind: [] for kind in self.kinds}
        for clip in sorted(clips, key=lambda clip: clip.clip_id):
            if clip.kind in self.clips:
                self.clips[clip.kind].append(clip)
        if lacking := [kind for kind, there in self.clips.items() if not there]:
            raise UsageError(f"There is no clip of {' and '.join(lacking)} to train on.")
        self.counts = shares(stage.mixture)
        # A batch may reach over the end of a block and of an epoch: two of each are kept.
        self.block = lru_cache(2)(partial(block, self.counts, stage.seed))
        self.order = lru_cache(2 * len(self.kinds))(self.order_of)

    def step(self, k: int) -> list[list[Request]]:
        """For each data rank its requests of update k, a micro-step each.

        Ranks wait for each other in every micro-step, so all take samples of much the same cost: neighbours in the
        order of cost. The largest come first: the memory that they took serves all others.
        """
        batch = range(k * self.stage.batch, (k + 1) * self.stage.batch)
        requests = sorted((self.request(position) for position in batch), key=self.rank_of)
        return [requests[rank :: self.data_ranks] for rank in range(self.data_ranks)]

    def rank_of(self, request: Request) -> tuple[int, str, int, str]:
        clip = request.clip
        return -tokens(request.shape, self.config), clip.clip_id, request.epoch, clip.kind

    def request(self, position: int) -> Request:
        """The sample at a position of the sequence."""
        number, place = divmod(position, BLOCK)
        kind_number, before = (int(column[place]) for column in self.block(number))
        kind = self.kinds[kind_number]
        there = self.clips[kind]
        epoch, turn = divmod(number * self.counts[kind_number] + before, len(there))
        return self.ask(there[self.order(kind, epoch)[turn]], epoch)

    def replacement(self, request: Request, attempt: int) -> Request:
        """A stand-in of the same kind for a sample that can't be read; another clip, where there is one."""
        broken = request.clip
        there = self.clips[broken.kind]
        luck = numpy_generator(self.stage.seed, "replacement", broken.clip_id, request.epoch, attempt)
        others = len(there) - 1
        if not others:
            return request
        number = int(luck.integers(others))
        at = bisect_left(there, broken.clip_id, key=lambda clip: clip.clip_id)
        return self.ask(there[number + (number >= at)], request.epoch)

    def ask(self, clip: Clip, epoch: int) -> Request:
        shape = fit(clip.seconds, clip.width, clip.height, self.stage, self.config)
        if shape is None:
            raise UsageError(f"The clip {clip.clip_id} of {clip.seconds:g} s can't be trained on: leave it out.")
        return Request(clip, shape, epoch)

    def order_of(self, kind: str, epoch: int) -> np.ndarray:
        return numpy_generator(self.stage.seed, kind, epoch).permutation(len(self.clips[kind]))

    def steps(self, data_rank: int, first: int) -> Iterator[tuple[int, list[Request]]]:
        """(step, requests) of a data rank, to the end of the stage."""
        for k in range(first, self.stage.steps):
            yield k, self.step(k)[data_rank]


def shares(mixture: dict[str, float]) -> list[int]:
    """Samples of each kind in a block, kinds in the order of their names: largest remainders."""
    kinds = sorted(mixture)
    exact = np.array([mixture[kind] for kind in kinds]) / sum(mixture.values()) * BLOCK
    counts = np.floor(exact + 1e-9).astype(int)
    for n in np.argsort(counts - exact, kind="stable")[: BLOCK - counts.sum()]:
        counts[n] += 1
    if rare := [kind for kind, count in zip(kinds, counts, strict=True) if not count]:
        raise UsageError(f"mixture: the share of {' and '.join(rare)} is so small that no sample would ever be of it.")
    return counts.tolist()


def block(counts: Sequence[int], seed: int, number: int) -> tuple[np.ndarray, np.ndarray]:
    """For each place of a block: the number of its kind, and how many places before it have the same."""
    kinds = np.repeat(np.arange(len(counts)), counts)
    numpy_generator(seed, "mixture", number).shuffle(kinds)
    before = np.zeros(BLOCK, int)
    for kind, count in enumerate(counts):
        before[kinds == kind] = np.arange(count)
    return kinds, before

"""What would make a stage fit that doesn't: one change at a time, each as small as it may be, each of them planned."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from trainer.budget import CELL
from trainer.plan import Case, Plan, ranked
from trainer.plan_activations import Size
from trainer.plan_time import GPUS

MOST_GPUS = 1024


@dataclass(frozen=True)
class Remedy:
    """option: of the command line; empty where it isn't one. plan: the best arrangement with it."""

    what: str
    option: str
    plan: Plan


def remedies(case: Case) -> list[Remedy]:
    """Those that help. A change that doesn't, or that was made already, is left out."""
    kinds: tuple[Callable[[Case], Iterator[tuple[str, str, Case]]], ...] = (
        encoded_ahead,
        offloaded,
        without_average,
        fewer_frames,
        smaller_pictures,
        more_gpus,
        larger_gpus,
    )
    found = (first_that_fits(kind(case)) for kind in kinds)
    return [remedy for remedy in found if remedy]


def first_that_fits(changes: Iterator[tuple[str, str, Case]]) -> Remedy | None:
    for what, option, case in changes:
        plans = ranked(case)
        if plans and plans[0].fits:
            return Remedy(what, option, plans[0])
    return None


def encoded_ahead(case: Case) -> Iterator[tuple[str, str, Case]]:
    if case.encodes:
        yield "encode the clips ahead, with s2v encode", "", replace(case, encodes=False)


def offloaded(case: Case) -> Iterator[tuple[str, str, Case]]:
    if not case.stage.optimiser.offload:
        yield "optimiser on CPUs", "--set optimiser.offload=true", with_optimiser(case, offload=True)


def without_average(case: Case) -> Iterator[tuple[str, str, Case]]:
    if case.stage.optimiser.ema is not None and not case.stage.optimiser.offload:
        yield "no moving average", "--set optimiser.ema=null", with_optimiser(case, ema=None)


def fewer_frames(case: Case) -> Iterator[tuple[str, str, Case]]:
    for frames in range(case.size.frames - 4, 0, -4):
        yield "fewer frames", f"--frames {frames}", replace(case, size=replace(case.size, frames=frames))


def smaller_pictures(case: Case) -> Iterator[tuple[str, str, Case]]:
    """Of about the same shape."""
    height, width = case.size.height, case.size.width
    for cells in range(max(height, width) // CELL - 1, 0, -1):
        sides = [max(1, round(cells * side / max(height, width))) * CELL for side in (height, width)]
        smaller = Size(case.size.frames, *sides)
        yield "smaller pictures", f"--size {smaller.width}x{smaller.height}", replace(case, size=smaller)


def more_gpus(case: Case) -> Iterator[tuple[str, str, Case]]:
    gpus = 2 * case.machines.gpus
    while gpus <= MOST_GPUS:
        yield "more GPUs", f"--gpus {gpus}", replace(case, machines=replace(case.machines, gpus=gpus))
        gpus *= 2


def larger_gpus(case: Case) -> Iterator[tuple[str, str, Case]]:
    for gpu in sorted(GPUS.values(), key=lambda gpu: gpu.memory):
        if gpu.memory > case.machines.gpu.memory:
            yield "larger GPUs", f"--gpu {gpu.name}", replace(case, machines=replace(case.machines, gpu=gpu))


def with_optimiser(case: Case, **changes: object) -> Case:
    optimiser = case.stage.optimiser.model_copy(update=changes)
    return replace(case, stage=case.stage.model_copy(update={"optimiser": optimiser}))

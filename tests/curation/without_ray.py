"""The commands with their workers in this process, one task after another: spares the seconds that Ray takes."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest

from curation import run, stages


def run_here(make: Callable[[], Any], tasks: Sequence[Any], *_: object) -> Iterator[dict[str, int]]:
    """`run_tasks` without Ray."""
    yield from map(make(), tasks)


@contextmanager
def without_ray() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stages, "run_tasks", run_here)
        for module in (run, stages):
            patch.setattr(module, "worker_count", lambda resources: 1)
        patch.setattr(run, "start_ray", lambda *_, **__: None)
        yield

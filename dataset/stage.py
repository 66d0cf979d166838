"""How every stage runs: a list of tasks, Ray Data over a pool of actors, one small result a task."""

import errno
import importlib.util
import logging
import os
import pickle
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import ray
from ray.data import ActorPoolStrategy, DataContext

from dataset.errors import RunError, UsageError

GO_ON = "What was finished is kept; run the same command again to go on."
STRUCTURED = ray.LoggingConfig(encoding="JSON", additional_log_standard_attrs=["name"])  # with job, node and actor
Worker = Callable[[Any], dict[str, int]]  # one task -> what it did


@dataclass(frozen=True)
class Resources:
    """Of one worker. tasks: what it does at a time, in threads. most: workers; None: as many as fit and are needed, at
    any time: the pool grows with the cluster. With a limit, those that fit at the start are started and stay: each has
    its share of something, such as a server's slots."""

    cpus: float = 1.0
    gpus: float = 0.0
    most: int | None = None
    tasks: int = 1


def start_ray(address: str | None = None, *, dashboard: bool = False) -> None:
    """Join a cluster, or start a quiet one on this machine. Does nothing when Ray already runs in this process."""
    if dashboard and importlib.util.find_spec("aiohttp_cors") is None:
        raise UsageError("Ray's dashboard is not installed: pip install 'ray[default]'")
    if ray.is_initialized():
        return
    address = address or os.environ.get("RAY_ADDRESS")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    divert_native_messages()
    common: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    try:
        if address:
            ray.init(address, logging_config=STRUCTURED, **common)
        else:
            ray.init(include_dashboard=dashboard, object_store_memory=256 << 20, **common)
    except Exception as e:  # Ray raises many kinds, all of which mean that there is no cluster
        raise RunError(f"Can't start or join Ray{f' at {address}' if address else ''}: {e}") from e
    if address and sys.stderr.isatty():  # someone looks on: records would break up the progress bars
        logging.getLogger().setLevel(logging.WARNING)
    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    for name in ("ray", "ray.data"):
        logging.getLogger(name).setLevel(logging.ERROR)


def divert_native_messages() -> None:
    """Keep what Ray's C++ core writes to file descriptor 2 off the terminal: it warns of Ray Data's actors every time.

    Ray's own log files have it all the same. Python's stderr, and with it all that is ours, stays on the terminal.
    """
    sys.stderr = os.fdopen(os.dup(2), "w", buffering=1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)


def worker_count(resources: Resources) -> int:
    """How many workers fit the cluster at once."""
    total = ray.cluster_resources()
    by_cpu = int(total.get("CPU", 1) / resources.cpus)
    by_gpu = int(total.get("GPU", 0) / resources.gpus) if resources.gpus else by_cpu
    return max(1, min(by_cpu, by_gpu, resources.most or by_cpu))


class Call:
    """Ray Data's side of a worker: pickled tasks in, results out."""

    def __init__(self, make: Callable[[], Worker]):
        # The first worker that gives up ends the run of a thousand: tell S3's clients to try for a minute, not seconds.
        os.environ.setdefault("AWS_MAX_ATTEMPTS", "8")
        self.work = make()

    def __call__(self, batch: dict[str, Any]) -> dict[str, list]:
        return {"result": [pickle.dumps(self.attempt(task)) for task in batch["task"]]}

    def attempt(self, task: bytes) -> dict[str, int] | str:
        """The result, or a traceback: Ray Data would drown an exception in its own."""
        try:
            return self.work(pickle.loads(task))
        except OSError as e:
            if e.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES):
                return traceback.format_exc()
            return f"the dataset can't be written: {e.strerror}. Free space, or check the permissions."
        except RunError as e:
            return str(e)
        except Exception:
            return traceback.format_exc()


def run_tasks(
    make: Callable[[], Worker], tasks: Sequence[Any], resources: Resources, title: str = "Tasks"
) -> Iterator[dict[str, int]]:
    """Run every task on a pool of actors and yield the results as they come, in any order.

    `make` builds a worker inside its actor. A worker writes what it computes itself; only small counts travel. Actors
    and tasks that die are started again by Ray without limit: what kills a worker is a machine or an operator, since
    hostile media is kept in a child process (`dataset.isolate`). title: in Ray's dashboard, logs and metrics.
    """
    if not tasks:
        return
    workers = min(worker_count(resources), len(tasks))
    rows = [{"task": pickle.dumps(task)} for task in tasks]
    # Not from_arrow: it runs a task of Ray's for each block, only to count its rows.
    data = ray.data.from_items(rows, override_num_blocks=len(rows)).map_batches(
        type(title, (Call,), {}),  # Ray names the operator and its actors after the class
        fn_constructor_args=(make,),
        batch_size=1,
        compute=ActorPoolStrategy(
            min_size=1,
            max_size=workers if resources.most else len(tasks),  # Ray starts those that fit, also when nodes come
            initial_size=workers if resources.most else 1,
            max_concurrent_calls_per_actor=resources.tasks,
            # Not more than it works on: a worker that is up first would take all, and the others had nothing to do.
            max_tasks_in_flight_per_actor=resources.tasks if resources.tasks > 1 else None,
            enable_true_multi_threading=resources.tasks > 1,
        ),
        num_cpus=resources.cpus,
        num_gpus=resources.gpus or None,
    )
    data.set_name(title)
    try:
        for batch in data.iter_batches(batch_size=None, prefetch_batches=0):
            for result in map(pickle.loads, batch["result"]):
                if isinstance(result, str):
                    raise RunError(f"The run stopped: {result}\n{GO_ON}")
                yield result
    except ray.exceptions.RayError as e:
        raise RunError(f"The run stopped: {type(e).__name__}: {e}\n{GO_ON}") from e

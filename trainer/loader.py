"""Samples ahead of their use, read by other processes: the same ones in the same order, whatever their number.

The only state is the number of the step. What is to be read is chosen here, as requests with their stand-ins; the
processes only read.
"""

import mmap
import os
import pickle
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from multiprocessing import get_context, parent_process, resource_tracker
from multiprocessing.reduction import DupFd
from typing import Any, Generic, TypeVar

import cv2
import torch
from torch.utils.data import DataLoader, Dataset, get_worker_info

from dataset.errors import RunError
from trainer.reading import Unreadable
from trainer.sample import Replaced, Request
from trainer.schedule import Schedule
from trainer.stages import Stage

S = TypeVar("S")

ATTEMPTS = 10  # stand-ins that are tried for a sample
PATIENCE = 600  # seconds that reading one sample may take
# Not "fork": a process that holds a GPU and threads can't be forked, the copy hangs on locks or loses the device. Not
# "spawn": its processes are our children, and torch would raise their death as an error anywhere in the training loop.
START = "forkserver"
NOTE = 1024  # bytes in which a reading process says what it reads
ALIGNED = 64  # bytes


@dataclass(frozen=True)
class Item:
    """One micro-step of one rank: the request, and what is read in its place if it can't be."""

    step: int
    requests: list[Request]


@dataclass(frozen=True)
class Read:
    """failure: why neither the sample nor a stand-in could be read."""

    sample: Any
    replaced: list[Replaced] = field(default_factory=list)
    failure: str = ""


class Loader(Generic[S]):
    """Iterates over (step, samples of a data rank in the order of its micro-steps, what was replaced among them).

    The samples of one step are whole in memory while those of the next one are read: mind it with large pictures.
    Raises RunError where samples can't be read, or a reading process dies.
    """

    def __init__(
        self, schedule: Schedule, read: Callable[[Request], S], stage: Stage, data_rank: int = 0, first_step: int = 0
    ):
        self.schedule, self.read, self.stage = schedule, read, stage
        self.data_rank, self.first_step = data_rank, first_step
        self.micro_steps = stage.batch // schedule.data_ranks

    def __iter__(self) -> Iterator[tuple[int, list[S], list[Replaced]]]:
        if self.first_step >= self.stage.steps:
            return
        notes = Notes(self.stage.workers)
        items = self.start(notes)
        try:
            for step in range(self.first_step, self.stage.steps):
                parts = [self.take(items, notes) for _ in range(self.micro_steps)]
                samples, replaced = [part.sample for part in parts], [r for part in parts for r in part.replaced]
                del parts
                yield step, samples, replaced
                del samples  # or they would stay while the next ones are awaited
        finally:
            del items  # ends the reading processes

    def start(self, notes: "Notes") -> Iterator[Read]:
        workers = self.stage.workers
        options: dict[str, Any] = {}
        if workers:
            ahead = max(2, -(-self.micro_steps // workers))  # a step, whatever a step is
            options = {"multiprocessing_context": START, "prefetch_factor": ahead, "worker_init_fn": prepare_worker}
        loader = DataLoader(
            Reader(self.read, notes),
            batch_size=None,
            sampler=Items(self.schedule, self.data_rank, self.first_step),
            num_workers=workers,
            collate_fn=unchanged,
            generator=torch.Generator(),  # of seeds that nothing uses: the global generator stays as it is
            **options,
        )
        get_context(START).set_forkserver_preload(["__main__", __name__])  # libraries are loaded once, and shared
        with one_thread(), unstopped():
            return iter(loader)

    def take(self, items: Iterator[Read], notes: "Notes") -> Read:
        """The next sample. Errors are raised outside of `except`: they would keep the reading processes alive."""
        died = False
        try:
            part = next(items)
        except (RuntimeError, OSError, EOFError) as e:
            died = self.stage.workers > 0 and not str(e).startswith("Caught")
            if not died:  # an error of the reading code, with its traceback
                raise
        if died:
            raise RunError(
                f"A reading process died, or hung for {PATIENCE} s, at {notes.of_the_dead()}. If the machine was out "
                "of memory (`dmesg` tells), set fewer --set workers=; else leave this clip out. The run can be resumed."
            )
        if part.failure:
            raise RunError(part.failure)
        return part


@dataclass(frozen=True)
class Items:
    """What is to be read, in order."""

    schedule: Schedule
    data_rank: int
    first_step: int

    def __iter__(self) -> Iterator[Item]:
        for step, requests in self.schedule.steps(self.data_rank, self.first_step):
            for request in requests:
                yield Item(step, [request, *(self.schedule.replacement(request, n) for n in range(ATTEMPTS))])


# ---------------------------------------------------------------- in the reading processes


class Reader(Dataset, Generic[S]):
    def __init__(self, read: Callable[[Request], S], notes: "Notes"):
        self.read, self.notes = read, notes

    def __getitem__(self, item: Item) -> "Read | Parcel":
        worker = get_worker_info()
        if worker is None:
            return read_item(self.read, item)
        result = read_item(partial(self.watched, worker.id), item)
        self.notes.clear(worker.id)
        return Parcel(result)

    def watched(self, worker: int, request: Request) -> S:
        """Leaves word of what is read, should it be the end of this process; a decoder that hangs is made one."""
        self.notes.write(worker, request)
        signal.alarm(PATIENCE)
        try:
            return self.read(request)
        finally:
            signal.alarm(0)


def read_item(read: Callable[[Request], S], item: Item) -> Read:
    failed: list[Unreadable] = []
    for request in item.requests:
        try:
            sample = read(request)
        except Unreadable as e:
            failed.append(e)
        except RunError as e:
            return Read(None, failure=str(e))
        else:
            return Read(sample, [replaced(item, e, request) for e in failed])
    first = failed[0]
    return Read(
        None,
        failure=f"The clip {first.clip.clip_id} in {first.clip.shard} can't be read: {first.error}. Nor could "
        f"{ATTEMPTS} clips in its place, the last one because: {failed[-1].error}. Remedy: {failed[-1].remedy}.",
    )


def replaced(item: Item, failed: Unreadable, taken: Request) -> Replaced:
    clip, epoch = failed.clip, item.requests[0].epoch
    return Replaced(item.step, clip.clip_id, clip.shard, epoch, failed.error, failed.remedy, taken.clip.clip_id)


def prepare_worker(worker: int) -> None:
    os.setsid()  # out of the group that is asked to stop: see `unstopped`
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # forgets one that waits
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM, signal.SIGINT})
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # torch ends us with it
    cv2.setNumThreads(1)
    threading.Thread(target=follow, args=(parent_process(),), daemon=True).start()


def follow(parent: Any) -> None:
    """End with the process that trains, should it be killed: torch looks out for the fork server only, which stays as
    long as we do."""
    parent.join()
    os._exit(1)


def unchanged(sample: Any) -> Any:
    return sample


@contextmanager
def one_thread() -> Iterator[None]:
    """Processes that are started within compute with one thread: there is one of them a core."""
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    before = {name: os.environ.get(name) for name in names}
    os.environ.update(dict.fromkeys(names, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@contextmanager
def unstopped() -> Iterator[None]:
    """Neither the fork server, which is started within, nor its children hear a SIGTERM or SIGINT that goes to all of
    the group: they end when the process that trains has saved a checkpoint, and ends them."""
    resource_tracker.ensure_running()  # now: to start it unblocks these signals
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class Notes:
    """What each reading process is at, in memory that outlives it."""

    def __init__(self, workers: int):
        self.memory = get_context(START).RawArray("c", NOTE * max(1, workers))

    def write(self, worker: int, request: Request) -> None:
        clip = request.clip
        text = f"{os.getpid()} the clip {clip.clip_id} in {clip.shard} at byte {clip.offset}"
        self.put(worker, text.encode()[:NOTE])

    def clear(self, worker: int) -> None:
        self.put(worker, b"")

    def put(self, worker: int, text: bytes) -> None:
        self.memory[worker * NOTE : (worker + 1) * NOTE] = text.ljust(NOTE, b"\0")

    def of_the_dead(self) -> str:
        """What the processes that are gone were at; or all of them, where that can't be told."""
        raw = [bytes(self.memory[at : at + NOTE]) for at in range(0, len(self.memory), NOTE)]
        notes = [note.rstrip(b"\0").decode(errors="replace").partition(" ") for note in raw]
        dead = [what for process, _, what in notes if what and not os.path.exists(f"/proc/{process}")]
        return " and ".join(dead or [what for _, _, what in notes if what]) or "no clip"


# ---------------------------------------------------------------- on the way


class Parcel:
    """An object on its way to another process, where it arrives as what was put in.

    Arrays lie in memory that both processes see, so they aren't copied through a pipe. It is a "memfd", not /dev/shm
    as torch would use, because containers have but 64 MB of that and kill a process that writes more.
    """

    def __init__(self, content: object):
        buffers: list[pickle.PickleBuffer] = []
        data = pickle.dumps(content, protocol=5, buffer_callback=buffers.append)
        pieces = [memoryview(data), *(buffer.raw() for buffer in buffers)]
        self.sizes = [piece.nbytes for piece in pieces]
        self.file = os.memfd_create("sample")
        with open(self.file, "wb", closefd=False) as file:
            for piece in pieces:
                file.write(piece)
                file.write(bytes(-piece.nbytes % ALIGNED))

    def __reduce__(self) -> tuple[Any, ...]:
        passed = DupFd(self.file)
        os.close(self.file)
        return open_parcel, (passed, self.sizes)


def open_parcel(passed: Any, sizes: list[int]) -> object:
    file = passed.detach()
    try:
        memory = memoryview(mmap.mmap(file, 0))  # goes when the last array in it does
    finally:
        os.close(file)
    pieces, at = [], 0
    for size in sizes:
        pieces.append(memory[at : at + size])
        at += size + -size % ALIGNED
    return pickle.loads(pieces[0], buffers=pieces[1:])

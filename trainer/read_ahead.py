"""Pixels read ahead in a process of its own, for `s2v encode`: a decoder that crashes or hangs there costs one clip."""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import Any

from trainer.reading import Unreadable, read_pixels
from trainer.sample import Pixels, Request

PATIENCE = 600  # seconds that reading one sample may take
REMEDY = "export the video again, or leave the clip out"


class ReadAhead:
    """Reads the next sample while its caller encodes this one. Its process ends with the caller, however that ends."""

    def __init__(self, seed: int):
        self.seed = seed
        self.process: Any = None
        self.pipe: Any = None

    def __call__(self, requests: Sequence[Request]) -> Iterator[tuple[Request, Pixels | Unreadable]]:
        try:
            for number, request in enumerate(requests):
                if number == 0:
                    self.ask(request)
                found = self.answer(request)
                if number + 1 < len(requests):
                    self.ask(requests[number + 1])
                yield request, found
        except GeneratorExit:
            self.stop()  # what it still reads would be taken for the next answer
            raise

    def ask(self, request: Request) -> None:
        if self.process is None:
            context = get_context("forkserver")  # a process that holds a GPU and threads can't be forked
            self.pipe, theirs = context.Pipe()
            self.process = context.Process(target=serve, args=(theirs, self.seed), daemon=True)
            self.process.start()
            theirs.close()
        with suppress(OSError):  # the process is gone, which `answer` finds out
            self.pipe.send(request)

    def answer(self, request: Request) -> Pixels | Unreadable:
        """A sample that ends the process is tried once more: it may have been killed for the memory of others."""
        for _ in range(2):
            if not self.pipe.poll(PATIENCE):
                why = f"took longer than {PATIENCE} s"
                break
            try:
                return self.pipe.recv()
            except (EOFError, OSError):
                why = "ended its process twice"
                self.stop()
                self.ask(request)
        self.stop()
        return Unreadable(request.clip, f"reading it {why}", REMEDY)

    def stop(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.join()
            self.pipe.close()
            self.process = None


def serve(pipe: Connection, seed: int) -> None:
    """Answer until the other end is closed."""
    with suppress(EOFError, OSError):
        while True:
            request = pipe.recv()
            try:
                answer: Pixels | Unreadable = read_pixels(request, seed)
            except Unreadable as e:
                answer = e
            pipe.send(answer)

"""Pixels read ahead in a child process, for `s2v encode`: a decoder that crashes or hangs there costs one sample.

A file of its own, since the child imports it: it has no use for the encoders.
"""

from collections.abc import Callable, Iterator, Sequence

from dataset.isolate import Child, ChildDied, ChildHung
from trainer.reading import Unreadable, read_pixels
from trainer.sample import Pixels, Request

PATIENCE = 600  # seconds that reading one sample may take, the start of the child included
REMEDY = "export the video again, or leave the clip out"
Found = Pixels | Unreadable


def reader(seed: int) -> Callable[[Sequence[Request]], Iterator[tuple[Found]]]:
    """The child's side. What is found travels in a tuple: `Child.ask` raises an exception that comes bare."""

    def handle(requests: Sequence[Request]) -> Iterator[tuple[Found]]:
        for request in requests:
            found: Found
            try:
                found = read_pixels(request, seed)
            except Unreadable as e:
                found = e
            yield (found,)

    return handle


def read_ahead(child: Child, requests: Sequence[Request]) -> Iterator[tuple[Request, Found]]:
    """Each request with what was found.

    The child reads the next sample while the caller encodes this one, and waits with it until the socket is free. A
    sample that ends the child is tried once more, since it may have been killed for the memory of others.
    """
    waiting, died = list(requests), False
    while waiting:
        why = ""
        try:
            for (found,) in child.ask(waiting, first=PATIENCE, later=PATIENCE):
                died = False
                yield waiting.pop(0), found
        except ChildDied:
            why = "ended its process twice" if died else ""
            died = not died
        except ChildHung:
            why = f"took longer than {PATIENCE} s"
            died = False
        if why and waiting:
            request = waiting.pop(0)
            yield request, Unreadable(request.clip, f"reading it {why}", REMEDY)

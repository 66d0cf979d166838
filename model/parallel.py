"""What the network asks of the ranks that share a sequence. The default is one process that holds all of it."""

from typing import Protocol

from torch import Tensor

from model.attention import Attend, attention
from model.layout import Layout


class Parallel(Protocol):
    rank: int
    world: int

    def attention(self, layout: Layout) -> Attend:
        """Self-attention over the whole sequence, of which `layout` is the share held here."""
        ...

    def gather(self, tokens_BNC: Tensor) -> Tensor:
        """The noisy tokens of all ranks, in order: (B, world * N, C)."""
        ...


class Alone:
    rank = 0
    world = 1

    def attention(self, layout: Layout) -> Attend:
        return attention

    def gather(self, tokens_BNC: Tensor) -> Tensor:
        return tokens_BNC


ALONE = Alone()

"""Where every token stands: pure index arithmetic, computed once per shape, and its equal division over ranks.

The sequence is [noisy | reference | motion] (paper section 3). A rank's shard is its slice of *each* segment: all ranks
hold the same number of noisy, reference and motion tokens, and modulation and audio injection need no other rank.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

REFERENCE_TIME = 30  # the temporal position of the reference image; noisy frames count from 0
PACKED = {1: (-1, 1, 1), 2: (-3, 1, 2), 4: (-19, 4, 16)}  # FramePack level: first time, frames, latent frames spanned


def spread(first: int, count: int, span: int) -> Tensor:
    """(count,) integers from `first` to `first + span - 1`, both included, evenly spread and rounded down."""
    steps = torch.arange(count)
    return first + (steps * (span - 1)).div(max(count - 1, 1), rounding_mode="floor")


def grid(first: Sequence[int], count: Sequence[int], span: Sequence[int]) -> Tensor:
    """(tokens, 3) positions (time, row, column) of a box of tokens, column fastest."""
    axes = [spread(f, c, s) for f, c, s in zip(first, count, span, strict=True)]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).flatten(0, 2)


def segment_positions(frames: int, height: int, width: int, levels: tuple[int, ...]) -> tuple[Tensor, Tensor, Tensor]:
    """(tokens, 3) of the noisy, the reference and the motion tokens."""
    noisy = grid((0, 0, 0), (frames, height, width), (frames, height, width))
    reference = grid((REFERENCE_TIME, 0, 0), (1, height, width), (1, height, width))
    motion = [torch.empty(0, 3, dtype=torch.long)]
    for level in levels:
        first, count, span = PACKED[level]
        motion.append(grid((first, 0, 0), (count, height // level, width // level), (span, height, width)))
    return noisy, reference, torch.cat(motion)


@dataclass(frozen=True, eq=False)
class Layout:
    """The tokens that one rank holds of a sequence; of all of it when `world` is 1.

    height, width: tokens of a frame. rows: for each segment, which of its tokens are held, (n,) indices.
    Where a segment doesn't divide by `world`, its last token is repeated as padding, which `valid` marks as False.
    heard: latent frames that the held noisy tokens belong to, consecutive; `lead` tokens of the first one stand before
    the first token held. owner: for each held noisy token, its place in `heard`.
    """

    frames: int
    height: int
    width: int
    levels: tuple[int, ...]
    rank: int
    world: int
    device: torch.device
    rows: tuple[Tensor, Tensor, Tensor]
    positions: Tensor  # (S, 3): time, row, column
    valid: Tensor  # (S,) bool
    heard: Tensor
    lead: int
    owner: Tensor

    @classmethod
    @lru_cache(maxsize=64)
    @torch.inference_mode(False)  # sampling may come first, and training can't use what inference mode made
    def of(
        cls,
        frames: int,
        height: int,
        width: int,
        levels: tuple[int, ...] = (1, 2, 4),
        rank: int = 0,
        world: int = 1,
        device: torch.device = torch.device("cpu"),
    ) -> "Layout":
        """The layout of `frames` latent frames of height x width tokens; `levels` are the FramePack levels present."""
        segments = segment_positions(frames, height, width, levels)
        rows, valid = [], []
        for positions in segments:
            held = -(-len(positions) // world)
            wanted = torch.arange(rank * held, (rank + 1) * held)
            rows.append(wanted.clamp(max=max(len(positions) - 1, 0)))
            valid.append(wanted < len(positions))
        places = torch.cat([p[r] for p, r in zip(segments, rows, strict=True)])
        picture, count = height * width, len(rows[0])
        first, lead = divmod(rank * count, picture)
        owner = (torch.arange(count) + lead) // picture
        heard = torch.arange(first, first + int(owner[-1]) + 1).clamp(max=frames - 1)
        noisy, reference, motion = (r.to(device) for r in rows)
        on_device = places.to(device), torch.cat(valid).to(device), heard.to(device), lead, owner.to(device)
        return cls(frames, height, width, levels, rank, world, device, (noisy, reference, motion), *on_device)

    def of_rank(self, rank: int) -> "Layout":
        """What another rank holds of the same sequence."""
        return Layout.of(self.frames, self.height, self.width, self.levels, rank, self.world, self.device)

    @property
    def tokens(self) -> int:
        return len(self.positions)

    @property
    def split(self) -> int:
        """Noisy tokens held: they come first, and only they follow the timestep."""
        return len(self.rows[0])

    @property
    def noisy_total(self) -> int:
        """Noisy tokens of the whole sequence."""
        return self.frames * self.height * self.width

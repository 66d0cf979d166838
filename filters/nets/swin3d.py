"""Video Swin-T with a position bias gated by fragments: the technical half of DOVER.

Sources: Video Swin Transformer (Liu et al. 2022, arXiv 2106.13230), FAST-VQA (Wu et al. 2022, arXiv 2207.02595) for the
gated bias, and https://github.com/VQAssessment/DOVER, `dover/models/swin_backbone.py`, for the names of the weights.

Names of sizes: B batch, T x H x W tokens in time, height and width, C channels, V windows that tile a clip, N = 392
tokens of a window of 8 x 7 x 7, h heads.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

PATCH = (2, 4, 4)  # frames and pixels of a token
GRID = (16, 56, 56)  # tokens of 32 frames of 224x224
WINDOW = (8, 7, 7)
SPAN = tuple(2 * side - 1 for side in WINDOW)  # differences of position within a window, each way
FRAGMENTS = 7  # of the picture, each way
BARRED = -100.0  # logit between tokens that only the cyclic shift brought together; upstream's value, not -inf

Grid = tuple[int, int, int]


class WindowAttention(nn.Module):
    """(B, V, N, C) -> (B, V, N, C). The windows tile `grid` after a cyclic shift."""

    relative_position_index: Tensor
    fragments_VN2: Tensor
    regions_VN: Tensor

    def __init__(self, channels: int, heads: int, grid: Grid, shift: Grid, gated: bool):
        super().__init__()
        self.heads, self.shifted, self.gated = heads, any(shift), gated
        positions = SPAN[0] * SPAN[1] * SPAN[2]
        self.relative_position_bias_table = nn.Parameter(torch.zeros(positions, heads))
        if gated:
            self.fragment_position_bias_table = nn.Parameter(torch.zeros(positions, heads))
        self.register_buffer("relative_position_index", relative_positions())
        self.register_buffer("fragments_VN2", token_fragments(grid, shift), persistent=False)
        self.register_buffer("regions_VN", token_regions(grid, shift), persistent=False)
        self.qkv = nn.Linear(channels, 3 * channels)
        self.proj = nn.Linear(channels, channels)

    def forward(self, x_BVNC: Tensor) -> Tensor:
        windows = x_BVNC.shape[1]
        split = self.qkv(x_BVNC).unflatten(-1, (3, self.heads, -1))
        query, key, value = split.permute(3, 0, 1, 4, 2, 5).flatten(2, 3)
        mixed = F.scaled_dot_product_attention(query, key, value, self.bias_VhNN().flatten(0, 1)[None])
        return self.proj(mixed.unflatten(1, (windows, self.heads)).transpose(2, 3).flatten(3))

    def bias_VhNN(self) -> Tensor:
        """What is added to the logits: by relative position, and by how far apart the fragments of two tokens are.

        Within a fragment only the fragment table counts. The gate is a sum of two differences: from the second
        neighbour on it exceeds 1 and the fragment table counts negatively, as upstream trained it.
        """
        bias = self.relative_position_bias_table.T[:, self.relative_position_index]
        if self.gated:
            within = self.fragment_position_bias_table.T[:, self.relative_position_index]
            gate_VNN = torch.cdist(self.fragments_VN2, self.fragments_VN2, p=1)
            bias = torch.addcmul(within, gate_VNN[:, None], bias - within)
        if self.shifted:
            apart_VNN = self.regions_VN[:, :, None] != self.regions_VN[:, None]
            bias = bias + BARRED * apart_VNN[:, None]
        return bias.expand(len(self.regions_VN), -1, -1, -1)


class Mlp(nn.Module):
    def __init__(self, channels: int):
        super().__init__()
        self.fc1 = nn.Linear(channels, 4 * channels)
        self.fc2 = nn.Linear(4 * channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class Block(nn.Module):
    """(B, T, H, W, C) -> (B, T, H, W, C)."""

    def __init__(self, channels: int, heads: int, grid: Grid, shifted: bool, gated: bool):
        super().__init__()
        t, h, w = (side // 2 if shifted and size > side else 0 for size, side in zip(grid, WINDOW, strict=True))
        self.shift = t, h, w
        self.norm1 = nn.LayerNorm(channels)
        self.attn = WindowAttention(channels, heads, grid, self.shift, gated)
        self.norm2 = nn.LayerNorm(channels)
        self.mlp = Mlp(channels)

    def forward(self, x_BTHWC: Tensor) -> Tensor:
        moved = roll(self.norm1(x_BTHWC), [-steps for steps in self.shift])
        attended = from_windows(self.attn(to_windows(moved)), x_BTHWC.shape)
        x_BTHWC = x_BTHWC + roll(attended, self.shift)
        return x_BTHWC + self.mlp(self.norm2(x_BTHWC))


class PatchMerging(nn.Module):
    """(B, T, H, W, C) -> (B, T, H / 2, W / 2, 2 C)."""

    def __init__(self, channels: int):
        super().__init__()
        self.reduction = nn.Linear(4 * channels, 2 * channels, bias=False)
        self.norm = nn.LayerNorm(4 * channels)

    def forward(self, x_BTHWC: Tensor) -> Tensor:
        pairs = x_BTHWC.unflatten(3, (-1, 2)).unflatten(2, (-1, 2))
        four = pairs.permute(0, 1, 2, 4, 5, 3, 6).flatten(4)  # the official weights expect columns before rows
        return self.reduction(self.norm(four))


class Stage(nn.Module):
    """(B, T, H, W, C) -> the same, or what PatchMerging makes of it."""

    def __init__(self, channels: int, depth: int, heads: int, grid: Grid, gated: bool, last: bool):
        super().__init__()
        self.blocks = nn.ModuleList(Block(channels, heads, grid, bool(i % 2), gated) for i in range(depth))
        self.downsample = None if last else PatchMerging(channels)

    def forward(self, x_BTHWC: Tensor) -> Tensor:
        for block in self.blocks:
            x_BTHWC = block(x_BTHWC)
        return x_BTHWC if self.downsample is None else self.downsample(x_BTHWC)


class PatchEmbedding(nn.Module):
    """(B, 3, 2 T, 4 H, 4 W) -> (B, T, H, W, C)."""

    def __init__(self, channels: int):
        super().__init__()
        self.proj = nn.Conv3d(3, channels, PATCH, PATCH)
        self.norm = nn.LayerNorm(channels)

    def forward(self, video: Tensor) -> Tensor:
        return self.norm(self.proj(video).movedim(1, -1))


class Swin3D(nn.Module):
    """(B, 3, 32, 224, 224) -> (B, 8 `width`, 16, 7, 7). Other sizes don't fit its windows."""

    def __init__(
        self,
        width: int = 96,
        depths: tuple[int, ...] = (2, 2, 6, 2),
        heads: tuple[int, ...] = (3, 6, 12, 24),
    ):
        super().__init__()
        self.patch_embed = PatchEmbedding(width)
        self.layers = nn.ModuleList()
        for i, (depth, heads_here) in enumerate(zip(depths, heads, strict=True)):
            grid = GRID[0], GRID[1] >> i, GRID[2] >> i
            last = i == len(depths) - 1  # its window holds the whole picture: nothing to gate
            self.layers.append(Stage(width << i, depth, heads_here, grid, gated=not last, last=last))
        self.norm = nn.LayerNorm(width << (len(depths) - 1))

    def forward(self, video: Tensor) -> Tensor:
        x_BTHWC = self.patch_embed(video)
        for stage in self.layers:
            x_BTHWC = stage(x_BTHWC)
        return self.norm(x_BTHWC).movedim(-1, 1)


def roll(x_BTHWC: Tensor, steps: tuple[int, ...] | list[int]) -> Tensor:
    return x_BTHWC.roll(tuple(steps), (1, 2, 3)) if any(steps) else x_BTHWC


def to_windows(x_BTHWC: Tensor) -> Tensor:
    """-> (B, V, N, C)."""
    t, h, w = WINDOW
    blocks = x_BTHWC.unflatten(3, (-1, w)).unflatten(2, (-1, h)).unflatten(1, (-1, t))
    return blocks.permute(0, 1, 3, 5, 2, 4, 6, 7).flatten(4, 6).flatten(1, 3)


def from_windows(x_BVNC: Tensor, shape: torch.Size) -> Tensor:
    """-> (B, T, H, W, C), of that shape."""
    counts = [size // side for size, side in zip(shape[1:4], WINDOW, strict=True)]
    return x_BVNC.unflatten(1, counts).unflatten(4, WINDOW).permute(0, 1, 4, 2, 5, 3, 6, 7).reshape(shape)


def relative_positions() -> Tensor:
    """(N, N) row of the bias tables for each pair of tokens of a window."""
    at_N3 = torch.cartesian_prod(*(torch.arange(side) for side in WINDOW))
    steps = at_N3[:, None] - at_N3 + torch.tensor(WINDOW) - 1
    return (steps * torch.tensor([SPAN[1] * SPAN[2], SPAN[2], 1])).sum(-1)


def token_fragments(grid: Grid, shift: Grid) -> Tensor:
    """(V, N, 2) row and column of the fragment that each token was cut from."""
    row, column = (torch.arange(size) * FRAGMENTS // size for size in grid[1:])
    cells_HW2 = torch.stack(torch.meshgrid(row, column, indexing="ij"), -1).float()
    cells_BTHW2 = cells_HW2.expand(1, *grid, 2)
    return to_windows(roll(cells_BTHW2, [-steps for steps in shift]))[0]


def token_regions(grid: Grid, shift: Grid) -> Tensor:
    """(V, N) numbers: after the shift, tokens of a window with different numbers aren't neighbours in the clip."""
    whole = torch.zeros(1, *grid, 1)
    for axis, (size, steps) in enumerate(zip(grid, shift, strict=True), start=1):
        wrapped = torch.arange(size) >= size - steps
        whole = 2 * whole + wrapped.reshape([-1 if at == axis else 1 for at in range(5)])
    return to_windows(whole)[0, :, :, 0]

"""How UniMatch gets flow from features: matching, propagation, refinement and upsampling.

Source: Xu et al. 2023, arXiv 2211.05783; https://github.com/autonomousvision/unimatch, `unimatch/matching.py`,
`attention.py`, `reg_refine.py` and `utils.py`, for the behaviour and the names of the weights.

Names of sizes: B pairs of images, C channels, H x W positions of features, N = H x W, K = 2 radius + 1 positions across
a window. Flow (B, 2, H, W) is x, then y, in steps between positions.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

RADIUS = 4  # of the window around where the flow points, in matching and in refinement
HIDDEN = 128  # channels of the refinement's state, and of its context


class Propagation(nn.Module):
    """feature (B, C, H, W), flow (B, 2, H, W) -> flow, each position's from those that look alike."""

    def __init__(self, channels: int):
        super().__init__()
        self.q_proj = nn.Linear(channels, channels)
        self.k_proj = nn.Linear(channels, channels)

    def everywhere(self, feature: Tensor, flow: Tensor) -> Tensor:
        """From all positions. The key is a projection of the query, not of the feature: upstream noticed only after
        training, and the weights expect it."""
        query_BNC = self.q_proj(tokens(feature))
        mixed_BN2 = F.scaled_dot_product_attention(query_BNC, self.k_proj(query_BNC), tokens(flow))
        return mixed_BN2.mT.unflatten(-1, flow.shape[-2:])

    def nearby(self, feature: Tensor, flow: Tensor) -> Tensor:
        """From the 3x3 positions around each. Those beyond the border count as key 0 and flow 0."""
        query_BCHW = self.q_proj(tokens(feature)).mT.unflatten(-1, flow.shape[-2:])
        key_BCHW = self.k_proj(tokens(feature)).mT.unflatten(-1, flow.shape[-2:])
        logits = torch.einsum("bchw,bckhw->bkhw", query_BCHW, neighbours(key_BCHW)) / math.sqrt(feature.shape[1])
        return torch.einsum("bkhw,bckhw->bchw", logits.softmax(1), neighbours(flow))


class MotionEncoder(nn.Module):
    """flow (B, 2, H, W), correlation (B, K K, H, W) -> (B, 128, H, W), of which the last two are the flow."""

    def __init__(self):
        super().__init__()
        self.convc1 = nn.Conv2d((2 * RADIUS + 1) ** 2, 256, 1)
        self.convc2 = nn.Conv2d(256, 192, 3, padding=1)
        self.convf1 = nn.Conv2d(2, 128, 7, padding=3)
        self.convf2 = nn.Conv2d(128, 64, 3, padding=1)
        self.conv = nn.Conv2d(64 + 192, HIDDEN - 2, 3, padding=1)

    def forward(self, flow: Tensor, correlation: Tensor) -> Tensor:
        matched = F.relu(self.convc2(F.relu(self.convc1(correlation))))
        moving = F.relu(self.convf2(F.relu(self.convf1(flow))))
        return torch.cat([F.relu(self.conv(torch.cat([matched, moving], 1))), flow], 1)


class GRU(nn.Module):
    """state (B, 128, H, W), x (B, 256, H, W) -> state: one step along the rows, then one along the columns."""

    def __init__(self):
        super().__init__()
        for direction, kernel, padding in (("1", (1, 5), (0, 2)), ("2", (5, 1), (2, 0))):
            for gate in "zrq":
                self.add_module(f"conv{gate}{direction}", nn.Conv2d(3 * HIDDEN, HIDDEN, kernel, padding=padding))

    def forward(self, state: Tensor, x: Tensor) -> Tensor:
        for direction in "12":
            update, reset, candidate = (self.get_submodule(f"conv{gate}{direction}") for gate in "zrq")
            both = torch.cat([state, x], 1)
            kept = torch.sigmoid(reset(both)) * state
            proposed = torch.tanh(candidate(torch.cat([kept, x], 1)))
            state = torch.lerp(state, proposed, torch.sigmoid(update(both)))
        return state


class FlowHead(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(HIDDEN, 256, 3, padding=1)
        self.conv2 = nn.Conv2d(256, 2, 3, padding=1)

    def forward(self, state: Tensor) -> Tensor:
        return self.conv2(F.relu(self.conv1(state)))


class Refinement(nn.Module):
    """One step of refinement; `mask` gives the weights of `upsampled` from a state."""

    def __init__(self, factor: int):
        super().__init__()
        self.encoder = MotionEncoder()
        self.gru = GRU()
        self.flow_head = FlowHead()
        self.mask = upsampling_weights(HIDDEN, factor)

    def forward(self, start: Tensor, context: Tensor, correlation: Tensor, flow: Tensor) -> tuple[Tensor, Tensor]:
        """(B, 128, H, W) twice, (B, K K, H, W), (B, 2, H, W) -> state (B, 128, H, W), flow (B, 2, H, W)."""
        state = self.gru(start, torch.cat([context, self.encoder(flow, correlation)], 1))
        return state, flow + self.flow_head(state)


def upsampling_weights(channels: int, factor: int) -> nn.Sequential:
    """(B, channels, H, W) -> (B, 9 factor factor, H, W), for `upsampled`."""
    return nn.Sequential(nn.Conv2d(channels, 256, 3, padding=1), nn.ReLU(), nn.Conv2d(256, 9 * factor**2, 1))


def upsampled(flow: Tensor, weights: Tensor, factor: int) -> Tensor:
    """(B, 2, H, W) -> (B, 2, factor H, factor W), in the finer steps: each a convex combination of the 3x3 around it.
    Flow beyond the border counts as 0."""
    shares = weights.unflatten(1, (9, factor, factor)).softmax(1)
    fine = torch.einsum("bkyxhw,bckhw->bchywx", shares, neighbours(factor * flow))
    return fine.flatten(4).flatten(2, 3)


def match_everywhere(feature0: Tensor, feature1: Tensor) -> Tensor:
    """(B, C, H, W) each -> flow from each position of the first to the mean of all positions of the second, weighted
    by likeness."""
    grid = pixel_grid(feature0)
    places_BN2 = tokens(grid[None]).expand(len(feature0), -1, -1)
    found_BN2 = F.scaled_dot_product_attention(tokens(feature0), tokens(feature1), places_BN2)
    return found_BN2.mT.unflatten(-1, grid.shape[-2:]) - grid


def match_nearby(feature0: Tensor, feature1: Tensor) -> Tensor:
    """The same within the window around each position, as far as it lies in the image."""
    grid = pixel_grid(feature0)
    logits = correlation(feature0, feature1, torch.zeros_like(grid)[None])
    offsets_M2 = window_offsets(grid.device)
    places_M2HW = grid + offsets_M2[:, :, None, None]
    last = grid.amax((1, 2))[:, None, None]
    inside_MHW = ((places_M2HW >= 0) & (places_M2HW <= last)).all(1)
    shares = logits.masked_fill(~inside_MHW, -torch.inf).softmax(1)
    return torch.einsum("bmhw,mc->bchw", shares, offsets_M2)


def correlation(feature0: Tensor, feature1: Tensor, flow: Tensor) -> Tensor:
    """(B, C, H, W) twice, (B or 1, 2, H, W) -> (B, K K, H, W): how alike each position of the first is to the window of
    the second around where its flow points, row by row. Between positions bilinear, beyond the border 0.

    Upstream interpolates features. Likeness is linear in them, and all of a window lies equally far between positions:
    interpolating likeness gives the same, in half the time.
    """
    centres = (pixel_grid(feature0) + flow).expand(len(feature0), -1, -1, -1)
    corners = centres.floor()
    likeness = likeness_around(feature0, feature1, corners.long())
    right, down = (centres - corners).unbind(1)
    likeness = torch.lerp(likeness[:, :-1], likeness[:, 1:], down[:, None, None])
    likeness = torch.lerp(likeness[:, :, :-1], likeness[:, :, 1:], right[:, None, None])
    return likeness.flatten(1, 2) / math.sqrt(feature0.shape[1])


def likeness_around(feature0: Tensor, feature1: Tensor, places: Tensor) -> Tensor:
    """(B, C, H, W) twice, (B, 2, H, W) whole x and y -> (B, K + 1, K + 1, H, W): each position's products with the rows
    and columns from `RADIUS` before its place to one more than `RADIUS` after it. Beyond the border 0."""
    batch, channels, height, width = feature0.shape
    nothing = feature1.new_zeros(1, channels)
    stored_MC = torch.cat([tokens(feature1).flatten(0, 1), nothing])
    query_BHWC = feature0.movedim(1, -1).contiguous()
    starts_B = torch.arange(batch, device=places.device) * height * width
    steps_K = torch.arange(-RADIUS, RADIUS + 2, device=places.device)
    x_BHWK = places[:, 0, :, :, None] + steps_K
    rows = []
    for dy in steps_K:  # all rows at once would hold a hundred copies of the features
        y_BHW1 = places[:, 1, :, :, None] + dy
        inside = (x_BHWK >= 0) & (x_BHWK < width) & (y_BHW1 >= 0) & (y_BHW1 < height)
        index = torch.where(inside, starts_B[:, None, None, None] + y_BHW1 * width + x_BHWK, len(stored_MC) - 1)
        seen_BHWKC = stored_MC.index_select(0, index.flatten()).unflatten(0, index.shape)
        rows.append(torch.einsum("bhwkc,bhwc->bkhw", seen_BHWKC, query_BHWC))
    return torch.stack(rows, 1)


def window_offsets(device: torch.device) -> Tensor:
    """(K K, 2): x and y from the middle of a window, in the order of `correlation`."""
    steps_K = torch.arange(-RADIUS, RADIUS + 1.0, device=device)
    y, x = torch.meshgrid(steps_K, steps_K, indexing="ij")
    return torch.stack([x, y], -1).flatten(0, 1)


def warped(feature: Tensor, flow: Tensor) -> Tensor:
    """(B, C, H, W), (B, 2, H, W) -> (B, C, H, W): at each position the feature that its flow points to."""
    return sample(feature, pixel_grid(feature) + flow)


def sample(feature: Tensor, places: Tensor) -> Tensor:
    """(B, C, H, W) at places (B, 2, h, w), x and y in positions -> (B, C, h, w), between positions bilinear, beyond the
    border 0."""
    height, width = feature.shape[-2:]
    half = torch.tensor([(width - 1) / 2, (height - 1) / 2], device=feature.device)
    return F.grid_sample(feature, places.movedim(1, -1) / half - 1, align_corners=True)


def pixel_grid(feature: Tensor) -> Tensor:
    """(2, H, W): each position's own x and y."""
    height, width = feature.shape[-2:]
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return torch.stack([x, y]).to(feature)


def neighbours(x_BCHW: Tensor) -> Tensor:
    """(B, C, 9, H, W): the 3x3 around each position, row by row; 0 beyond the border."""
    channels, height, width = x_BCHW.shape[1:]
    return F.unfold(x_BCHW, 3, padding=1).unflatten(1, (channels, 9)).unflatten(-1, (height, width))


def tokens(x_BCHW: Tensor) -> Tensor:
    """(B, N, C)."""
    return x_BCHW.flatten(2).mT

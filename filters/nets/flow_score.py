"""How much a video moves, as Open-Sora scores it: the mean size of UniMatch's flow between its frames.

Source: https://github.com/hpcaitech/Open-Sora, `tools/scoring/optical_flow/inference.py` (v1.x), which takes frames 0,
10, 20 and 30 of a video, whatever its rate, and the weights gmflow-scale2-regrefine6-mixdata.
"""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from filters.nets.unimatch import UniMatch, resized

HEIGHT, WIDTH = 320, 576  # pixels at which the weights were trained
BATCH = 4  # pairs


def motion_size(height: int, width: int) -> tuple[int, int]:
    """Height and width that a frame is stretched to, whatever its aspect ratio: upright for a frame that is."""
    return (WIDTH, HEIGHT) if height > width else (HEIGHT, WIDTH)


def motion_frames(frames: Sequence[np.ndarray]) -> Tensor:
    """Frames (H, W, 3) uint8 RGB -> (T, 3, 320, 576) float32, 0 to 255. Upright frames are transposed: the networks
    know images that are wider than high."""
    images = torch.stack([torch.from_numpy(frame) for frame in frames]).movedim(-1, 1).float()
    height, width = images.shape[-2:]
    images = resized(images, motion_size(height, width))
    return images.mT if height > width else images


@torch.inference_mode()
def flows_between(net: UniMatch, pairs: Sequence[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    """Where each pixel of a frame went in another: (pairs, *motion_size, 2) float32, x (to the right) and y (down) in
    pixels of that size. Frames: (H, W, 3) uint8 RGB, all of one size."""
    upright = pairs[0][0].shape[0] > pairs[0][0].shape[1]
    found = []
    for start in range(0, len(pairs), BATCH):
        images = [motion_frames(side) for side in zip(*pairs[start : start + BATCH], strict=True)]
        first, second = (side.to(next(net.parameters()).device) for side in images)
        flow = net(first, second)
        flow = flow.mT.flip(1) if upright else flow  # the network saw rows as columns, so its x is their y
        found.append(flow.movedim(1, -1).cpu().numpy())
    return np.concatenate(found)


def flow_score(net: UniMatch, frames: Sequence[np.ndarray]) -> float:
    """The mean of |x| and |y| of the flow over pixels and consecutive frames, in pixels at 320x576: about 0.6 to 0.8
    of the mean length of the vectors.

    frames: (H, W, 3) uint8 RGB, all of one size, with the same time between them. The score grows with that time.
    Raises ValueError on fewer than two frames.
    """
    if len(frames) < 2:
        raise ValueError(f"flow needs two frames or more, not {len(frames)}")
    return float(np.abs(flows_between(net, list(pairwise(frames)))).mean())

"""Pictures as people see them, and as the VAE does."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor


def to_tensor(images: Sequence[np.ndarray]) -> Tensor:
    """Pictures (H, W, 3) uint8 -> (3, T, H, W) float32 in [-1, 1]"""
    return torch.from_numpy(np.stack(images)).permute(3, 0, 1, 2).float() / 127.5 - 1


def to_pictures(frames_CTHW: Tensor) -> np.ndarray:
    """(3, T, H, W) in [-1, 1] -> (T, H, W, 3) uint8"""
    return ((frames_CTHW.float() + 1) * 127.5).round().clamp(0, 255).byte().permute(1, 2, 3, 0).cpu().numpy()

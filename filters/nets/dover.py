"""DOVER and DOVER-Mobile: the technical and the aesthetic quality of a video (Wu et al. 2023, arXiv 2211.04894).

Modules carry the names of the official weights of https://github.com/VQAssessment/DOVER. Its licence, S-Lab 1.0, allows
non-commercial use only. Inputs come from `filters.nets.dover_views`.

Names of sizes: B videos, K = 3 clips, C channels, T x H x W frames and pixels, or positions.
"""

from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from filters.nets import checkpoint
from filters.nets.convnext3d import ConvNeXt3D, ConvNeXtV23D
from filters.nets.swin3d import Swin3D

VIEW = (3, 32, 224, 224)  # colours, frames, pixels
FILES = {False: "v0.1.0/DOVER.pth", True: "v0.5.0/DOVER-Mobile.pth"}
RELEASES = "https://github.com/VQAssessment/DOVER/releases/download"


class Scale(NamedTuple):
    """How a raw score is spread over upstream's videos, and its weight in the overall score."""

    mean: float
    deviation: float
    weight: float

    def standard(self, score: Tensor) -> Tensor:
        return (score - self.mean) / self.deviation


TECHNICAL = Scale(0.1107, 0.07355, 0.6104)
AESTHETIC = Scale(-0.08285, 0.03774, 0.3896)


class Head(nn.Module):
    """(B, C, T, H, W) -> (B, 1, T, H, W): the quality at each position. Its mean is the score."""

    def __init__(self, channels: int, hidden: int):
        super().__init__()
        self.fc_hid = nn.Conv3d(channels, hidden, 1)
        self.fc_last = nn.Conv3d(hidden, 1, 1)

    def forward(self, x_BCTHW: Tensor) -> Tensor:
        return self.fc_last(F.gelu(self.fc_hid(x_BCTHW)))


class Dover(nn.Module):
    """Scores are raw: around 0.1 (technical) and -0.1 (aesthetic), higher is better. `fuse` makes one of both.

    `mobile` is a tenth of the work, and scores differently: thresholds don't carry over.
    """

    def __init__(self, mobile: bool):
        super().__init__()
        self.technical_backbone: nn.Module = ConvNeXtV23D() if mobile else Swin3D()
        self.aesthetic_backbone: nn.Module = ConvNeXtV23D() if mobile else ConvNeXt3D()
        channels, hidden = (384, 32) if mobile else (768, 64)
        self.technical_head = Head(channels, hidden)
        self.aesthetic_head = Head(channels, hidden)

    def forward(self, technical_BKCTHW: Tensor, aesthetic_BCTHW: Tensor) -> tuple[Tensor, Tensor]:
        """(B, 3, 3, 32, 224, 224) and (B, 3, 32, 224, 224), from `technical_view` and `aesthetic_view` -> the technical
        and the aesthetic scores, (B,) each. Raises ValueError on other shapes."""
        return self.technical(technical_BKCTHW), self.aesthetic(aesthetic_BCTHW)

    def technical(self, clips_BKCTHW: Tensor) -> Tensor:
        """(B, any number of clips, 3, 32, 224, 224) -> (B,): the mean of the clips' scores."""
        if clips_BKCTHW.ndim != 6 or clips_BKCTHW.shape[2:] != VIEW:
            raise ValueError(f"technical views are (videos, clips, *{VIEW}), not {tuple(clips_BKCTHW.shape)}")
        quality = self.technical_head(self.technical_backbone(clips_BKCTHW.flatten(0, 1)))
        return quality.unflatten(0, clips_BKCTHW.shape[:2]).mean((1, 2, 3, 4, 5))

    def aesthetic(self, video_BCTHW: Tensor) -> Tensor:
        """(B, 3, 32, 224, 224) -> (B,)."""
        if video_BCTHW.ndim != 5 or video_BCTHW.shape[1:] != VIEW:
            raise ValueError(f"aesthetic views are (videos, *{VIEW}), not {tuple(video_BCTHW.shape)}")
        return self.aesthetic_head(self.aesthetic_backbone(video_BCTHW)).mean((1, 2, 3, 4))


def grades(technical: Tensor, aesthetic: Tensor) -> tuple[Tensor, Tensor]:
    """Raw scores -> technical and aesthetic quality in 0 to 1, as upstream's `evaluate_a_set_of_videos.py` has them."""
    return torch.sigmoid(TECHNICAL.standard(technical)), torch.sigmoid(AESTHETIC.standard(aesthetic))


def fuse(technical: Tensor, aesthetic: Tensor) -> Tensor:
    """Raw scores -> overall quality in 0 to 1, as upstream's `evaluate_one_video.py`.

    Its `onnx_inference.py` passes the scores to the same formula in the wrong order: its figures aren't comparable.
    """
    total = TECHNICAL.weight * TECHNICAL.standard(technical) + AESTHETIC.weight * AESTHETIC.standard(aesthetic)
    return torch.sigmoid(total)


def load(path: Path, mobile: bool) -> Dover:
    """The official weights, ready to score. Raises ValueError where the file holds other names or shapes."""
    official = f"{RELEASES}/{FILES[mobile]}"
    remedy = f"Use {official}."
    return checkpoint.filled(
        Dover(mobile), checkpoint.read(path, remedy), path, f"the weights of {Path(official).stem}", remedy
    )

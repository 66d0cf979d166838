"""UniMatch's flow networks (GMFlow): optical flow by matching features (Xu et al. 2023, arXiv 2211.05783).

Modules carry the names of the official weights, which are MIT: https://github.com/autonomousvision/unimatch, whose
MODEL_ZOO.md lists them. For videos in the wild it recommends those trained on mixed data, such as
gmflow-scale2-regrefine6-mixdata-train320x576-4e7b215d.pth.

Names of sizes: B pairs of images, C channels, H x W pixels, or positions of features.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from filters.nets import checkpoint
from filters.nets import unimatch_flow as steps
from filters.nets.unimatch_backbone import Backbone
from filters.nets.unimatch_transformer import FeatureTransformer

MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet's colours, in 0 to 1
COARSE_SPLITS, FINE_SPLITS = 2, 8  # windows of attention each way, at 1/8 and at 1/4 of the resolution


@dataclass(frozen=True)
class Config:
    """scales: 1 matches features at 1/8 of the resolution; 2 matches again at 1/4, near where the first found.
    refinements: steps of local regression after that. The rest is the same in all official weights."""

    scales: int
    refinements: int = 0
    channels: int = 128
    layers: int = 6
    expansion: int = 4

    @property
    def name(self) -> str:
        """As official files begin."""
        return f"gmflow-scale{self.scales}" + (f"-regrefine{self.refinements}" if self.refinements else "")

    @property
    def factor(self) -> int:
        """Pixels between positions of the finest features."""
        return 8 // self.scales

    @property
    def multiple(self) -> int:
        """Pixels that sides are a multiple of, for the windows of attention to fit."""
        return self.factor * (COARSE_SPLITS if self.scales == 1 else FINE_SPLITS)


SCALE1 = Config(scales=1)
SCALE2 = Config(scales=2)
SCALE2_REFINE6 = Config(scales=2, refinements=6)


class UniMatch(nn.Module):
    """Trained on images wider than high. Portrait ones work, but upstream transposes them first."""

    def __init__(self, config: Config):
        super().__init__()
        self.config = config
        self.backbone = Backbone(config.channels, config.scales)
        self.transformer = FeatureTransformer(config.channels, config.layers, config.expansion)
        self.feature_flow_attn = steps.Propagation(config.channels)
        if config.refinements:
            self.refine_proj = nn.Conv2d(config.channels, 2 * steps.HIDDEN, 1)
            self.refine = steps.Refinement(config.factor)
        else:
            self.upsampler = steps.upsampling_weights(2 + config.channels, config.factor)

    def forward(self, image0: Tensor, image1: Tensor) -> Tensor:
        """Where each pixel of the first image went in the second, in pixels.

        image0, image1: (B, 3, H, W) RGB, 0 to 255. Returns (B, 2, H, W) float32, x (to the right) and y (down). Raises
        ValueError on other shapes.

        Sides that aren't multiples of 16 (one scale) or 32 (two) are stretched to the next, and the flow is shrunk
        back, as in upstream's `inference_flow`. Its evaluation on benchmarks pads by replication instead.
        """
        if image0.shape != image1.shape or image0.ndim != 4 or image0.shape[1] != 3:
            shapes = f"{tuple(image0.shape)} and {tuple(image1.shape)}"
            raise ValueError(f"images are (pairs, 3, height, width), both alike, not {shapes}")
        height, width = image0.shape[-2:]
        multiple = self.config.multiple
        inner = -(-height // multiple) * multiple, -(-width // multiple) * multiple
        flow = self.flow(resized(normalised(torch.cat([image0, image1])), inner))
        shrink = torch.tensor([width / inner[1], height / inner[0]], device=flow.device)
        return resized(flow, (height, width)) * shrink[:, None, None]

    def flow(self, images: Tensor) -> Tensor:
        """Normalised images (2 B, 3, H, W), all first ones and then all second ones -> (B, 2, H, W)."""
        features = self.backbone(images)
        raw0, raw1 = features[0].chunk(2)
        feature0, feature1 = self.transformer(raw0, raw1, COARSE_SPLITS)
        flow = self.feature_flow_attn.everywhere(feature0, steps.match_everywhere(feature0, feature1))
        if self.config.scales == 2:
            raw0, raw1 = features[1].chunk(2)
            flow = 2 * resized(flow, raw0.shape[-2:])
            feature0, feature1 = self.transformer(raw0, steps.warped(raw1, flow), FINE_SPLITS)
            flow = self.feature_flow_attn.nearby(feature0, flow + steps.match_nearby(feature0, feature1))
        if self.config.refinements:
            return self.refined(flow, feature0, raw0, raw1)
        return steps.upsampled(flow, self.upsampler(torch.cat([flow, feature0], 1)), self.config.factor)

    def refined(self, flow: Tensor, feature0: Tensor, raw0: Tensor, raw1: Tensor) -> Tensor:
        """Flow at the features' resolution -> at the images'. Unlike RAFT's, the recurrent state starts anew in every
        step: only the flow is carried on."""
        start, context = self.refine_proj(feature0).chunk(2, 1)
        start, context = torch.tanh(start), torch.relu(context)
        state = start
        for _ in range(self.config.refinements):
            state, flow = self.refine(start, context, steps.correlation(raw0, raw1, flow), flow)
        return steps.upsampled(flow, self.refine.mask(state), self.config.factor)


def normalised(images: Tensor) -> Tensor:
    """(B, 3, H, W) RGB, 0 to 255 -> float32 as the backbone takes them."""
    mean, deviation = (torch.tensor(row, device=images.device)[:, None, None] for row in (MEAN, DEVIATION))
    return (images.float() / 255 - mean) / deviation


def resized(x: Tensor, size: tuple[int, int] | torch.Size) -> Tensor:
    """(B, C, H, W) -> (B, C, *size), corners on corners, without smoothing: as upstream."""
    return F.interpolate(x, size, mode="bilinear", align_corners=True)


def load(path: Path, config: Config) -> UniMatch:
    """The official weights on the CPU, ready to run. Raises ValueError where the file holds something else: no tensors
    under "model", or other names or shapes."""
    remedy = f"Use a file {config.name}-*.pth from the list in github.com/autonomousvision/unimatch, MODEL_ZOO.md."
    held = checkpoint.read(path, remedy)
    found = held.get("model") if isinstance(held, dict) else None
    if not isinstance(found, dict):
        raise ValueError(f'{path} has no weights under "model". {remedy}')
    return checkpoint.filled(UniMatch(config), found, path, config.name, remedy)

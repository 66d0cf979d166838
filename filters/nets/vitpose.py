"""COCO-17 bodies in boxes by ViTPose, with the crops and the decoding of heatmaps in OpenCV.

The processors of transformers do the same with scipy, which nothing else here needs.
"""

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
from transformers import VitPoseForPoseEstimation

from filters.nets.device import half, normalised, placed
from filters.nets.snapshot import load

BATCH = 32  # crops
PADDING = 1.25  # of boxes
BLUR, KERNEL = 0.8, 11  # cells of the heatmap: deviation and width of the Gaussian before it is differentiated


class VitposeNet:
    def __init__(self, folder: Path):
        self._net = placed(load(VitPoseForPoseEstimation, folder))
        height, width = self._net.config.backbone_config.image_size
        self._size = np.array([width, height])

    def __call__(self, images: Sequence[np.ndarray], boxes: np.ndarray) -> np.ndarray:
        """(N, 17, 3) x, y in pixels, confidence, of the person in the box (4,) of each of N images (H, W, 3) uint8 RGB.

        Pixels count from the middle of the first; points may lie outside the image.
        """
        found = [np.zeros((0, 17, 3))]
        for start in range(0, len(images), BATCH):
            part = slice(start, start + BATCH)
            found.append(self._bodies(images[part], boxes[part]))
        return np.concatenate(found)

    @torch.inference_mode()
    def _bodies(self, images: Sequence[np.ndarray], boxes: np.ndarray) -> np.ndarray:
        corners, sizes = padded(boxes, self._size[0] / self._size[1])
        crops = np.stack([cropped(i, c, s, self._size) for i, c, s in zip(images, corners, sizes, strict=True)])
        with half():
            heatmaps = self._net(normalised(crops).movedim(-1, 1)).heatmaps.float().cpu().numpy()
        points = decoded(heatmaps)
        cells = np.array(heatmaps.shape[:1:-1]) - 1
        points[..., :2] = points[..., :2] / cells * sizes[:, None] + corners[:, None]
        return points


def padded(boxes: np.ndarray, aspect: float) -> tuple[np.ndarray, np.ndarray]:
    """(N, 4) boxes -> upper left corners and sizes (N, 2) of the crops around them, all of one width / height."""
    width, height = (boxes[:, 2:] - boxes[:, :2]).T
    width, height = np.maximum(width, height * aspect), np.maximum(height, width / aspect)
    sizes = PADDING * np.stack([width, height], axis=1)
    return (boxes[:, :2] + boxes[:, 2:]) / 2 - sizes / 2, sizes


def cropped(image: np.ndarray, corner: np.ndarray, size: np.ndarray, target: np.ndarray) -> np.ndarray:
    """(height, width, 3) of the target, whose first and last pixels lie on the edges of the crop (UDP)."""
    scale = (target - 1) / size
    matrix = np.array([[scale[0], 0, -scale[0] * corner[0]], [0, scale[1], -scale[1] * corner[1]]])
    return cv2.warpAffine(image, matrix, tuple(int(n) for n in target), flags=cv2.INTER_LINEAR)


def decoded(heatmaps: np.ndarray) -> np.ndarray:
    """Heatmaps (N, K, h, w) -> (N, K, 3): x, y in cells, and the maximum. Places are refined between cells (DARK)."""
    people, count, height, width = heatmaps.shape
    found = np.stack([refined(heatmap) for heatmap in heatmaps.reshape(-1, height, width)])
    return found.reshape(people, count, 3)


def refined(heatmap: np.ndarray) -> np.ndarray:
    """(3,) x, y and height of the maximum of (h, w): one Newton step on the logarithm, from the highest cell.

    A step of more than a cell does not come from a peak, and is cut off (transformers takes it whole).
    """
    y, x = np.unravel_index(np.argmax(heatmap), heatmap.shape)
    score = heatmap[y, x]
    if score <= 0:
        return np.array([-1.0, -1.0, score])
    blurred = cv2.GaussianBlur(heatmap, (KERNEL, KERNEL), BLUR, borderType=cv2.BORDER_REFLECT)
    near = np.pad(np.log(np.clip(blurred, 1e-3, 50)), 1, mode="edge")[y : y + 3, x : x + 3].astype(float)
    dx, dy = (near[1, 2] - near[1, 0]) / 2, (near[2, 1] - near[0, 1]) / 2
    dxx, dyy = near[1, 2] - 2 * near[1, 1] + near[1, 0], near[2, 1] - 2 * near[1, 1] + near[0, 1]
    dxy = (near[2, 2] - near[1, 2] - near[2, 1] + 2 * near[1, 1] - near[1, 0] - near[0, 1] + near[0, 0]) / 2
    curve = np.array([[dxx, dxy], [dxy, dyy]]) + np.finfo(np.float32).eps * np.eye(2)
    step = np.clip(np.linalg.solve(curve, [dx, dy]), -1, 1)
    return np.array([x - step[0], y - step[1], score])

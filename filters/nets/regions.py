"""Rotated square regions of interest, and pixels and points carried in and out of them."""

from dataclasses import dataclass

import cv2
import numpy as np


@dataclass(frozen=True)
class Region:
    """A square of the image in pixels. `angle`: radians, clockwise on the screen; 0 is upright."""

    cx: float
    cy: float
    size: float
    angle: float = 0.0

    def axes(self) -> np.ndarray:
        """(2, 2): the image vectors of the crop's unit x and unit y."""
        c, s = np.cos(self.angle), np.sin(self.angle)
        return np.array([[c, s], [-s, c]])

    def to_image(self, points: np.ndarray) -> np.ndarray:
        """(N, 2) points in crop shares (0 to 1) -> pixels of the image."""
        return (points - 0.5) * self.size @ self.axes() + (self.cx, self.cy)

    def moved(self, dx: float, dy: float, scale: float) -> "Region":
        """Shifted by shares of its own size along its own axes, then scaled."""
        cx, cy = self.to_image(np.array([[0.5 + dx, 0.5 + dy]]))[0]
        return Region(float(cx), float(cy), self.size * scale, self.angle)

    def crop(self, image: np.ndarray, side: int) -> np.ndarray:
        """(side, side, 3) uint8 pixels of this region, black beyond the image."""
        shrink = 1
        while self.size / side / shrink > 2:  # bilinear sampling skips pixels beyond a factor of two
            shrink *= 2
        if shrink > 1:
            width, height = max(1, image.shape[1] // shrink), max(1, image.shape[0] // shrink)
            scale = np.array([width / image.shape[1], height / image.shape[0]])
            image = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
        else:
            scale = np.ones(2)
        corners = self.to_image(np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]]))
        pixels = ((corners + 0.5) * scale - 0.5).astype(np.float32)
        target = np.array([[-0.5, -0.5], [side - 0.5, -0.5], [-0.5, side - 0.5]], np.float32)
        matrix = cv2.getAffineTransform(target, pixels)
        return cv2.warpAffine(image, matrix, (side, side), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP)


def whole(image: np.ndarray) -> Region:
    """The smallest square around the whole image."""
    height, width = image.shape[:2]
    return Region((width - 1) / 2, (height - 1) / 2, float(max(width, height)))


def around(points: np.ndarray, start: np.ndarray, end: np.ndarray, upright: float, scale: float) -> Region:
    """The square around (N, 2) points, turned so that the vector start -> end points to the angle `upright`.

    `upright` in radians, counter-clockwise from the crop's right: 0 for a line between the eyes, pi/2 for a spine.
    """
    angle = turn(start, end, upright)
    frame = Region(0.0, 0.0, 1.0, angle)
    local = points @ frame.axes().T
    low, high = local.min(axis=0), local.max(axis=0)
    cx, cy = (low + high) / 2 @ frame.axes()
    return Region(float(cx), float(cy), float((high - low).max()) * scale, angle)


def turn(start: np.ndarray, end: np.ndarray, upright: float) -> float:
    """Clockwise angle by which the vector start -> end is turned away from `upright`, in (-pi, pi]."""
    dx, dy = end - start
    angle = upright - np.arctan2(-dy, dx)
    return float(angle - 2 * np.pi * np.floor((angle + np.pi) / (2 * np.pi)))


def iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Intersection over union of boxes x0, y0, x1, y1; broadcasts over leading dimensions."""
    low, high = np.maximum(a[..., :2], b[..., :2]), np.minimum(a[..., 2:], b[..., 2:])
    inter = np.prod(np.clip(high - low, 0, None), axis=-1)
    area_a, area_b = np.prod(a[..., 2:] - a[..., :2], axis=-1), np.prod(b[..., 2:] - b[..., :2], axis=-1)
    return inter / np.maximum(area_a + area_b - inter, 1e-9)

"""DWPose on onnxruntime: people by YOLOX, 133 points of each by RTMPose, as IDEA-Research/DWPose runs them.

Images are (H, W, 3) uint8 RGB. YOLOX gets BGR, on which it was trained; RTMPose gets RGB. Upstream gives both what
its caller reads: BGR in its own script, RGB in ControlNet.
"""

from collections.abc import Sequence

import cv2
import numpy as np

from filters.nets import onnx

DETECTOR = "dwpose/yolox_l.onnx"
POSE = "dwpose/dw-ll_ucoco_384.onnx"

SIDE = 640  # px of the detector's input
STRIDES = (8, 16, 32)
GREY = 114  # of what the picture does not fill
OVERLAP = 0.45  # IoU from which the less sure of two boxes is dropped
CERTAIN = 0.3
PERSON = 0  # of the 80 classes of COCO

WIDTH, HEIGHT = 288, 384  # px of the pose network's input
PADDING = 1.25  # of boxes
BATCH = 32  # crops, where the file takes several
BINS = 2  # of SimCC to a pixel of the input
MEAN, DEVIATION = np.array([123.675, 116.28, 103.53]), np.array([58.395, 57.12, 57.375])


class YoloxDetector:
    def __init__(self) -> None:
        self._net = onnx.load(DETECTOR, gpu=True)
        self._input = self._net.get_inputs()[0].name

    def __call__(self, images: Sequence[np.ndarray]) -> list[np.ndarray]:
        """(N, 4) boxes of people in each image: x0, y0, x1, y1 in pixels from its left and upper edge."""
        return [self._people(image) for image in images]

    def _people(self, image: np.ndarray) -> np.ndarray:
        picture, ratio = letterbox(image[..., ::-1])
        (raw,) = self._net.run(None, {self._input: picture.transpose(2, 0, 1)[None].astype(np.float32)})
        boxes, scores = decoded(raw[0])
        sure = scores[:, PERSON] > CERTAIN
        boxes, scores = boxes[sure] / ratio, scores[sure, PERSON]
        return boxes[kept(boxes, scores)]


def letterbox(image: np.ndarray) -> tuple[np.ndarray, float]:
    """The image in the upper left of a grey square (640, 640, 3), and by how much it was scaled."""
    height, width = image.shape[:2]
    ratio = min(SIDE / height, SIDE / width)
    size = int(width * ratio), int(height * ratio)
    square = np.full((SIDE, SIDE, 3), GREY, np.uint8)
    square[: size[1], : size[0]] = cv2.resize(np.ascontiguousarray(image), size, interpolation=cv2.INTER_LINEAR)
    return square, ratio


def decoded(raw: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Output of YOLOX (8400, 5 + C) -> boxes (8400, 4) in pixels of its input, scores (8400, C)."""
    cells = [np.indices((SIDE // s, SIDE // s)).reshape(2, -1)[::-1].T for s in STRIDES]  # x, y, row by row
    grid = np.concatenate(cells)
    stride = np.repeat(STRIDES, [len(c) for c in cells])[:, None]
    middle, size = (raw[:, :2] + grid) * stride, np.exp(raw[:, 2:4]) * stride
    return np.concatenate([middle - size / 2, middle + size / 2], axis=1), raw[:, 4:5] * raw[:, 5:]


def kept(boxes: np.ndarray, scores: np.ndarray) -> list[int]:
    """Non-maximum suppression: numbers of the boxes (N, 4) that stay, the best first. Both edge pixels count as in."""
    stay, left = [], np.argsort(-scores)
    sizes = (boxes[:, 2] - boxes[:, 0] + 1) * (boxes[:, 3] - boxes[:, 1] + 1)
    while len(left):
        best, left = left[0], left[1:]
        stay.append(int(best))
        low, high = np.maximum(boxes[best, :2], boxes[left, :2]), np.minimum(boxes[best, 2:], boxes[left, 2:])
        shared = np.prod(np.clip(high - low + 1, 0, None), axis=1)
        left = left[shared / (sizes[best] + sizes[left] - shared) <= OVERLAP]
    return stay


class WholeBodyNet:
    def __init__(self) -> None:
        self._net = onnx.load(POSE, gpu=True)
        self._input = self._net.get_inputs()[0].name
        self._batch = 1 if isinstance(self._net.get_inputs()[0].shape[0], int) else BATCH

    def __call__(self, images: Sequence[np.ndarray], boxes: np.ndarray) -> np.ndarray:
        """(N, 133, 3) x, y in pixels, confidence, of the person in the box (4,) of each of N images.

        Pixels count from the middle of the first. Confidence is above 0 and may exceed 1; where the network knows
        nothing it is 0 or less.
        """
        found = [np.zeros((0, 133, 3))]
        for start in range(0, len(images), self._batch):
            part = slice(start, start + self._batch)
            found.append(self._points(images[part], boxes[part]))
        return np.concatenate(found)

    def _points(self, images: Sequence[np.ndarray], boxes: np.ndarray) -> np.ndarray:
        crops, scales, corners = zip(*map(cropped, images, boxes), strict=True)
        pixels = [((crop - MEAN) / DEVIATION).transpose(2, 0, 1).astype(np.float32) for crop in crops]
        points = np.stack([*map(located, *self._net.run(None, {self._input: np.stack(pixels)}))])
        points[..., :2] = points[..., :2] / np.reshape(scales, (-1, 1, 1)) + np.stack(corners)[:, None]
        return points


def cropped(image: np.ndarray, box: np.ndarray) -> tuple[np.ndarray, float, np.ndarray]:
    """The padded box as (384, 288, 3), the scale from image to crop, and the place (2,) of the crop's pixel 0."""
    width, height = PADDING * (box[2:] - box[:2])
    scale = min(WIDTH / width, HEIGHT / height)
    corner = (box[:2] + box[2:]) / 2 - np.array([WIDTH, HEIGHT]) / 2 / scale
    matrix = np.array([[scale, 0, -scale * corner[0]], [0, scale, -scale * corner[1]]])
    return cv2.warpAffine(image, matrix, (WIDTH, HEIGHT), flags=cv2.INTER_LINEAR), scale, corner


def located(across: np.ndarray, down: np.ndarray) -> np.ndarray:
    """SimCC (K, 576) and (K, 768) -> (K, 3): x, y in pixels of the crop, and the lower of both maxima."""
    score = np.minimum(across.max(axis=1), down.max(axis=1))
    points = np.stack([across.argmax(axis=1), down.argmax(axis=1)], axis=1) / BINS
    points[score <= 0] = -1 / BINS
    return np.column_stack([points, score])

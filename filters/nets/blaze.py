"""Faces, bodies and hands in single images: BlazeFace, FaceMesh, BlazePose and BlazeHand on LiteRT.

The networks are the `.tflite` files of the mediapipe wheel (Apache-2.0); what goes in and what comes out is handled
here. Images are (H, W, 3) uint8 RGB; all boxes and points that leave this file are in pixels of the image.
"""

from dataclasses import dataclass

import numpy as np
from ai_edge_litert.interpreter import Interpreter

from filters import weights
from filters.nets.regions import Region, around, iou, turn, whole

FACE_DETECTION = "mediapipe/face_detection_full_range_sparse.tflite"
FACE_MESH = "mediapipe/face_landmark.tflite"
PERSON_DETECTION = "mediapipe/pose_detection.tflite"
BODY = "mediapipe/pose_landmark_full.tflite"
HAND = "mediapipe/hand_landmark_full.tflite"
WEIGHTS = (FACE_DETECTION, FACE_MESH, PERSON_DETECTION, BODY, HAND)

PALM = [0, 1, 2, 3, 5, 6, 9, 10, 13, 14, 17, 18]  # hand points that move least when fingers bend
HEATMAP_REACH = 3  # cells of the 64 x 64 body heatmap around a point that refine it


class Net:
    """One network with one square image input. Outputs come in the order of their names."""

    def __init__(self, name: str):
        self._net = Interpreter(model_path=str(weights.path(name)), num_threads=1)
        self._net.allocate_tensors()
        (self._input,) = self._net.get_input_details()
        self._outputs = sorted(self._net.get_output_details(), key=lambda out: out["name"])
        self.side = int(self._input["shape"][1])

    def __call__(self, image: np.ndarray, region: Region, low: float) -> list[np.ndarray]:
        """Run on the pixels of `region`, scaled from 0..255 to low..1."""
        crop = region.crop(image, self.side).astype(np.float32)
        crop *= (1 - low) / 255
        crop += low
        self._net.set_tensor(self._input["index"], crop[None])
        self._net.invoke()
        return [self._net.get_tensor(out["index"])[0] for out in self._outputs]


@dataclass(frozen=True)
class Detection:
    """box: (4,) x0, y0, x1, y1. keypoints: (K, 2). Pixels of the image. score: 0 to 1."""

    box: np.ndarray
    keypoints: np.ndarray
    score: float


class Detector:
    """Single-shot detector with anchors of unit size; subclasses say where its anchors stand."""

    weights: str
    strides: dict[int, int]  # stride in pixels -> anchors a cell
    min_score: float

    def __init__(self):
        self._net = Net(self.weights)
        self._anchors = np.concatenate([grid(self._net.side // s, n) for s, n in self.strides.items()])

    def __call__(self, image: np.ndarray, region: Region | None = None) -> list[Detection]:
        """What is seen in `region` (default: the whole image), the best first."""
        region = region or whole(image)
        values, logits = self._net(image, region, low=-1.0)
        scores = sigmoid(logits[:, 0])
        sure = scores >= self.min_score
        values, scores = values[sure] / self._net.side, scores[sure]
        points = values.reshape(len(values), values.shape[1] // 2, 2) + self._anchors[sure][:, None]
        extent = values[:, 2:4] / 2
        points = np.concatenate(
            [points[:, :1] - extent[:, None], points[:, :1] + extent[:, None], points[:, 2:]], axis=1
        )
        found = []
        for merged, score in merge(points, scores):
            pixels = region.to_image(merged)
            found.append(Detection(pixels[:2].reshape(4), pixels[2:], score))
        return found


class FaceDetector(Detector):
    """Keypoints: right eye, left eye (the person's), nose tip, mouth, right ear, left ear. It also fires on dogs."""

    weights = FACE_DETECTION
    strides = {4: 1}
    min_score = 0.5


class PersonDetector(Detector):
    """Keypoints: middle of the hips, a point on the circle around the body, and the same two for the upper body."""

    weights = PERSON_DETECTION
    strides = {8: 2, 16: 2, 32: 6}
    min_score = 0.5


def grid(cells: int, per_cell: int) -> np.ndarray:
    """(cells * cells * per_cell, 2) anchor centres x, y in shares of the input, row by row."""
    y, x = np.mgrid[:cells, :cells]
    centres = (np.stack([x, y], axis=-1).reshape(-1, 2) + 0.5) / cells
    return np.repeat(centres, per_cell, axis=0)


def merge(points: np.ndarray, scores: np.ndarray, overlap: float = 0.3) -> list[tuple[np.ndarray, float]]:
    """Non-maximum suppression that averages what it suppresses, by score.

    points: (N, K, 2), of which the first two are the corners of the box. Returns (K, 2) points and the best score.
    """
    found = []
    left = np.argsort(-scores)
    while len(left):
        boxes = points[left, :2].reshape(-1, 4)
        same = iou(boxes, boxes[0]) > overlap
        same[0] = True
        group = left[same]
        found.append((np.average(points[group], axis=0, weights=scores[group]), float(scores[left[0]])))
        left = left[~same]
    return found


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-np.clip(x, -50, 50)))


@dataclass(frozen=True)
class Face:
    """mesh: (468, 2) pixels. score: the mesh network's own belief that it sees a face."""

    mesh: np.ndarray
    score: float

    @property
    def box(self) -> np.ndarray:
        """(4,) the tight box of the mesh, forehead to chin."""
        return np.concatenate([self.mesh.min(axis=0), self.mesh.max(axis=0)])

    def region(self) -> Region:
        """Where to look for this face in the next frame."""
        return around(self.mesh, self.mesh[33], self.mesh[263], upright=0.0, scale=1.5)


class FaceMesh:
    def __init__(self):
        self._net = Net(FACE_MESH)

    def __call__(self, image: np.ndarray, region: Region) -> Face:
        values, flag = self._net(image, region, low=0.0)
        mesh = values.reshape(-1, 3)[:, :2] / self._net.side
        return Face(region.to_image(mesh), float(sigmoid(flag.ravel()[0])))


def face_region(found: Detection) -> Region:
    """Where the mesh network should look, from a face detection."""
    eyes = found.keypoints
    return around(found.box.reshape(2, 2), eyes[0], eyes[1], upright=0.0, scale=1.5)


@dataclass(frozen=True)
class Body:
    """points: (39, 2) pixels, the 33 BlazePose points and auxiliary ones; they may lie outside the image.

    visible: (39,) 0 to 1, inside the frame and not hidden. score: the network's belief that it sees a body.
    """

    points: np.ndarray
    visible: np.ndarray
    score: float

    def region(self) -> Region:
        """Where to look for this body in the next frame."""
        return spine(self.points[33], self.points[34])


class BodyNet:
    def __init__(self):
        self._net = Net(BODY)

    def __call__(self, image: np.ndarray, region: Region) -> Body:
        values, flag, _, heatmap, _ = self._net(image, region, low=0.0)
        values = values.reshape(39, 5)
        points = refine(values[:, :2] / self._net.side, heatmap)
        visible = sigmoid(values[:, 3]) * sigmoid(values[:, 4])
        return Body(region.to_image(points), visible, float(flag[0]))


def refine(points: np.ndarray, heatmap: np.ndarray) -> np.ndarray:
    """Move (39, 2) points (crop shares) to the local centre of mass of their (64, 64, 39) heatmap, where it is sure."""
    cells, count = heatmap.shape[0], len(points)
    inside = ((points >= 0) & (points < 1)).all(axis=1)
    offsets = np.arange(-HEATMAP_REACH, HEATMAP_REACH + 1)
    near = (points * cells).astype(int)[:, None] + offsets[None, :, None]  # (39, 7, 2) columns and rows
    columns, rows = np.clip(near, 0, cells - 1).transpose(2, 0, 1)
    patch = sigmoid(heatmap[rows[:, :, None], columns[:, None, :], np.arange(count)[:, None, None]])
    within = (near >= 0) & (near < cells)
    patch *= within[:, :, None, 1] & within[:, None, :, 0]
    mass = patch.sum(axis=(1, 2)) + 1e-9
    x = (patch.sum(axis=1) * columns).sum(axis=1) / mass / cells
    y = (patch.sum(axis=2) * rows).sum(axis=1) / mass / cells
    sure = inside & (patch.max(axis=(1, 2)) >= 0.5)
    return np.where(sure[:, None], np.stack([x, y], axis=1), points)


def spine(hips: np.ndarray, circle: np.ndarray) -> Region:
    """The region of a body: a circle around the middle of the hips through a point above the head, and a margin."""
    radius = float(np.hypot(*(circle - hips)))
    return Region(float(hips[0]), float(hips[1]), 2 * radius * 1.25, turn(hips, circle, np.pi / 2))


def body_region(found: Detection) -> Region:
    """Where the body network should look, from a person detection."""
    return spine(found.keypoints[0], found.keypoints[1])


@dataclass(frozen=True)
class Hand:
    """points: (21, 2) pixels. score: the network's belief that it sees a hand."""

    points: np.ndarray
    score: float

    def region(self) -> Region:
        """Where to look for this hand in the next frame."""
        p = self.points
        knuckles = ((p[6] + p[14]) / 2 + p[10]) / 2
        return around(p[PALM], p[0], knuckles, upright=np.pi / 2, scale=1.0).moved(0.0, -0.1, 2.0)


class HandNet:
    def __init__(self):
        self._net = Net(HAND)

    def __call__(self, image: np.ndarray, region: Region) -> Hand:
        values, flag, _, _ = self._net(image, region, low=0.0)
        return Hand(region.to_image(values.reshape(21, 3)[:, :2] / self._net.side), float(flag[0]))


def hand_region(wrist: np.ndarray, index: np.ndarray, pinky: np.ndarray) -> Region:
    """Where the hand network should look, from three points of the body (2,) each."""
    middle = (2 * index + pinky) / 3
    size = 2 * float(np.hypot(*(middle - wrist)))
    return Region(float(middle[0]), float(middle[1]), size, turn(wrist, middle, np.pi / 2)).moved(0.0, -0.1, 2.7)

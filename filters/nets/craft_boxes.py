"""CRAFT's score maps -> words -> lines of text, as EasyOCR 1.7.2 makes them with its own settings.

Source: https://github.com/JaidedAI/EasyOCR (Apache-2.0): getDetBoxes_core, group_text_box and Reader.detect.
"""

from collections.abc import Callable, Sequence
from statistics import fmean
from typing import NamedTuple

import cv2
import numpy as np

TEXT, LINK, LOW = 0.7, 0.4, 0.4  # of a word's best pixel; from which pixels link characters; and are part of one
SMALLEST = 10  # pixels of a word on the maps
SLOPE = 0.1  # of the upper or lower edge of a word, from which it is slanted
NEAR = 0.5  # of the height of text: below it, words of a line differ in place, in height, and in the gap between them
MARGIN = 0.1  # of the shorter side, around a line
SHORTEST = 20  # px of the image; what has no longer side is dropped


class Box(NamedTuple):
    left: int
    top: int
    right: int
    bottom: int

    @property
    def height(self) -> int:
        return self.bottom - self.top

    @property
    def middle(self) -> float:
        return (self.top + self.bottom) / 2


def words(characters: np.ndarray, links: np.ndarray) -> np.ndarray:
    """Score maps (h, w) -> (N, 4, 2) corners of the smallest rectangle around each word, in their pixels.

    Corners go round clockwise from the top left one.
    """
    text, link = characters > LOW, links > LINK
    count, labels, stats, _ = cv2.connectedComponentsWithStats((text | link).astype(np.uint8), connectivity=4)
    found = []
    for label in range(1, count):
        x, y, width, height, size = (int(value) for value in stats[label])
        part = labels == label
        if size < SMALLEST or characters[part].max() < TEXT:
            continue
        grow = int(2 * np.sqrt(size * min(width, height) / (width * height)))
        rows = slice(max(0, y - grow), y + height + grow + 1)
        columns = slice(max(0, x - grow), x + width + grow + 1)
        inner = (part & text)[rows, columns].astype(np.uint8)  # a link is no part of a word
        grown = cv2.dilate(inner, np.ones((1 + grow, 1 + grow), np.uint8))
        down, across = np.nonzero(grown)
        found.append(rectangle(np.column_stack([across + columns.start, down + rows.start]).astype(np.int32)))
    return np.array(found, np.float32).reshape(-1, 4, 2)


def rectangle(points: np.ndarray) -> np.ndarray:
    """(N, 2) int32 -> (4, 2) corners of the smallest rectangle around them."""
    corners = cv2.boxPoints(cv2.minAreaRect(points))
    sides = np.linalg.norm(corners[0] - corners[1]), np.linalg.norm(corners[1] - corners[2])
    if abs(1 - max(sides) / (min(sides) + 1e-5)) <= 0.1:  # a square that stands on a corner is an upright word
        corners = upright(*points.min(axis=0), *points.max(axis=0))
    return np.roll(corners, -int(corners.sum(axis=1).argmin()), axis=0)


def upright(left: int, top: int, right: int, bottom: int) -> np.ndarray:
    return np.array([[left, top], [right, top], [right, bottom], [left, bottom]], np.float32)


def lines(corners: np.ndarray) -> np.ndarray:
    """(N, 4, 2) words in pixels of the image -> (M, 4, 2) lines of text.

    A slanted word is a line by itself, here without the margin that EasyOCR gives it.
    """
    corners = corners.astype(np.int32)
    edges = corners[:, [1, 2]] - corners[:, [0, 3]]  # upper, lower
    level = (np.abs(edges[..., 1]) / np.maximum(10, edges[..., 0])).max(axis=1) < SLOPE
    boxes = [Box(*word.min(axis=0).tolist(), *word.max(axis=0).tolist()) for word in corners[level]]
    joined = [
        enclosing(line)
        for row in grouped(sorted(boxes, key=lambda box: box.middle), beside)
        for line in grouped(sorted(row, key=lambda box: box.left), follows)
    ]
    found = [line for line in (*corners[~level], *joined) if np.ptp(line, axis=0).max() > SHORTEST]
    return np.array(found, np.float32).reshape(-1, 4, 2)


def grouped(boxes: Sequence[Box], joins: Callable[[list[Box], Box], bool]) -> list[list[Box]]:
    """Boxes in order, each in the group of the one before it or in one of its own."""
    groups: list[list[Box]] = []
    for box in boxes:
        if groups and joins(groups[-1], box):
            groups[-1].append(box)
        else:
            groups.append([box])
    return groups


def beside(row: list[Box], box: Box) -> bool:
    return abs(fmean(it.middle for it in row) - box.middle) < NEAR * fmean(it.height for it in row)


def follows(line: list[Box], box: Box) -> bool:
    height = fmean(it.height for it in line)
    return abs(height - box.height) < NEAR * height and box.left - line[-1].right < NEAR * box.height


def enclosing(line: list[Box]) -> np.ndarray:
    """(4, 2) corners of the box around all, with its margin."""
    left, top = min(box.left for box in line), min(box.top for box in line)
    right, bottom = max(box.right for box in line), max(box.bottom for box in line)
    margin = int(MARGIN * min(right - left, bottom - top))
    return upright(left - margin, top - margin, right + margin, bottom + margin)

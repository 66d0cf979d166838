"""Draw tracks: the DWPose control picture that conditions training and sampling, and overlays for people to look at."""

import colorsys
from collections.abc import Sequence

import cv2
import numpy as np

from dataset.tracks import BODY, FACE, LEFT_HAND, RIGHT_HAND, Tracks

SEEN = 0.3  # confidence from which a keypoint is drawn
BRIDGE = 0.5  # seconds between two sampled frames above which nothing is interpolated

Colour = tuple[int, int, int]

# Limbs of OpenPose-18 in the order of its colours: arms, legs, head.
LIMBS = (
    *((1, 2), (1, 5), (2, 3), (3, 4), (5, 6), (6, 7), (1, 8), (8, 9), (9, 10)),
    *((1, 11), (11, 12), (12, 13), (1, 0), (0, 14), (14, 16), (0, 15), (15, 17)),
)
# A hand is its wrist (0) and four joints for each of five fingers.
BONES = tuple(
    (0 if joint == 0 else 4 * finger + joint, 4 * finger + joint + 1) for finger in range(5) for joint in range(4)
)


def hues(count: int) -> list[Colour]:
    """`count` RGB colours once around the hue circle."""
    return [tuple(round(255 * c) for c in colorsys.hsv_to_rgb(i / count, 1.0, 1.0)) for i in range(count)]  # type: ignore[misc]


BODY_COLOURS, HAND_COLOURS = hues(18), hues(len(BONES))


def draw_pose(tracks: Tracks, time: float, height: int, width: int) -> np.ndarray:
    """(height, width, 3) uint8 RGB: everybody's skeleton at `time` (seconds from the clip's start) on black."""
    canvas = np.zeros((height, width, 3), np.uint8)
    _draw_people(canvas, tracks, time)
    return canvas


def draw_overlay(image: np.ndarray, tracks: Tracks, time: float) -> np.ndarray:
    """A copy of the (H, W, 3) uint8 RGB picture with everybody's skeleton, body box (green) and face box (yellow)."""
    canvas = image.copy()
    _draw_people(canvas, tracks, time)
    size = np.tile([image.shape[1], image.shape[0]], 2)
    frame = tracks.at(time)
    for boxes, colour in ((tracks.boxes, (0, 255, 0)), (tracks.faces, (255, 255, 0))):
        for box in boxes[:, frame][np.isfinite(boxes[:, frame, 0])] * size:
            x0, y0, x1, y1 = (int(v) for v in box.round())
            cv2.rectangle(canvas, (x0, y0), (x1, y1), colour, max(1, min(image.shape[:2]) // 250))
    return canvas


def at_time(tracks: Tracks, time: float) -> np.ndarray:
    """(P, 128, 3) keypoints at `time`, interpolated between the sampled frames around it.

    A keypoint seen in one of them only takes that one's place, with its confidence fading over to the other's 0.
    """
    after = int(np.searchsorted(tracks.times, time))
    before = max(after - 1, 0)
    after = min(after, len(tracks.times) - 1)
    a, b = tracks.keypoints[:, before], tracks.keypoints[:, after]
    gap = tracks.times[after] - tracks.times[before]
    if gap <= 0 or gap > BRIDGE:
        return tracks.keypoints[:, tracks.at(time)]
    share = float(np.clip((time - tracks.times[before]) / gap, 0, 1))
    mixed = (1 - share) * a + share * b
    lone_a, lone_b = (a[..., 2] > 0) & (b[..., 2] == 0), (b[..., 2] > 0) & (a[..., 2] == 0)
    mixed[lone_a, :2], mixed[lone_b, :2] = a[lone_a, :2], b[lone_b, :2]
    return mixed


def _draw_people(canvas: np.ndarray, tracks: Tracks, time: float) -> None:
    if not len(tracks.ids) or not len(tracks.times):
        return
    height, width = canvas.shape[:2]
    thickness = max(1, round(min(height, width) / 128))
    for person in at_time(tracks, time):
        points = person[:, :2] * (width, height)
        seen = person[:, 2] >= SEEN
        _draw_body(canvas, points[BODY], seen[BODY], thickness)
        for hand in (LEFT_HAND, RIGHT_HAND):
            radius = dot_radius(points[hand][seen[hand]], thickness / 2)
            _draw_lines(canvas, points[hand], seen[hand], BONES, HAND_COLOURS, radius)
            _draw_dots(canvas, points[hand], seen[hand], [(0, 0, 255)] * 21, radius)
        radius = dot_radius(points[FACE][seen[FACE]], thickness / 2)
        _draw_dots(canvas, points[FACE], seen[FACE], [(255, 255, 255)] * 68, radius)


def dot_radius(points: np.ndarray, most: float) -> int:
    """Radius in pixels for the dots of a face or hand: at most 1/40 of its size, so that small ones stay readable."""
    return max(1, round(min(most, float(np.ptp(points, axis=0).max()) / 40))) if len(points) else 1


def _draw_body(canvas: np.ndarray, points: np.ndarray, seen: np.ndarray, thickness: int) -> None:
    """Limbs as ellipses at 60 % of their colour, as OpenPose draws them, then joints in full colour."""
    for (a, b), colour in zip(LIMBS, BODY_COLOURS, strict=False):
        if seen[a] and seen[b]:
            (x, y), (dx, dy) = (points[a] + points[b]) / 2, points[b] - points[a]
            axes = (int(np.hypot(dx, dy) / 2), thickness)
            turned = round(float(np.degrees(np.arctan2(dy, dx))))
            outline = cv2.ellipse2Poly((round(float(x)), round(float(y))), axes, turned, 0, 360, 10)
            cv2.fillConvexPoly(canvas, np.array(outline, np.int32), [int(0.6 * c) for c in colour])
    _draw_dots(canvas, points, seen, BODY_COLOURS, thickness)


def _draw_lines(
    canvas: np.ndarray,
    points: np.ndarray,
    seen: np.ndarray,
    edges: Sequence[tuple[int, int]],
    colours: Sequence[Colour],
    thickness: int,
) -> None:
    for (a, b), colour in zip(edges, colours, strict=True):
        if seen[a] and seen[b]:
            start, end = points[[a, b]].round().astype(int).tolist()
            cv2.line(canvas, start, end, colour, thickness, cv2.LINE_AA)


def _draw_dots(
    canvas: np.ndarray, points: np.ndarray, seen: np.ndarray, colours: Sequence[Colour], radius: int
) -> None:
    for n in np.flatnonzero(seen).tolist():
        cv2.circle(canvas, points[n].round().astype(int).tolist(), radius, colours[n], -1, cv2.LINE_AA)

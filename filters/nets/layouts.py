"""Keypoints of COCO and COCO-WholeBody in the layout of tracks, and the face boxes that go with them.

Points are (..., K, 3): x, y in pixels, confidence.
"""

import numpy as np

from dataset.tracks import BODY, FACE

SEEN = 0.3  # confidence from which DWPose draws a point

# COCO-17 -> OpenPose-18. The neck (1) is the middle of the shoulders and is filled in afterwards.
BODY_FROM_COCO = [0, 0, 6, 8, 10, 5, 7, 9, 12, 14, 16, 11, 13, 15, 2, 1, 4, 3]
NECK = 1
SHOULDERS = [5, 6]  # of COCO
# COCO-WholeBody-133: COCO-17, six points of the feet, which tracks don't hold, 68 of the face, 21 of either hand.
WHOLE_BODY = slice(0, 17)
FACE_AND_HANDS = slice(23, 133)

NOSE, EYES, EARS = 0, [14, 15], [16, 17]  # of OpenPose
# Face boxes of the pose filter are those of FaceMesh, from the hairline to the chin. Over 199 faces of 20 real clips
# its upper edge lay 0.19 heights of the 68 points above them (0.15 to 0.22 for most), and the others on them.
FOREHEAD = 0.19
# On the same faces, in heights of the box: its width, how far its middle lies below that of eyes and nose, and the
# distances that give the height away. In profile the eyes are close to each other, but not to the nose.
HEAD_WIDTH, HEAD_DROP = 0.84, 0.105
BETWEEN_EYES, EYES_TO_NOSE, BETWEEN_EARS = 0.38, 0.28, 0.82


def from_coco(points: np.ndarray) -> np.ndarray:
    """COCO (..., 17, 3) -> OpenPose (..., 18, 3). A neck needs both shoulders, and is as sure as the less sure one."""
    joints = points[..., BODY_FROM_COCO, :]
    shoulders = points[..., SHOULDERS, :]
    sure = shoulders[..., 2].min(axis=-1)
    joints[..., NECK, :2] = shoulders[..., :2].mean(axis=-2)
    joints[..., NECK, 2] = np.where(sure > SEEN, sure, 0)
    return joints


def from_whole_body(points: np.ndarray) -> np.ndarray:
    """COCO-WholeBody (..., 133, 3) -> (..., 128, 3)."""
    return np.concatenate([from_coco(points[..., WHOLE_BODY, :]), points[..., FACE_AND_HANDS, :]], axis=-2)


def face_box(joints: np.ndarray) -> np.ndarray | None:
    """(4,) the box of the face of one person (128, 3); None where it isn't seen.

    It is seen where half of its points are; where they were not looked for, where nose and both eyes are.
    """
    face = joints[FACE]
    if not face[:, 2].any():
        return head_box(joints[BODY])
    if np.median(face[:, 2]) < SEEN:
        return None
    low, high = face[:, :2].min(axis=0), face[:, :2].max(axis=0)
    return np.array([low[0], low[1] - FOREHEAD * (high[1] - low[1]), high[0], high[1]])


def head_box(body: np.ndarray) -> np.ndarray | None:
    """(4,) where the face of an OpenPose body (18, 3) would be. Half of them overlap the true box by 0.81 and more."""
    middle = [NOSE, *EYES]
    if (body[middle, 2] < SEEN).any():
        return None
    eyes = body[EYES, :2]
    sizes = [
        distance(*eyes) / BETWEEN_EYES,
        distance(eyes.mean(axis=0), body[NOSE, :2]) / EYES_TO_NOSE,
        distance(*body[EARS, :2]) / BETWEEN_EARS if (body[EARS, 2] >= SEEN).all() else 0.0,
    ]
    height = max(sizes)
    half = np.array([HEAD_WIDTH, 1.0]) * height / 2
    centre = body[middle, :2].mean(axis=0) + np.array([0, HEAD_DROP * height])
    return np.concatenate([centre - half, centre + half])


def distance(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.hypot(*(a - b)))

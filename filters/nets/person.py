"""One tracked person, and how faces and bodies are told to belong together."""

from dataclasses import dataclass, field

import numpy as np

from filters.nets.blaze import Body, Face, Hand
from filters.nets.regions import Region

NEVER = -np.inf
SURE = 0.5  # flags of the landmark networks; the networks are trained for it
NOSE = 0
TRUNK = [0, 11, 12, 23, 24]


@dataclass(eq=False)
class Person:
    """One person, and everything seen of them by frame number."""

    id: int
    seen: float  # seconds, the last time anything of them was seen
    faces: dict[int, Face] = field(default_factory=dict)
    bodies: dict[int, Body] = field(default_factory=dict)
    hands: dict[str, dict[int, Hand]] = field(default_factory=lambda: {"left": {}, "right": {}})
    face: Face | None = None  # what is being followed now
    face_seen: float = NEVER
    face_confirmed: float = NEVER  # seconds, the last time a detector agreed
    face_confirmed_frame: int = 0
    body: Body | None = None
    body_seen: float = NEVER
    hand: dict[str, Hand | None] = field(default_factory=lambda: {"left": None, "right": None})
    hand_missed: dict[str, float] = field(default_factory=dict)  # seconds, the last time it was looked for in vain


def distance(a: np.ndarray, b: np.ndarray) -> float:
    """Mean distance between two (N, 2) sets of points."""
    return float(np.hypot(*(a - b).T).mean())


def area(box: np.ndarray) -> float:
    return float((box[2] - box[0]) * (box[3] - box[1]))


def same_body(a: Body, b: Body, share: float = 0.06) -> bool:
    """Do their trunks coincide, up to a share of the body's region (which is about 2.3 m wide)?"""
    return distance(a.points[TRUNK], b.points[TRUNK]) < share * max(a.region().size, b.region().size)


def same_region(a: Region, b: Region) -> bool:
    """Would both show the same body? Detections are rougher than landmarks, so this is generous in size."""
    return np.hypot(a.cx - b.cx, a.cy - b.cy) < 0.12 * min(a.size, b.size) and 0.6 < a.size / b.size < 1.7


def nose_in(body: Body, face: Face) -> bool:
    """Does the body's nose lie on the face or within half a face of it?"""
    box = face.box.reshape(2, 2)
    margin = np.ptp(box, axis=0) / 2
    nose = body.points[NOSE]
    return bool((nose > box[0] - margin).all() and (nose < box[1] + margin).all())


def fits(body: Body, face: Face) -> bool:
    """Are the two of one size? Real ones were measured to differ by 0.65 to 1.15 from `region_below`."""
    return 0.55 < body.region().size / region_below(face).size < 1.8


def agrees(body: Body, face: Face | None) -> bool:
    """A body that shows its nose away from the face it belongs to has slid onto somebody or something else."""
    return face is None or (fits(body, face) and (body.visible[NOSE] < SURE or nose_in(body, face)))


def region_below(face: Face) -> Region:
    """Where the body of an upright person with this face would be: hips 0.66 m below a face 0.18 m high."""
    x0, y0, x1, y1 = face.box
    height = max(y1 - y0, 1.25 * (x1 - x0))
    return Region(float(x0 + x1) / 2, float(y0 + y1) / 2 + 3.7 * height, 12.5 * height)

"""Which pixels new speech may change, and whether a picture shows a face at all."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise, product

import cv2
import numpy as np

from dataset.tracks import FACE, Tracks
from filters.faces import visible
from filters.nets.blaze import Detection, Face, FaceDetector, FaceMesh, face_region
from filters.nets.people import PeopleTracker
from filters.nets.person import SURE, Person
from filters.nets.regions import Region, iou
from filters.pose import FACE_ALONE, to_tracks
from model.errors import InputError

MAX_PEOPLE = 4
LOOK_EVERY = 0.36  # seconds between looks for new faces, and for the bodies that confirm them
MOUTH_FOUND = 3  # of the detector's keypoints
INNER_LIPS = [13, 14]  # of the mesh
SLID = 0.15  # face heights between the two from which a mesh is wrong; on talkers they were up to 0.1 apart

JAW = slice(3, 14)  # iBUG points: from below one ear over the chin to below the other
CHIN = slice(6, 11)
UNDER_NOSE = slice(31, 36)
LIPS = slice(48, 60)  # in profile they stand out
BRIDGE, CHIN_TIP = 27, 8  # top of the nose and tip of the chin: the face height between them is the unit of `DROP`
DROP = 0.12  # how far a jaw may open further than in the picture; shut to wide open was measured to be 0.12
GAP = 0.5  # seconds without the face over which its outline is interpolated
NEIGHBOURS = 2  # frames to either side whose outline a mask covers too
MARGIN, FEATHER = 0.06, 0.16  # widths around the outline, in roots of its area: of 1, and of the way from 1 to 0


@dataclass(frozen=True)
class Mouths:
    """The lower face of one speaker in each of N frames.

    outlines: (N, K, 2) points whose convex hull it fills, as shares of the frame; NaN where it is not seen.
    """

    outlines: np.ndarray

    @property
    def seen(self) -> np.ndarray:
        """(N,) bool: does the frame show the face, or lie in a short gap between frames that do?"""
        return np.isfinite(self.outlines[:, 0, 0])

    @property
    def share(self) -> float:
        """Share of the frames in which it is seen."""
        return float(self.seen.mean())

    def masks(self, start: int, stop: int, height: int, width: int) -> np.ndarray:
        """(stop - start, height, width) float32 of the frames from `start`: 1 over the lower face, 0 where unseen."""
        masks = np.zeros((stop - start, height, width), np.float32)
        for frame in np.flatnonzero(self.seen[start:stop]):
            pixels = self.outlines[start + frame] * (width, height) - 0.5
            masks[frame] = soft(cv2.convexHull(pixels.astype(np.float32)), height, width)
        return masks


def track_mouths(images: Sequence[np.ndarray], times: np.ndarray, person: int | None = None) -> Mouths:
    """Follow the lower face of a speaker through N frames (H, W, 3) uint8 RGB at (N,) seconds.

    The short side of the frames should be about that of `filters.pose.FRAMES`. person: 0 or None for the face that
    fills most of the picture over time, 1 for the next. Raises InputError where there is no such face.
    """
    tracker = PeopleTracker(MAX_PEOPLE)
    people = tracker.follow(images, times, LOOK_EVERY, LOOK_EVERY)
    put_back(people, images, tracker.find_faces, tracker.mesh)
    height, width = images[0].shape[:2]
    tracks = to_tracks(people, times, width, height)
    faces, chosen = by_size(tracks), person or 0
    if not len(faces):
        raise InputError(
            "No face was found in any frame of the video: give one that shows the speaker's face from the front, "
            "upright, and at least a tenth of the picture high."
        )
    if not 0 <= chosen < len(faces):
        raise InputError(
            f"The video shows {len(faces)} face(s), counted from 0 by size: there is no person {chosen}; give a "
            f"number up to {len(faces) - 1}."
        )
    points = tracks.keypoints[faces[chosen], :, FACE, :2]
    points[~visible(tracks)[faces[chosen]]] = np.nan
    return Mouths(steadied(bridged(outline(points), times)))


def put_back(people: list[Person], images: Sequence[np.ndarray], find: FaceDetector, mesh: FaceMesh) -> None:
    """Move faces back whose mesh slid onto the neck when the head jerked.

    The mesh stays sure of itself there. The detector remembers nothing, so it is asked about every frame.
    """
    for i, image in enumerate(images):
        found = find(image)
        for person in people:
            if not found or i not in person.faces:
                continue
            face = person.faces[i]
            nearest = max(found, key=lambda f: iou(f.box, face.box))
            if iou(nearest.box, face.box) > 0.1 and far(nearest.keypoints[MOUTH_FOUND], face):
                fresh = look_twice(mesh, image, nearest)
                if fresh.score >= SURE and far(lips(fresh), face):
                    person.faces[i] = fresh


def far(mouth: np.ndarray, face: Face) -> bool:
    """Does a mouth found at (2,) pixels contradict the face's mesh?"""
    return math.dist(mouth, lips(face)) > SLID * (face.box[3] - face.box[1])


def lips(face: Face) -> np.ndarray:
    return face.mesh[INNER_LIPS].mean(axis=0)


def look_twice(mesh: FaceMesh, image: np.ndarray, found: Detection) -> Face:
    """The mesh of a detected face; detections are so rough that the first look only says where to look."""
    return mesh(image, mesh(image, face_region(found)).region())


def by_size(tracks: Tracks) -> np.ndarray:
    """Indices of the people whose face is seen, the one first that fills the most picture over time."""
    x0, y0, x1, y1 = np.moveaxis(tracks.faces, 2, 0)
    area = np.nansum((x1 - x0) * (y1 - y0), axis=1)
    return np.argsort(-area)[: np.count_nonzero(area)]


def outline(points: np.ndarray) -> np.ndarray:
    """(N, 68, 2) iBUG points -> (N, K, 2) points around all that speech moves, with room for the chin to drop."""
    drop = DROP * (points[:, CHIN_TIP] - points[:, BRIDGE])[:, None]
    return np.concatenate([points[:, UNDER_NOSE], points[:, LIPS], points[:, JAW], points[:, CHIN] + drop], axis=1)


def bridged(outlines: np.ndarray, times: np.ndarray) -> np.ndarray:
    """(N, K, 2) outlines, interpolated over gaps of at most `GAP` seconds."""
    seen = np.flatnonzero(np.isfinite(outlines[:, 0, 0]))
    filled = outlines.copy()
    for a, b in pairwise(seen):
        if b - a > 1 and times[b] - times[a] <= GAP:
            share = ((times[a + 1 : b] - times[a]) / (times[b] - times[a]))[:, None, None]
            filled[a + 1 : b] = (1 - share) * outlines[a] + share * outlines[b]
    return filled


def steadied(outlines: np.ndarray) -> np.ndarray:
    """(N, K, 2) outlines -> (N, 5K, 2), each with those of its neighbours in time.

    They are laid over each other at the nose: the mask follows the head, and does not shrink with the lips.
    """
    nose = outlines[:, : UNDER_NOSE.stop - UNDER_NOSE.start].mean(axis=1, keepdims=True)
    shapes = outlines - nose
    padded = np.pad(shapes, ((NEIGHBOURS, NEIGHBOURS), (0, 0), (0, 0)), constant_values=np.nan)
    near = np.stack([padded[k : k + len(shapes)] for k in range(2 * NEIGHBOURS + 1)], axis=1)
    near = np.where(np.isfinite(near), near, shapes[:, None])
    return (near + nose[:, None]).reshape(len(outlines), -1, 2)


def soft(hull: np.ndarray, height: int, width: int) -> np.ndarray:
    """(height, width) float32: 1 in the convex polygon of (K, 1, 2) pixels and its margin, then smoothly down to 0."""
    outside = np.ones((height, width), np.uint8)
    cv2.fillConvexPoly(outside, hull.round().astype(np.int32), (0,))
    size = math.sqrt(cv2.contourArea(hull))
    way = np.clip((cv2.distanceTransform(outside, cv2.DIST_L2, 5) / size - MARGIN) / FEATHER, 0, 1)
    return 1 - way * way * (3 - 2 * way)


def has_face(image: np.ndarray) -> bool:
    """Does a still picture (H, W, 3) uint8 RGB show a face, at least about 1/30 of its longer side high?"""
    find, mesh = FaceDetector(), FaceMesh()
    return any(confirmed(mesh, image, found) for region in looks(image) for found in find(image, region))


def looks(image: np.ndarray) -> Iterator[Region | None]:
    """The whole picture, then squares of half its longer side. Looking closer was measured to take digits for faces."""
    yield None
    height, width = image.shape[:2]
    size = max(height, width) / 2
    for y, x in product(*(np.linspace(size / 2, side - size / 2, 3) for side in (height, width))):
        yield Region(float(x), float(y), size)


def confirmed(mesh: FaceMesh, image: np.ndarray, found: Detection) -> bool:
    face = look_twice(mesh, image, found)
    return face.score >= FACE_ALONE and bool(iou(face.box, found.box) >= 0.2)

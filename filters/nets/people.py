"""Follow several people through the frames of one shot: faces by their mesh, bodies and hands by their landmarks.

Between detections each network looks where the landmarks of the last frame were. Detectors find new people and
confirm old ones, so that a tracker that sits on nothing is dropped together with what it saw since it was confirmed.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from filters.nets.blaze import (
    Body,
    BodyNet,
    Detection,
    Face,
    FaceDetector,
    FaceMesh,
    Hand,
    HandNet,
    PersonDetector,
    body_region,
    face_region,
    hand_region,
)
from filters.nets.person import (
    SURE,
    Person,
    agrees,
    area,
    distance,
    fits,
    nose_in,
    region_below,
    same_body,
    same_region,
)
from filters.nets.regions import Region, iou

RETRY = 0.4  # seconds that a lost face or body is looked for in its last place
FORGET = 2.0  # seconds after which a person seen again in the same place is somebody new
CERTAIN = 0.98  # score from which a face is believed against a body that does not fit it
STILL = 0.06  # share of its region that a face may move between frames without a second look
CONFIRM = 1.0  # seconds that a face may go without the face detector seeing it
HAND_PAUSE = 0.3  # seconds until a hand that was not found is looked for again: most talkers' hands are out of sight
SMALLEST_HAND = 24  # pixels of a hand's region below which its fingers can't be told apart
HEAD = list(range(11))
WRIST_INDEX_PINKY = {"left": (15, 19, 17), "right": (16, 20, 18)}


class PeopleTracker:
    """Networks and thresholds; `follow` keeps no state between clips."""

    def __init__(self, max_people: int):
        self.max_people = max_people
        self.find_faces, self.find_people = FaceDetector(), PersonDetector()
        self.mesh, self.body, self.hand = FaceMesh(), BodyNet(), HandNet()

    def follow(
        self, images: Sequence[np.ndarray], times: np.ndarray, body_every: float, detect_every: float
    ) -> list[Person]:
        """Everybody in N frames (H, W, 3) at (N,) seconds; bodies and detections at least those seconds apart."""
        everybody: list[Person] = []
        next_body = next_faces = next_people = times[0] if len(times) else 0.0
        for i, (image, time) in enumerate(zip(images, times, strict=True)):
            live = [p for p in everybody if time - p.seen <= FORGET]
            scene = Scene(self, image, i, float(time), live)
            at_body, at_faces, at_people = time >= next_body, time >= next_faces, time >= next_people
            scene.follow_faces()
            if at_body:
                next_body = due(next_body, time, body_every)
                scene.follow_bodies()
            if at_faces:
                next_faces = due(next_faces, time, detect_every)
                scene.detect_faces()
            if at_people:
                # Every second time: most people are found by their faces, and this is the dearest network.
                next_people = due(next_people, time, 2 * detect_every)
                scene.detect_bodies()
            if at_faces:
                scene.bodies_from_faces()
                scene.faces_from_bodies()
            scene.separate()
            for person in scene.live:
                if person not in everybody:
                    person.id = len(everybody)
                    everybody.append(person)
        return everybody


def due(last: float, now: float, every: float) -> float:
    """The next time on a regular beat; frames that come late do not shift the beat."""
    return last + every * (np.floor((now - last) / every + 1e-6) + 1) - 1e-3


@dataclass
class Scene:
    """One frame, and the people who may be in it."""

    nets: PeopleTracker
    image: np.ndarray
    index: int
    time: float
    live: list[Person]

    def follow_faces(self) -> None:
        for person in self.live:
            if person.face is None:
                continue
            face = self._look_at_face(person.face.region())
            if face.score >= SURE:
                self._saw_face(person, face)
            elif self.time - person.face_seen > RETRY:
                person.face = None

    def follow_bodies(self) -> None:
        for person in self.live:
            if person.body is None:
                continue
            body = self.nets.body(self.image, person.body.region())
            if body.score >= SURE and agrees(body, person.face):
                self._saw_body(person, body)
            elif self.time - person.body_seen > RETRY:
                person.body = None

    def detect_faces(self) -> None:
        """Confirm the faces being followed, find new ones, drop those that no detector has seen for too long."""
        for found in sorted(self.nets.find_faces(self.image), key=lambda f: -area(f.box)):
            self._take_face(found)
        for person in self.live:
            if person.face is None or person.face_confirmed == self.time:
                continue
            closer = person.face.region()  # small and turned faces are found on a closer look
            for found in self.nets.find_faces(self.image, Region(closer.cx, closer.cy, closer.size * 2, closer.angle)):
                if iou(found.box, person.face.box) > 0.2:
                    self._confirm(person)
            if self.time - person.face_confirmed > CONFIRM:
                person.faces = {i: f for i, f in person.faces.items() if i <= person.face_confirmed_frame}
                person.face = None

    def detect_bodies(self) -> None:
        for found in sorted(self.nets.find_people(self.image), key=lambda f: -area(f.box)):
            region = body_region(found)
            if not any(p.body and same_region(p.body.region(), region) for p in self.live):
                self._take_body(region)

    def bodies_from_faces(self) -> None:
        """A face without a body: look for one below it, where a person's body would be."""
        for person in self.live:
            if person.face is not None and person.body is None and person.face_seen == self.time:
                self._take_body(region_below(person.face), person)

    def faces_from_bodies(self) -> None:
        """A body without a face: look closer where its head is."""
        for person in self.live:
            if person.face is None and person.body is not None and person.body_seen == self.time:
                head = person.body.points[HEAD]
                size = 4 * max(float(np.ptp(head, axis=0).max()), 8.0)
                centre = head.mean(axis=0)
                for found in self.nets.find_faces(self.image, Region(float(centre[0]), float(centre[1]), size)):
                    self._take_face(found)

    def separate(self) -> None:
        """Two trackers that slid onto the same face or body: the one that was there first keeps it."""
        for n, first in enumerate(self.live):
            for second in self.live[n + 1 :]:
                if first.face and second.face and iou(first.face.box, second.face.box) > 0.5:
                    second.faces.pop(self.index, None)
                    second.face = None
                if first.body and second.body and same_body(first.body, second.body):
                    stranger = first if second.face and not first.face else second
                    self._forget_body(stranger)

    def _look_at_face(self, region: Region) -> Face:
        """The mesh lags behind a face that is far from the middle of its region: look again where it was found."""
        face = self.nets.mesh(self.image, region)
        found = face.region()
        moved = np.hypot(found.cx - region.cx, found.cy - region.cy)
        return self.nets.mesh(self.image, found) if face.score >= SURE and moved > STILL * region.size else face

    def _take_face(self, found: Detection) -> None:
        """A detection counts when the mesh network agrees; it belongs to the person it fits, else to a new one."""
        for person in self.live:
            if person.face is not None and iou(found.box, person.face.box) > 0.3 and person.face_seen == self.time:
                self._confirm(person)
                return
        face = self._look_at_face(face_region(found))
        if face.score < SURE or iou(face.box, found.box) < 0.2:
            return
        owner = self._owner_of_face(face)
        if owner is not None:
            self._saw_face(owner, face)
            self._confirm(owner)

    def _owner_of_face(self, face: Face) -> Person | None:
        for person in self.live:
            if person.face is not None and iou(person.face.box, face.box) > 0.2:
                return person  # followed, but lost in this frame
        for person in self.live:
            if person.face_seen < self.time and person.body is not None and nose_in(person.body, face):
                if not fits(person.body, face):
                    if face.score < CERTAIN:
                        return None
                    self._forget_bodies_since_face(person)
                return person
        for person in self.live:
            last = person.faces[max(person.faces)] if person.faces else None
            if person.face is None and person.body is None and last and iou(last.box, face.box) > 0.1:
                return person  # hidden for a moment
        return self._newcomer()

    def _take_body(self, region: Region, person: Person | None = None) -> None:
        body = self.nets.body(self.image, region)
        if body.score >= SURE:
            body = self.nets.body(self.image, body.region())  # the first look was only roughly in place
        if body.score < SURE:
            return
        if any(p.body and p is not person and same_body(p.body, body) for p in self.live):
            return
        if person is None:
            owner = self._owner_of_body(body)
        else:
            owner = person if agrees(body, person.face) else None
        if owner is not None:
            self._saw_body(owner, body)

    def _owner_of_body(self, body: Body) -> Person | None:
        for person in self.live:
            if person.face is not None and nose_in(body, person.face):
                return person if person.body is None and fits(body, person.face) else None
        for person in self.live:
            last = person.bodies[max(person.bodies)] if person.bodies else None
            if person.body is None and person.face is None and last and same_body(last, body, 0.2):
                return person
        return self._newcomer()

    def _newcomer(self) -> Person | None:
        if sum(p.face is not None or p.body is not None for p in self.live) >= self.nets.max_people:
            return None
        person = Person(id=-1, seen=self.time)
        self.live.append(person)
        return person

    def _confirm(self, person: Person) -> None:
        person.face_confirmed, person.face_confirmed_frame = self.time, self.index

    def _saw_face(self, person: Person, face: Face) -> None:
        person.face = person.faces[self.index] = face
        person.seen = person.face_seen = self.time

    def _saw_body(self, person: Person, body: Body) -> None:
        person.body = person.bodies[self.index] = body
        person.seen = person.body_seen = self.time
        for side, joints in WRIST_INDEX_PINKY.items():
            if self.time - person.hand_missed.get(side, -HAND_PAUSE) < HAND_PAUSE:
                continue
            last = person.hand[side]
            person.hand[side] = self._hand(body, last, *joints)
            if person.hand[side] is None and last is None:
                person.hand_missed[side] = self.time
        self._settle_hands(person, body)

    def _hand(self, body: Body, last: Hand | None, wrist: int, index: int, pinky: int) -> Hand | None:
        height, width = self.image.shape[:2]
        x, y = body.points[wrist]
        if body.visible[wrist] < SURE or not (0 <= x < width and 0 <= y < height):
            return None
        guess = hand_region(body.points[wrist], body.points[index], body.points[pinky])
        if guess.size < SMALLEST_HAND:
            return None
        near = last is not None and float(np.hypot(*(last.points[0] - (x, y)))) < last.region().size / 2
        hand = self.nets.hand(self.image, last.region() if last and near else guess)
        if not near and hand.score >= SURE:
            hand = self.nets.hand(self.image, hand.region())
        reach = max(guess.size, hand.region().size) / 2
        return hand if hand.score >= SURE and float(np.hypot(*(hand.points[0] - (x, y)))) < reach else None

    def _settle_hands(self, person: Person, body: Body) -> None:
        """Both hand trackers on one hand: it belongs to the nearer wrist."""
        left, right = person.hand["left"], person.hand["right"]
        if left and right and distance(left.points, right.points) < left.region().size / 6:
            off_left = distance(left.points[:1], body.points[[WRIST_INDEX_PINKY["left"][0]]])
            off_right = distance(right.points[:1], body.points[[WRIST_INDEX_PINKY["right"][0]]])
            person.hand["left" if off_left > off_right else "right"] = None
        for side, hand in person.hand.items():
            if hand:
                person.hands[side][self.index] = hand

    def _forget_bodies_since_face(self, person: Person) -> None:
        """The face shows that the body was not one: drop what was seen of it while there was no face to tell."""
        last = max(person.faces, default=-1)
        person.bodies = {i: b for i, b in person.bodies.items() if i <= last}
        person.hands = {side: {i: h for i, h in seen.items() if i <= last} for side, seen in person.hands.items()}
        person.body = None

    def _forget_body(self, person: Person) -> None:
        person.bodies.pop(self.index, None)
        for hands in person.hands.values():
            hands.pop(self.index, None)
        person.body = None

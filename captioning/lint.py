"""What is wrong with a caption: words that judge, feel or guess, missing aspects, and what was measured otherwise.

Objections, not verdicts: word lists miss what they don't know, and measurements may be wrong.
"""

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from math import inf
from typing import Any, Literal

from captioning.schema import Caption, Shot
from captioning.wording import Objection, patterns, wording

Kind = Objection | Literal["uncovered", "repeated", "inconsistent"]

CHOSEN = ("camera", "speech", "body_parts")  # fields whose words are ours
INSTEAD: dict[Objection, str] = {
    "evaluative": "say what is visible, without judging it",
    "emotional": "say what the face, the body or the light does, not what it feels like",
    "speculative": "say what is sure, and leave the guess out",
    "meta": "describe the people and the place, not the video or whoever watches it",
}
LOOP = 3  # times that an action stands among a person's movements when a model is taken to run in circles


@dataclass(frozen=True)
class Flag:
    """One objection to a caption. `advice` is a sentence for the model that gets a second try."""

    kind: Kind
    field: str  # where: 'subjects.0.movements.1.action'
    found: str  # the words objected to, or what is missing
    advice: str


@dataclass(frozen=True)
class Facts:
    """What the filters measured of a clip; None: not measured."""

    people: int | None = None  # tracks seen in at least a fifth of the sampled frames
    faces: float | None = None  # median number of visible faces over time
    face_height: float | None = None  # of the dominant face, share of the frame's height, median over time
    audible: float | None = None  # share of time with any sound
    background_motion: float | None = None  # median optical flow of the background, short sides a second


def lint(caption: Caption, facts: Facts = Facts()) -> list[Flag]:
    """All objections to a caption; what was not measured raises none.

    Covered aspects and objectivity after paper section 2, "Dense Video Caption"; repetition and consistency are ours.
    """
    return [*unobjective(caption), *uncovered(caption, facts), *repeated(caption), *inconsistent(caption, facts)]


def unobjective(caption: Caption) -> Iterator[Flag]:
    for field, text in texts(caption.model_dump()):
        if not filler(text):  # or 'unknown' would be a guess, too
            for kind, words in wording(text):
                yield Flag(kind, field, words, f"Remove '{words}' from {field}: {INSTEAD[kind]}.")


def texts(part: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """(path, text) of all that the model wrote in its own words."""
    if isinstance(part, str):
        yield path, part
    elif isinstance(part, dict | list):
        for name, inner in part.items() if isinstance(part, dict) else enumerate(part):
            if name not in CHOSEN:
                yield from texts(inner, f"{path}.{name}" if path else str(name))


# ---------------------------------------------------------------- what is missing


def uncovered(caption: Caption, facts: Facts) -> Iterator[Flag]:
    for field, text in texts(caption.model_dump()):
        if filler(text):
            advice = f"Say in {field} what is visible; where there is nothing, use null or leave the entry out."
            yield Flag("uncovered", field, text or "nothing", advice)
    if not caption.subjects and facts.people != 0:
        yield Flag("uncovered", "subjects", "nobody", "Describe each visible person in subjects.")
    for i, person in enumerate(caption.subjects):
        if all(filler(movement.action) for movement in person.movements):
            field = f"subjects.{i}.movements"
            advice = f"List in {field} what this person's head, face, hands and body do, however small it is."
            yield Flag("uncovered", field, "no movements", advice)
    place = caption.background
    details = [place.architecture or "", place.greenery or "", *place.objects, *place.colours]
    if all(map(filler, details)):
        advice = "Add to background what can be seen there: architecture, objects, colours or greenery."
        yield Flag("uncovered", "background", "no details", advice)


def filler(text: str) -> bool:
    """Nothing is said."""
    return not plain(text) or patterns("fillers").fullmatch(plain(text)) is not None


def plain(text: str) -> str:
    return " ".join(re.findall(r"[\w']+", text.lower()))


def repeated(caption: Caption) -> Iterator[Flag]:
    """Twice is fine: people do lower the hand again."""
    for i, person in enumerate(caption.subjects):
        for action, times in Counter(plain(movement.action) for movement in person.movements).items():
            if times >= LOOP and not filler(action):
                field = f"subjects.{i}.movements"
                advice = f"Describe '{action}' once in {field}, say how often it happens, and go on with what follows."
                yield Flag("repeated", field, f"{action} ({times} times)", advice)


# ---------------------------------------------------------------- what was measured otherwise

# Shares of the frame's height that the dominant face may have, uncalibrated. A face is measured from the upper forehead
# to the chin: a ninth of an adult's height, a fifth of a toddler's. So it has 0.11 in a picture from head to feet,
# about 0.2 from the waist up, and 0.35 with the shoulders. The bounds lie well beyond: models use the names loosely.
FACE_HEIGHTS: dict[Shot, tuple[float, float]] = {
    "extreme close-up": (0.4, inf),  # below, the head and the shoulders show
    "close-up": (0.15, inf),  # below, the waist shows
    "medium close-up": (0.1, 0.75),  # below, the whole body fits; above, the neck doesn't
    "medium shot": (0.07, 0.5),  # above, the chest doesn't fit
    "full shot": (0.0, 0.25),  # a sitting toddler
    "wide shot": (0.0, 0.25),
    "extreme wide shot": (0.0, 0.15),
}
RESIZING = ("moves closer", "moves away", "zooms in", "zooms out")  # the median says nothing about such a shot
SEVERAL = 1.5  # faces; the median lies between one and two where a second face shows half of the time
SILENCE = 0.05  # share of time with sound that clicks at a cut may make
# Short sides a second, uncalibrated. It is a median over the background: leaves or passers-by that cover less than half
# of it don't count. A pan that takes 20 s from one edge to the other has 0.05; a tripod leaves the noise of the flow.
MOVING = 0.15
STILL = 0.003


def inconsistent(caption: Caption, facts: Facts) -> Iterator[Flag]:
    checks = count(caption, facts), shot(caption, facts), camera(caption, facts)
    yield from (flag for flag in checks if flag)
    yield from voices(caption, facts)


def count(caption: Caption, facts: Facts) -> Flag | None:
    people, faces, told = facts.people, facts.faces, len(caption.subjects)
    if people is None:
        return None
    if people == 1 and told >= 2 and (faces is None or faces < SEVERAL):
        advice = "Look again at who is there, and describe one person only unless others are clearly visible."
        return Flag("inconsistent", "subjects", f"{told} people, 1 was tracked", advice)
    if people >= 2 and told == 1 and faces is not None and faces >= SEVERAL:
        advice = f"Look again for other people, since {people} were tracked, and describe each who is clearly visible."
        return Flag("inconsistent", "subjects", f"1 person, {people} were tracked", advice)
    return None


def shot(caption: Caption, facts: Facts) -> Flag | None:
    height, name = facts.face_height, caption.camera.shot
    if height is None or caption.camera.movement in RESIZING:
        return None
    least, most = FACE_HEIGHTS[name]
    if least <= height <= most:
        return None
    measured = f"the largest face takes {height:.0%} of the picture's height"
    advice = f"Look again at how much of the main person shows: {measured}, which is unusual for '{name}'."
    found = f"{name}, the face is too {'small' if height < least else 'large'}"
    return Flag("inconsistent", "camera.shot", found, advice)


def camera(caption: Caption, facts: Facts) -> Flag | None:
    speed, name = facts.background_motion, caption.camera.movement
    if speed is None:
        return None
    if name == "static" and speed > MOVING:
        advice = "Look again at how the camera moves, since the background was measured to move."
        return Flag("inconsistent", "camera.movement", "static, the background moves", advice)
    if name not in ("static", "handheld") and speed < STILL:
        advice = f"Look again whether the camera {name}, since the background was measured to stay still."
        return Flag("inconsistent", "camera.movement", f"{name}, the background stays still", advice)
    return None


def voices(caption: Caption, facts: Facts) -> Iterator[Flag]:
    if facts.audible is None or facts.audible >= SILENCE:
        return
    for i, person in enumerate(caption.subjects):
        if person.speech in ("speaking", "singing"):
            advice = f"Look again whether the mouth of subjects.{i} forms words, since the sound track is silent."
            yield Flag("inconsistent", f"subjects.{i}.speech", f"{person.speech}, the sound track is silent", advice)

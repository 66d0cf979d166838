"""What a caption says: the form that the model fills in, and from which the grammar of its answer is made.

The aspects are those of paper section 2, "Dense Video Caption". Lengths are bounded, so that an answer ends.
"""

from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints


def tidy(text: str) -> str:
    """One line of printable text."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


Words = Annotated[str, StringConstraints(min_length=1, max_length=60), AfterValidator(tidy)]
Phrase = Annotated[str, StringConstraints(min_length=1, max_length=160), AfterValidator(tidy)]
Sentence = Annotated[str, StringConstraints(min_length=1, max_length=240), AfterValidator(tidy)]

Angle = Literal["eye level", "high angle", "low angle", "overhead", "tilted"]
Shot = Literal[
    "extreme close-up", "close-up", "medium close-up", "medium shot", "full shot", "wide shot", "extreme wide shot"
]
CameraMovement = Literal[
    "static",
    "handheld",
    "pans left",
    "pans right",
    "tilts up",
    "tilts down",
    "moves closer",
    "moves away",
    "zooms in",
    "zooms out",
    "follows the subject",
    "circles the subject",
]
BodyPart = Literal[
    "head",
    "face",
    "eyes",
    "eyebrows",
    "mouth",
    "shoulders",
    "torso",
    "left arm",
    "right arm",
    "both arms",
    "left hand",
    "right hand",
    "both hands",
    "fingers",
    "hips",
    "left leg",
    "right leg",
    "both legs",
    "feet",
    "whole body",
]
Speech = Literal["speaking", "singing", "silent", "mouth not visible"]


class Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Camera(Part):
    angle: Angle
    shot: Shot = Field(description="how much of the main person the picture shows")
    movement: CameraMovement


class Movement(Part):
    body_parts: list[BodyPart] = Field(min_length=1, max_length=4)
    action: Phrase = Field(
        description="verb phrase in the third person: 'raises the right hand to chest height with the palm up'"
    )


class Subject(Part):
    label: Words = Field(description="noun phrase that tells this person from the others: 'the woman in the navy suit'")
    appearance: Phrase = Field(description="noun phrase with an article: 'an elderly man with a white beard'")
    clothing: Phrase = Field(description="noun phrase: 'a dark green jumper over a white collar'")
    accessories: list[Words] = Field(max_length=6)
    position: Phrase = Field(
        description="verb phrase: 'sits at a table in the left half of the picture, facing the camera'"
    )
    movements: list[Movement] = Field(
        max_length=10, description="specific movements, in the order in which they happen"
    )
    speech: Speech


class Background(Part):
    place: Phrase = Field(description="noun phrase: 'a small kitchen'")
    architecture: Phrase | None = Field(
        description="noun phrase for style, materials, walls, windows; null when there is none"
    )
    objects: list[Words] = Field(max_length=8)
    colours: list[Words] = Field(max_length=6)
    greenery: Phrase | None = Field(description="noun phrase; null when there is none")


class Caption(Part):
    """A dense, objective caption of one clip."""

    camera: Camera
    subjects: list[Subject] = Field(max_length=6, description="the people, the most prominent one first")
    interactions: list[Sentence] = Field(
        max_length=6, description="sentences: who touches, hands, shows or says what to whom"
    )
    background: Background
    lighting: Phrase = Field(description="noun phrase: 'soft daylight from a window on the left'")

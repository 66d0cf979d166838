"""What the model is asked: the instruction, worked examples, and the wording of a second try.

`digest()` names the exact question; it travels with every caption, so that captions of different questions are told
apart. Raise VERSION with any change of meaning.
"""

import json
from collections.abc import Sequence
from functools import cache
from typing import Any

from captioning.examples import EXAMPLES
from captioning.frames import Frames
from captioning.lint import Flag
from captioning.schema import Caption
from dataset.tables import short_hash

VERSION = 1

SYSTEM = """\
You describe video clips of people for a data set that teaches a model to make videos from text. You write down what the
pixels show, so exactly that somebody could act and film the clip again from your words alone."""

INSTRUCTION = """\
Describe this clip as one JSON object.

What to describe:
1. camera: its angle, how much of the main person the picture shows, and how the camera moves.
2. subjects: each person, the most prominent one first. Physical appearance, clothing, accessories, position in the
   picture. Break actions down into specific movements, in the order in which they happen, each with the parts of the
   body that move: not "gestures while talking", but "raises the right hand to chest height with the palm up". Name
   directions from the person's own point of view for body parts, and from the viewer's for places in the picture.
   Say whether the person is speaking, singing or silent.
3. interactions: who touches, hands, shows or passes what to whom; an empty list when there are none.
4. background: the place, architecture and materials, objects, colours, greenery.
5. lighting: direction, hardness and colour of the light.

Rules:
- Only what is visible. Leave out what you are not sure of; never guess names, places, jobs, reasons or what happened
  outside the picture. No "seems", "appears to", "possibly", "suggesting", "as if".
- No judgements (beautiful, elegant, professional) and no feelings or moods (happy, confident, tense, cosy). An
  expression is a movement: "the corners of the mouth rise", not "is happy".
- Don't speak of the video, the clip, the image or the viewer. Describe the people and the place themselves.
- Noun phrases begin with a lower-case article, verb phrases with a verb: "turns the head to the left".
- Use null or an empty list where there is nothing."""

MARKED = "The person in the green frame is the main one: describe that person first. The frame is drawn; leave it out."

RETRY = """\
Your answer has these faults:
{faults}
Look at the clip again and answer with the whole corrected JSON object."""


def compact(caption: Caption) -> str:
    """The JSON of a caption as the model writes it."""
    return json.dumps(caption.model_dump(), ensure_ascii=False)


@cache
def instruction() -> str:
    """The text that goes with every clip."""
    shown = "\n".join(compact(example) for example in EXAMPLES)
    return f"{INSTRUCTION}\n\nTwo answers about other clips, for the form and the depth of detail:\n{shown}"


@cache
def schema() -> dict[str, Any]:
    """JSON schema of an answer: the server's grammar. One spacing only, or a model may run away in blanks."""
    spacing = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
    return Caption.model_json_schema() | {"x-guidance": spacing}


@cache
def digest() -> str:
    """Hash of all words and of the schema."""
    return short_hash(json.dumps([VERSION, SYSTEM, instruction(), MARKED, RETRY, schema()], sort_keys=True))


def messages(frames: Frames) -> list[dict[str, Any]]:
    """The chat of a first try. What is the same for every clip comes first: a server computes it once."""
    about = f"The clip lasts {frames.seconds:.1f} s; you see {len(frames.jpegs)} pictures of it."
    text = f"{about} {MARKED}" if frames.marked else about
    video = {"type": "video_url", "video_url": {"url": frames.url()}}
    asked = [{"type": "text", "text": instruction()}, video, {"type": "text", "text": text}]
    return [{"role": "system", "content": SYSTEM}, {"role": "user", "content": asked}]


def second_try(first: list[dict[str, Any]], answer: str, flags: Sequence[Flag]) -> list[dict[str, Any]]:
    """The chat that shows the model its answer and what is wrong with it."""
    faults = "\n".join(f"- {advice}" for advice in dict.fromkeys(flag.advice for flag in flags))
    told = {"role": "user", "content": RETRY.format(faults=faults)}
    return [*first, {"role": "assistant", "content": answer}, told]

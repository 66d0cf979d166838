"""A structured caption -> prose: what the video model is prompted with. The same caption gives the same words."""

from captioning.schema import Camera, Caption, Subject, tidy

LENGTHS = ("short", "medium", "long")

ANGLES = {
    "eye level": "at eye level",
    "high angle": "from a high angle",
    "low angle": "from a low angle",
    "overhead": "from directly overhead",
    "tilted": "with a tilted horizon",
}
STEADY = {"static": "the camera stays still", "handheld": "the camera is handheld"}
SPEECH = {
    "speaking": "While speaking, ",
    "singing": "While singing, ",
    "silent": "Without speaking, ",
    "mouth not visible": "",
}
DOES = {"speaking": "speaks", "singing": "sings", "silent": "is silent", "mouth not visible": ""}


def render(caption: Caption) -> dict[str, str]:
    """Prose in three lengths, by name: one sentence; people and movements; everything."""
    return {"short": short(caption), "medium": medium(caption), "long": long(caption)}


def short(caption: Caption) -> str:
    """Who does what, where."""
    place = phrase(caption.background.place)
    where = f", in {place}" if place else ""
    if not caption.subjects:
        return sentence(f"{shot(caption.camera)} of {place or 'a place without people'}")
    first = caption.subjects[0]
    does = [DOES[first.speech], *(verb(m.action) for m in first.movements[:1])]
    others = f", next to {count(len(caption.subjects) - 1)}" if len(caption.subjects) > 1 else ""
    acts = listed([act for act in does if act])
    who = f"{shot(caption.camera)} of {phrase(first.appearance)}" + (f", who {acts}" if acts else "")
    return sentence(f"{who}{where}{others}")


def medium(caption: Caption) -> str:
    """Shot, people in their clothes, all their movements, and the place."""
    told = [f"{shot(caption.camera)} {ANGLES[caption.camera.angle]}"]
    for person in caption.subjects:
        told += [introduction(person, accessories=False), movements(person)]
    told += [*caption.interactions, setting(caption.background.place)]
    return " ".join(filter(None, map(sentence, told)))


def long(caption: Caption) -> str:
    """Everything that the structure holds."""
    camera, background = caption.camera, caption.background
    moves = STEADY.get(camera.movement, f"the camera {camera.movement}")
    told = [f"{shot(camera)} {ANGLES[camera.angle]}; {moves}"]
    for person in caption.subjects:
        told += [introduction(person, accessories=True), movements(person)]
    told += caption.interactions
    details = [background.architecture or "", *background.objects, background.greenery or ""]
    told.append(setting(background.place, details))
    if colours := [tidy(c) for c in background.colours if tidy(c)]:
        told.append(f"the main colours are {listed(colours)}")
    if light := phrase(caption.lighting):
        told.append(f"lit by {light}")
    return " ".join(filter(None, map(sentence, told)))


# ---------------------------------------------------------------- sentences


def shot(camera: Camera) -> str:
    return f"{'an' if camera.shot.startswith('e') else 'a'} {camera.shot}"


def introduction(person: Subject, *, accessories: bool) -> str:
    """Who it is, in which clothes, and where: one sentence."""
    parts = [phrase(person.appearance) or phrase(person.label)]
    if clothes := phrase(person.clothing):
        parts.append(f"wearing {clothes}")
    if accessories and (carried := listed([phrase(a) for a in person.accessories])):
        parts.append(f"with {carried}")
    stands = verb(person.position)
    return f"{', '.join(parts)}{',' if len(parts) > 1 and stands else ''} {stands}"


def movements(person: Subject) -> str:
    """'While speaking, the woman raises the left hand, then lowers it, then turns the head': in their order."""
    label = phrase(person.label) or "the person"
    actions = [a for a in (verb(m.action) for m in person.movements) if a]
    if not actions:
        return f"{label} {DOES[person.speech]}" if DOES[person.speech] else ""
    return f"{SPEECH[person.speech]}{label} {', then '.join(actions)}"


def setting(place: str, details: list[str] | None = None) -> str:
    found = listed([phrase(d) for d in details or []])
    if not phrase(place):
        return f"the background shows {found}" if found else ""
    return f"the setting is {phrase(place)}" + (f": {found}" if found else "")


def count(others: int) -> str:
    return "another person" if others == 1 else f"{others} other people"


# ---------------------------------------------------------------- words


def phrase(text: str) -> str:
    """A noun phrase for the middle of a sentence: no full stop, no capital article."""
    text = tidy(text).rstrip(" .;,")
    first, _, rest = text.partition(" ")
    return f"{first.lower()} {rest}" if rest and first in ("A", "An", "The", "Two", "Three", "No") else text


def verb(text: str) -> str:
    """A verb phrase for the middle of a sentence."""
    text = tidy(text).rstrip(" .;,")
    return text[:1].lower() + text[1:] if text[1:2].islower() else text


def listed(items: list[str]) -> str:
    """'a', 'a and b', 'a, b and c'; what is empty is left out."""
    items = [item for item in items if item]
    return " and ".join([", ".join(items[:-1]), items[-1]] if len(items) > 1 else items)


def sentence(text: str) -> str:
    text = tidy(text)
    if not text:
        return ""
    return text[0].upper() + text[1:] + ("" if text[-1] in ".!?" else ".")

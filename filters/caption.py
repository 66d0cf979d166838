"""The coarse text screen: does the caption that came with a source speak of a person (paper section 2)?"""

import re

from filters.base import ClipView, Filter, Measurement, Needs, score

PEOPLE = (
    "actor actors actress anchor artist athlete audience baby babies bartender boy boys bride businessman "
    "businesswoman chef child children clown coach couple crowd dancer dancers diver doctor driver drummer family "
    "farmer father female fisherman friend friends gentleman girl girls groom guitarist guy guys hand hands he her "
    "his host human humans interviewer journalist kid kids ladies lady lecturer male man men mother musician "
    "musicians nurse officer parent people performer person persons pianist player players policeman politician "
    "presenter reporter runner she singer singers soldier speaker student students surfer teacher teenager their "
    "they toddler tourist vlogger waiter waitress woman women worker workers"
)
PATTERN = re.compile(rf"\b(?:{PEOPLE.replace(' ', '|')})\b", re.IGNORECASE)


def mentions_person(caption: str) -> bool:
    """Whether the text holds a word for a person."""
    return PATTERN.search(caption) is not None


class Caption(Filter):
    """Needs nothing but the text, so it runs before anything is decoded."""

    needs = Needs()

    class Scores(Measurement):
        person: float | None = score(
            unit="0 or 1", better="higher", about="the source's own caption names a person; null without a caption"
        )

    def measure(self, clip: ClipView) -> Scores:
        text = clip.clip.caption
        return self.Scores(person=None if not text else float(mentions_person(text)))

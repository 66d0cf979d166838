"""Words that an objective caption does without (paper section 2: objective facts, no emotional or subjective words).

English word lists in captioning/words/, not a model: a judgement in words that no list has goes unseen.
"""

import re
from functools import cache
from pathlib import Path
from typing import Literal, get_args

Objection = Literal["evaluative", "emotional", "speculative", "meta"]

WORDS = Path(__file__).parent / "words"
# What a sign says. Single quotes count, since double ones are awkward in JSON; inside a word they are apostrophes.
QUOTED = re.compile(r""""[^"]*"|“[^”]*”|(?<!\w)['‘](?:[^']|'(?=\w))*'(?!\w)""")
MONTH = re.compile(r"\bMay\b")
GONE = " ~ "  # stands for what was taken out, so that its neighbours don't become a phrase


def wording(text: str) -> list[tuple[Objection, str]]:
    """The words of a sentence that judge (evaluative), feel (emotional), guess (speculative) or speak of the video
    instead of what it shows (meta): in small letters, each once for a kind.

    Text in quotation marks is what can be read in the picture, and passes; so do the phrases of allowed.txt.
    """
    text = QUOTED.sub(GONE, text.replace("’", "'"))
    text = patterns("allowed").sub(GONE, MONTH.sub(GONE, text).lower())
    found = [(kind, match[0]) for kind in get_args(Objection) for match in patterns(kind).finditer(text)]
    return list(dict.fromkeys(found))


# ---------------------------------------------------------------- word lists


@cache
def patterns(name: str) -> re.Pattern[str]:
    """One pattern of all terms of a list. Of two that begin at the same word, it finds the longer one."""
    longest = sorted(terms(name), key=lambda term: (-len(term.split()), -len(term)))
    return re.compile(rf"(?<!\w)(?:{'|'.join(map(expression, longest))})(?!\w)")


def terms(name: str) -> list[str]:
    text = (WORDS / f"{name}.txt").read_text(encoding="utf-8")
    lines = (line.partition("#")[0].strip() for line in text.splitlines())
    return [line for line in lines if line]


def expression(term: str) -> str:
    """`*` is any ending, alone it is any word; a blank is also a hyphen."""
    words = (r"[\w']+" if word == "*" else re.escape(word).replace(r"\*", r"\w*") for word in re.split(r"[ -]", term))
    return r"[\s-]+".join(words)

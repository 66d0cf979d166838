"""The coarse text screen: does a source's own caption describe a person doing something (paper section 2)?"""

import re
import unicodedata
from dataclasses import dataclass
from functools import cache
from pathlib import Path

WORDS = Path(__file__).parent / "words"
FILES = ("screen_people.txt", "screen_actions.txt", "screen_not_people.txt")
LATIN = 0.5  # least share of Latin letters in a text that an English list may judge
GONE = " ~ "  # stands for what was taken out, so that its neighbours don't become a phrase
DRAWN = " # "  # stands for a statue, a picture or a toy
QUOTED = re.compile(r'"[^"]*"|“[^”]*”')
# Words around a verb: what may follow one, and what can't be one.
SMALL = (
    "a|an|the|his|her|their|its|my|our|some|each|every|this|that|two|three|it|him|them|to|at|on|in|into|onto|out|up|down"
    "|over|under|from|with|off|through|across|around|about|along|for|towards?|away|back|past|near|by"
)
NO_VERB = (
    f"{SMALL}|of|and|or|but|is|are|was|were|be|been|has|have|had|as|while|who|whose|which|what|when|where|not|no|very"
    "|also|just"
)
# 'making a bowl', 'cooking with herbs': somebody does, though nobody is named.
UNNAMED = (
    r"^(?!(?:during|following|including|featuring|overlooking|surrounding)\b)\w{2,}ing"
    " (?:a|an|the|my|our|some|at|with|for|alone|together)\\b"
)
# 'a robot engineer' is a person, a robot waiter isn't.
MAKERS = (
    r"(?:\w*maker|artist|painter|designer|engineer|restorer|collector|seller|carver|performer|master|author|animator"
    "|operator|programmer|fan)s?"
)
OUTSIDE = "on|at|by|near|behind|for|to|from|past|while|where|as|beside"  # who comes after it isn't in the painting
PLACED = "in|on|at|under|behind|inside|beside|against|between"
STILL = "background|screen|poster|cover|shelf"


# Little words of other languages in Latin letters, which aren't English ones.
FOREIGN = re.compile(
    r"\b(?:der|das|und|ein|eine|einem|einen|mit|auf|les|une|dans|avec|sur|pour|del|los|las|una|por|para|mientras|gli|che"
    r"|della|nel|uma|com|nao|het|een|och|med|na|się|jest|bir|ve|yang|dengan|dan)\b"
)


@dataclass(frozen=True)
class Screen:
    """What a caption says."""

    person: bool  # a real person is in the video
    acts: bool  # something is done that people do

    @property
    def keep(self) -> bool:
        return self.person and self.acts


def screen(caption: str) -> Screen | None:
    """What the caption that came with a source says of people; None when it can't be judged.

    It can't when the text has no letters, or mostly other ones than Latin: the word lists are English. In doubt the
    answer is yes, as a clip that is kept wrongly costs a decode, and one that is dropped wrongly is lost.

    Source: paper section 2, "detected the presence of human-related descriptions in video captions".
    """
    letters = [c for c in caption if c.isalpha()]
    latin = sum(unicodedata.name(c, "").startswith("LATIN") for c in letters)
    if not letters or latin < LATIN * len(letters) or len(set(FOREIGN.findall(caption.lower()))) >= 2:
        return None
    text = without_unreal(plain(caption))
    return Screen(names_person(text), any(pattern.search(text) for pattern in rules().actions))


# ---------------------------------------------------------------- the text, without what looks like people


def plain(caption: str) -> str:
    """Lower-case words, sentences parted by ` . `, without quotations and names of ships, houses and streets."""
    text = caption.replace("’", "'")
    text = re.sub(r"(?<=[a-z])(?=[A-Z])|[_#\-]|\d+", " ", text)  # girlDancing_02, #gym
    if not QUOTED.fullmatch(text):
        text = QUOTED.sub(GONE, text)  # what a sign or a title says
    if re.search(r"\b(?!with|from|into|over|onto)[a-z]{4}", text):  # In A Title Every Word Looks Like A Name
        text = rules().names.sub(GONE, text)
    text = re.sub(r"[.!?;|\n]+", " . ", text.lower()).replace(":", ",")
    text = re.sub(r"'re\b|'m\b|(?<=\bhe)'s\b|(?<=\bshe)'s\b", " is ", text)
    return " ".join(re.findall(r"[a-zà-ÿ']+|[.~,]", text))


def without_unreal(text: str) -> str:
    """The text without compounds, statues, cartoons, owners of things and people who aren't there."""
    r = rules()
    text = r.things.sub(GONE, text)
    sentences = [sentence for sentence in text.split(" . ") if not r.whole.search(sentence)]
    text = " . ".join(r.screens.split(sentence)[0] for sentence in sentences)
    text = r.contracted.sub(" is ", text)
    for pattern in (r.absent, r.animal_titles, r.kinds, r.owners):
        text = pattern.sub(GONE, text)
    return r.depicted.sub(DRAWN, text)


def names_person(text: str) -> bool:
    r = rules()
    if r.people.search(text):
        return True
    theirs, other = r.shared.search(text), r.others.search(text)
    return theirs is not None and (other is None or theirs.start() < other.start())


# ---------------------------------------------------------------- word lists


@dataclass(frozen=True)
class Rules:
    """The word lists as patterns."""

    names: re.Pattern[str]  # with capital letters: the ferry Empress Amelia, King Street
    things: re.Pattern[str]
    whole: re.Pattern[str]
    screens: re.Pattern[str]
    absent: re.Pattern[str]  # without people
    animal_titles: re.Pattern[str]  # queen bee
    kinds: re.Pattern[str]  # women shoes
    contracted: re.Pattern[str]  # the man's talking, but not the man's hat
    owners: re.Pattern[str]  # the man's hat, but not the girls' dance
    depicted: re.Pattern[str]  # statue of a man
    people: re.Pattern[str]
    shared: re.Pattern[str]
    others: re.Pattern[str]
    actions: list[re.Pattern[str]]


@cache
def rules() -> Rules:
    terms = read_terms()
    w = {section: alternatives(listed) for section, listed in terms.items()}
    anybody = f"{w['people']}|{w['shared']}|{w['body']}"
    vessels = "|".join(f"{t}|{t.capitalize()}" for t in terms["vessels"])
    places = "|".join(t.capitalize() for t in terms["places"])
    name = r"[A-Z][\w']+"
    return Rules(
        names=re.compile(rf"\b(?:{vessels})(?: {name}){{1,4}}|\b(?:{name} ){{1,4}}(?:{places})\b"),
        things=one_of(w["things"]),
        whole=one_of(w["whole"]),
        screens=one_of(w["screens"]),
        absent=re.compile(rf"\b(?:no|without)(?: \w+){{0,2}}? (?:{anybody})\b"),
        animal_titles=re.compile(rf"\b(?:{w['titles']}) (?:of )?(?=(?:{w['others']})\b)"),
        kinds=re.compile(rf"\b(?:{w['people']})(?: (?!(?:{NO_VERB}|\w+ing)\b)\w+)? (?:{w['after']})\b"),
        contracted=re.compile(rf"'s (?=(?!(?:{w['ing']})\b)\w+ing\b(?! of))"),
        owners=re.compile(rf"\b(?:{anybody})'s?(?!\w)(?!(?: \w+){{0,2}} (?:{w['activities']}|{w['body']})\b)"),
        depicted=re.compile(
            rf"\b(?:{w['depictions']})\b(?! {MAKERS}\b)"
            rf"(?:(?: (?!(?:{OUTSIDE})\b)[\w~]+){{0,3}}? (?:{w['people']})\b)?"
        ),
        people=re.compile(rf"\b(?:{w['people']}|{w['implied']})\b|{UNNAMED}"),
        shared=one_of(w["shared"], w["body"]),
        others=re.compile(rf"\b(?:{w['others']})\b|{DRAWN}"),
        actions=action_patterns(terms["verbs"], w, anybody),
    )


def action_patterns(verbs: list[str], w: dict[str, str], anybody: str) -> list[re.Pattern[str]]:
    finite = "|".join(form for verb in verbs for form in (verb, *inflected(verb)))
    return [
        re.compile(rf"\b(?!(?:{w['ing']})\b)\w{{2,}}ing\b"),
        re.compile(rf"\b(?:is|are|was|were|be|been|{anybody}) \w{{2,}}ing\b|{UNNAMED}"),
        one_of(finite, w["forms"], w["activities"], w["implied"]),
        re.compile(rf"\b(?:i|we|he|she|they|who) (?!(?:{NO_VERB})\b)\w+"),
        re.compile(rf"\bby(?: \w+){{0,2}} (?:{anybody})\b"),  # a haircut by a friend
        re.compile(rf"\b(?:{w['people']}) (?:{PLACED}) (?!(?:\w+ ){{0,2}}(?:{STILL})\b)"),  # a child on a swing
        re.compile(rf"\b(?:{w['people']})(?: \w+ly)? (?!(?:{NO_VERB})\b)\w\w+[^su']s (?=\w)"),  # the soldier comes home
        # A verb that is on no list, told by where it stands: 'the tailor hems a', 'two sailors splice the'.
        re.compile(rf"\b(?:{anybody})(?: \w+ly)? (?!(?:{NO_VERB})\b)\w+ (?:{SMALL})\b"),
    ]


def inflected(verb: str) -> list[str]:
    """The forms in -s and -ed of a regular verb, and a few that don't exist."""
    stem = verb[:-1] if verb[-1] in "ey" else verb
    return [verb + "s", verb + "es", stem + "ies", stem + "ied", stem + "ed", verb + "ed", verb + verb[-1] + "ed"]


def one_of(*parts: str) -> re.Pattern[str]:
    return re.compile(rf"\b(?:{'|'.join(parts)})\b")


def alternatives(terms: list[str]) -> str:
    """Terms as alternatives of a pattern, longest first. `*` is three letters or more, and a plural fits all terms."""
    longest = sorted(terms, key=len, reverse=True)
    return "|".join(re.escape(t).replace(r"\*", r"\w{3,}") + ("(?:e?s)?" if len(t) > 2 else "") for t in longest)


def read_terms() -> dict[str, list[str]]:
    """`[section]` -> its terms, of all files."""
    sections: dict[str, list[str]] = {}
    for line in (line.strip() for name in FILES for line in (WORDS / name).read_text(encoding="utf-8").splitlines()):
        if line.startswith("["):
            sections[line.strip("[]")] = terms = []
        elif line and not line.startswith("#"):
            terms.append(line)
    return sections

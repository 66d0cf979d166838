"""What the lint objects to, and how often it is right on labelled sentences."""

from collections import Counter
from pathlib import Path

import pytest

from captioning.examples import EXAMPLES, PAIR, SPEAKER
from captioning.lint import Facts, Flag, lint
from captioning.schema import Caption, Movement
from captioning.wording import terms, wording

HERE = Path(__file__).parent
FITTING = Facts(people=1, faces=1.0, face_height=0.35, audible=1.0, background_motion=0.002)


def kinds(text: str) -> set[str]:
    return {kind for kind, _ in wording(text)}


def changed(part: str, caption: Caption = SPEAKER, **update: object) -> Caption:
    """The caption with other fields in one part of it: 'camera', 'person' (the first), 'background', 'caption'."""
    if part == "caption":
        return caption.model_copy(update=update)
    if part == "person":
        first, *others = caption.subjects
        return caption.model_copy(update={"subjects": [first.model_copy(update=update), *others]})
    return caption.model_copy(update={part: getattr(caption, part).model_copy(update=update)})


def acting(*actions: str) -> Caption:
    return changed("person", movements=[Movement(body_parts=["head"], action=action) for action in actions])


def only(flags: list[Flag]) -> Flag:
    (flag,) = flags
    return flag


@pytest.mark.parametrize("caption", EXAMPLES)
def test_good_captions_have_no_flags(caption):
    assert lint(caption) == []
    assert lint(SPEAKER, FITTING) == []


# ---------------------------------------------------------------- words


@pytest.mark.parametrize(
    ("kind", "text", "found"),
    [
        ("evaluative", "A stunningly tailored gown with a touch of lace", "a touch of"),
        ("evaluative", "the man's professional-looking suit", "professional"),
        ("emotional", "smiles happily at the child", "happily"),
        ("emotional", "a room with a cosy atmosphere", "atmosphere"),
        ("speculative", "lifts the hand as if waving, or possibly pointing", "as if"),
        ("speculative", "a woman who may be a teacher", "may"),
        ("meta", "The video shows a man at a desk", "video"),
        ("meta", "a lamp that draws the viewer’s gaze", "viewer"),
        ("meta", "a red car can be seen behind him", "seen"),
    ],
)
def test_each_kind_of_objection(kind, text, found):
    assert (kind, found) in wording(text)
    assert kinds(text) == {kind}


@pytest.mark.parametrize(
    "text",
    [
        "plays a grand piano by calm water",
        "a cake with happy birthday in blue icing, in front of a beauty salon",
        "a calendar that shows May",
        "appears from behind the sofa and walks to the door",
        "the muscles of his neck tense",
        "holds a video game controller",
        "sits in the left half of the frame",
        "smiles, frowns, shakes the fist, tears run down both cheeks, the corners of the mouth rise",
        "bright warm light, cool blue shadows, a tall elderly man",
        "wears a sombrero and saddle shoes, next to a conveyor belt",
    ],
)
def test_plain_descriptions_pass(text):
    assert wording(text) == []


@pytest.mark.parametrize("sign", ['"The Beautiful Life"', "“Perhaps tomorrow”", "'It's lovely'", "‘Video’"])
def test_what_a_sign_says_passes(sign):
    assert wording(f"a poster that reads {sign} on the boys' door") == []
    assert kinds(f"a lovely poster that reads {sign}") == {"evaluative"}


def test_apostrophes_are_no_quotation():
    assert kinds("the boys' beautiful hats and the girls' scarves") == {"evaluative"}


def test_words_end_where_terms_end():
    assert wording("a mayor, a sadder saddle, a likelier reseen scenery") == []


def test_a_word_counts_once_and_the_longest_phrase_wins():
    assert wording("A touch of red, a touch of blue") == [("evaluative", "a touch of")]
    assert wording("adds a soft touch") == [("evaluative", "adds a soft touch")]


def test_lists_are_tidy():
    """A term in two lists would be objected to twice."""
    lists = [term for name in ("evaluative", "emotional", "speculative", "meta") for term in terms(name)]
    assert [term for term, times in Counter(lists).items() if times > 1] == []
    assert all(term == term.lower().strip() for term in lists + terms("allowed") + terms("fillers"))


def test_all_fields_in_free_words_are_read():
    fields = {
        "subjects.0.label": changed("person", label="the elegant man"),
        "subjects.0.accessories.1": changed("person", accessories=["a watch", "an elegant ring"]),
        "subjects.0.movements.1.action": acting("nods", "makes an elegant turn"),
        "interactions.0": changed("caption", interactions=["He hands an elegant pen to her."]),
        "background.architecture": changed("background", architecture="elegant columns"),
        "background.objects.0": changed("background", objects=["an elegant clock"]),
        "lighting": changed("caption", lighting="elegant light"),
    }
    for field, caption in fields.items():
        flag = only(lint(caption))
        assert (flag.kind, flag.field, flag.found) == ("evaluative", field, "elegant")
        assert flag.advice.startswith(f"Remove 'elegant' from {field}: ")


# ---------------------------------------------------------------- coverage and repetition


def test_missing_people_are_objected_to_unless_nobody_was_tracked():
    empty = changed("caption", subjects=[])
    assert only(lint(empty)).field == "subjects"
    assert only(lint(empty, Facts(people=1))).kind == "uncovered"
    assert lint(empty, Facts(people=0)) == []


@pytest.mark.parametrize(
    "text", ["", " - ", "Unknown.", "N/A", "none", "not visible", "Unspecified", "no visible details"]
)
@pytest.mark.parametrize(
    ("part", "name"),
    [("person", "appearance"), ("person", "clothing"), ("background", "place"), ("caption", "lighting")],
)
def test_fillers_are_missing_aspects(part, name, text):
    flag = only(lint(changed(part, **{name: text})))
    assert (flag.kind, flag.field.rpartition(".")[2]) == ("uncovered", name)
    assert flag.field in flag.advice


def test_words_around_a_filler_say_something():
    assert lint(changed("person", clothing="a shirt with nothing on it")) == []


def test_a_person_needs_movements():
    assert only(lint(changed("person", movements=[]))).field == "subjects.0.movements"
    assert {flag.field for flag in lint(acting("none"))} == {"subjects.0.movements", "subjects.0.movements.0.action"}


def test_a_background_needs_one_detail():
    bare = changed("background", architecture=None, objects=[], colours=[], greenery=None)
    assert only(lint(bare)).field == "background"
    for detail in ({"architecture": "brick"}, {"objects": ["a lamp"]}, {"colours": ["red"]}, {"greenery": "ivy"}):
        assert lint(changed("background", bare, **detail)) == []
    assert "background" in [flag.field for flag in lint(changed("background", bare, objects=["none"]))]


def test_a_model_that_runs_in_circles():
    flag = only(lint(acting("nods", "Raises the left hand.", "raises the left hand", "Raises the left hand")))
    assert (flag.kind, flag.field) == ("repeated", "subjects.0.movements")
    assert flag.found == "raises the left hand (3 times)"
    assert lint(acting("nods", "raises the left hand", "nods", "raises the left hand")) == []


# ---------------------------------------------------------------- consistency


def test_people_are_counted():
    assert only(lint(PAIR, Facts(people=1))).found == "2 people, 1 was tracked"
    assert only(lint(PAIR, Facts(people=1, faces=1.0))).kind == "inconsistent"
    assert lint(PAIR, Facts(people=1, faces=2.0)) == lint(PAIR, Facts(people=2)) == lint(PAIR, Facts(faces=1.0)) == []
    assert only(lint(SPEAKER, Facts(people=3, faces=2.0))).field == "subjects"
    assert lint(SPEAKER, Facts(people=3)) == lint(SPEAKER, Facts(people=3, faces=1.0)) == []


@pytest.mark.parametrize(
    ("shot", "fits", "odd"),
    [
        ("extreme close-up", (0.5, 1.2), (0.2,)),
        ("close-up", (0.2, 0.9, 1.2), (0.1,)),
        ("medium close-up", (0.15, 0.35, 0.6), (0.05, 0.9)),
        ("medium shot", (0.1, 0.2, 0.4), (0.03, 0.6)),
        ("full shot", (0.05, 0.11, 0.2), (0.3,)),
        ("wide shot", (0.02, 0.1, 0.2), (0.3,)),
        ("extreme wide shot", (0.01, 0.1), (0.2,)),
    ],
)
def test_the_size_of_the_shot(shot, fits, odd):
    caption = changed("camera", shot=shot)
    assert lint(caption, Facts()) == []
    assert not any(lint(caption, Facts(face_height=height)) for height in fits)
    for height in odd:
        flag = only(lint(caption, Facts(face_height=height)))
        assert (flag.kind, flag.field) == ("inconsistent", "camera.shot")
        assert f"{height:.0%}" in flag.advice
    assert lint(changed("camera", caption, movement="zooms in"), Facts(face_height=odd[0])) == []


def test_the_movement_of_the_camera():
    pans, held = changed("camera", movement="pans left"), changed("camera", movement="handheld")
    still, moving, between = (Facts(background_motion=speed) for speed in (0.001, 0.3, 0.05))
    assert only(lint(SPEAKER, moving)).found == "static, the background moves"
    assert only(lint(pans, still)).found == "pans left, the background stays still"
    for caption in (SPEAKER, pans, held):
        assert lint(caption, Facts()) == lint(caption, between) == []
    assert lint(SPEAKER, still) == lint(pans, moving) == lint(held, still) == lint(held, moving) == []


def test_nobody_speaks_on_a_silent_sound_track():
    assert [flag.field for flag in lint(PAIR, Facts(audible=0.0))] == ["subjects.0.speech"]
    assert lint(PAIR, Facts()) == lint(PAIR, Facts(audible=0.4)) == []
    assert lint(changed("person", speech="silent"), Facts(audible=0.0)) == []


def test_measurements_ask_for_a_second_look():
    """They may be wrong, so the model isn't told what to write."""
    facts = Facts(people=1, face_height=0.9, audible=0.0, background_motion=0.0)
    flags = lint(PAIR, facts)
    assert {flag.field for flag in flags} == {"subjects", "camera.shot", "camera.movement", "subjects.0.speech"}
    assert all(flag.advice.startswith("Look again") for flag in flags)


# ---------------------------------------------------------------- how often it is right


def rates(name: str) -> dict[str, float]:
    """Of objective sentences the share with an objection, of the others the share with an objection of their kind."""
    lines = [line.split("\t") for line in (HERE / name).read_text(encoding="utf-8").splitlines()]
    total = Counter(label for label, _ in lines)
    hit = Counter(label for label, text in lines if (kinds(text) if label == "objective" else label in kinds(text)))
    return {label: hit[label] / total[label] for label in total}


def test_sentences_that_the_lists_were_made_with():
    """Measured: no false alarm on 90 objective sentences, and all of 15 of each kind found."""
    found = rates("sentences_dev.tsv")
    assert found.pop("objective") <= 0.05
    assert all(rate >= 0.9 for rate in found.values()), found


def test_sentences_that_the_lists_were_not_made_with():
    """Measured once, after the lists: 3 of 150 objective sentences raise an alarm; found, and called what they are, are
    23 of 25 evaluative, 23 of 25 emotional, 18 of 25 speculative and 19 of 25 meta ones. Whoever changes the lists
    after a look at these sentences needs new ones.
    """
    found = rates("sentences_held_out.tsv")
    assert found["objective"] <= 0.04
    assert found["evaluative"] >= 0.88
    assert found["emotional"] >= 0.88
    assert found["speculative"] >= 0.68
    assert found["meta"] >= 0.72

"""The form of a caption, the prose made of it, and what the model is asked."""

import json

import pytest
from pydantic import ValidationError

from captioning import prompt
from captioning.examples import EXAMPLES, PAIR, SPEAKER
from captioning.frames import Frames
from captioning.lint import Flag, lint
from captioning.render import LENGTHS, render
from captioning.schema import Caption


def words(text: str) -> int:
    return len(text.split())


@pytest.mark.parametrize("caption", EXAMPLES)
def test_lengths_tell_more_and_more(caption):
    prose = render(caption)
    assert tuple(prose) == LENGTHS
    assert 15 < words(prose["short"]) < words(prose["medium"]) < words(prose["long"]) < 350  # 512 tokens of umT5
    assert render(Caption.model_validate_json(prompt.compact(caption))) == prose
    for text in prose.values():
        assert text[0].isupper()
        assert text.endswith(".")
        assert "  " not in text
        assert ".." not in text


def test_the_long_prose_holds_every_fact():
    text = render(PAIR)["long"].lower()
    for person in PAIR.subjects:
        told = [person.clothing, person.position, *person.accessories, *(m.action for m in person.movements)]
        assert all(part.lower() in text for part in told)
    background = PAIR.background
    for part in (background.place, background.architecture, background.greenery, *background.objects, PAIR.lighting):
        assert part.lower() in text
    assert "low angle" in text
    assert "pans right" in text
    assert "while singing, the girl with the guitar" in text
    assert PAIR.interactions[0].lower() in text


def test_the_short_prose_is_one_sentence():
    assert render(SPEAKER)["short"] == (
        "A medium close-up of a middle-aged man with short black hair, a trimmed beard and light brown skin, who "
        "speaks and lifts both hands from the table with the palms facing each other, in an indoor room "
        "with bookshelves."
    )
    assert render(PAIR)["short"].endswith("in a narrow street with stone steps, next to another person.")


def test_sloppy_fields_still_make_sentences():
    person = SPEAKER.subjects[0].model_copy(
        update={
            "appearance": "A tall man. ",
            "clothing": " ",
            "position": "Stands.",
            "accessories": [],
            "movements": [],
        }
    )
    background = SPEAKER.background.model_copy(
        update={"architecture": None, "objects": [], "colours": [], "greenery": None}
    )
    sloppy = SPEAKER.model_copy(update={"subjects": [person], "background": background, "lighting": ""})
    text = render(sloppy)["long"]
    assert text == (
        "A medium close-up at eye level; the camera stays still. A tall man stands. The man in the grey jacket "
        "speaks. The setting is an indoor room with bookshelves."
    )
    nobody = render(SPEAKER.model_copy(update={"subjects": []}))
    assert nobody["short"] == "A medium close-up of an indoor room with bookshelves."


def test_control_characters_do_not_reach_the_prose():
    data = SPEAKER.model_dump()
    data["lighting"] = "soft\n\tlight\x00 from\u2028above"
    assert Caption.model_validate(data).lighting == "soft light from above"


@pytest.mark.parametrize(
    "change",
    [
        {"mood": "happy"},
        {"camera": {"angle": "eye level", "shot": "medium close-up", "movement": "dances"}},
        {"lighting": "x" * 500},
        {"subjects": [SPEAKER.subjects[0].model_dump()] * 7},
    ],
)
def test_other_forms_are_refused(change):
    with pytest.raises(ValidationError):
        Caption.model_validate(SPEAKER.model_dump() | change)


def test_the_schema_bounds_every_string_and_list():
    """Without bounds a model that runs in circles never ends."""

    def check(node: object) -> None:
        if isinstance(node, dict):
            if node.get("type") == "string":
                assert "maxLength" in node or "enum" in node
            if node.get("type") == "array":
                assert "maxItems" in node
            if node.get("type") == "object":
                assert node["additionalProperties"] is False
                assert set(node["required"]) == set(node["properties"])
            for value in node.values():
                check(value)
        elif isinstance(node, list):
            for value in node:
                check(value)

    check(prompt.schema())


# ---------------------------------------------------------------- the question


def frames(*, marked: bool = False) -> Frames:
    return Frames((b"a", b"b"), 2.0, 1.0, 56, 56, marked)


def test_the_examples_are_as_we_want_answers():
    for example in EXAMPLES:
        assert lint(example) == []
        assert prompt.compact(example) in prompt.instruction()


def test_what_all_clips_share_comes_first():
    plain, marked = prompt.messages(frames()), prompt.messages(frames(marked=True))
    assert plain[0]["role"] == "system"
    assert plain[1]["content"][0] == marked[1]["content"][0] == {"type": "text", "text": prompt.instruction()}
    assert plain[1]["content"][1]["video_url"]["url"].startswith("data:video/jpeg;base64,")
    assert "green frame" in marked[1]["content"][2]["text"]
    assert "green frame" not in json.dumps(plain)


def test_a_second_try_shows_the_answer_and_what_is_wrong_with_it():
    first = prompt.messages(frames())
    flag = Flag("evaluative", "lighting", "lovely", "Remove 'lovely'.")
    chat = prompt.second_try(first, "{...}", [flag, flag])
    assert chat[:2] == first
    assert chat[2] == {"role": "assistant", "content": "{...}"}
    assert chat[3]["content"].count("Remove 'lovely'.") == 1


def test_the_digest_names_the_question(monkeypatch):
    before = prompt.digest()
    prompt.digest.cache_clear()
    monkeypatch.setattr(prompt, "MARKED", "Other words.")
    assert prompt.digest() != before
    prompt.digest.cache_clear()

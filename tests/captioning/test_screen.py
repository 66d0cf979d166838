"""The text screen of sources' captions.

Measured: of screen_dev.tsv, with which the word lists were made, 75 of 75 captions with somebody doing something are
kept and 75 of 75 others dropped; of screen_held_out.tsv, of which nobody who made the lists has seen a caption, 148 of
150 and 134 of 150.
"""

from pathlib import Path

import pytest

from captioning.screen import Screen, screen
from filters.caption import Caption
from tests.filters.builders import scores, view


def kept(caption: str) -> bool:
    said = screen(caption)
    assert said is not None
    return said.keep


def measured(caption: str | None) -> dict[str, float | None]:
    clip = view()
    clip.clip = clip.clip.model_copy(update={"caption": caption})
    return scores(Caption(), clip)


def shares(name: str) -> tuple[float, float]:
    """Share of the `yes` captions that are kept, and of the `no` captions that are dropped."""
    lines = (Path(__file__).parent / name).read_text(encoding="utf-8").splitlines()
    found: dict[str, list[bool]] = {"yes": [], "no": []}
    for label, caption in (line.split("\t", 1) for line in lines):
        found[label].append(kept(caption))
    return sum(found["yes"]) / len(found["yes"]), 1 - sum(found["no"]) / len(found["no"])


# Shares are compared as plain numbers, so that a failure shows no caption of the held-out set.
@pytest.mark.parametrize(
    ("name", "least_kept", "least_dropped"),
    [("screen_dev.tsv", 0.98, 0.97), ("screen_held_out.tsv", 0.97, 0.87)],
)
def test_labelled_captions(name, least_kept, least_dropped):
    yes, no = shares(name)
    assert yes >= least_kept
    assert no >= least_dropped


@pytest.mark.parametrize(
    ("caption", "person", "acts"),
    [
        ("a bride with a veil", True, False),
        ("waves crashing on rocks", False, True),
        ("Portrait photo of an old lady with silver hair", False, False),  # it shows a photo, not her
    ],
)
def test_person_and_action_are_told_apart(caption, person, acts):
    assert screen(caption) == Screen(person, acts)


@pytest.mark.parametrize(
    "caption",
    [
        "Usher shows guests to their seats",
        "the luthier planes a soundboard",  # a verb that is on no list
        "girl_dancing_rooftop_07.mp4",
        "ManWalkingDog final",
        "#gym #training: boxer hits the bag",
        "Weaver at the loom",
        "Interview about the flood",  # nobody is named, but only people do that
        "opening a letter",
        "She's got a new job and can't stop smiling",
        "The man's talking",
        "A lady's hand strokes a horse",
        "The children's dance",
        "Museum visitor looks at a painting of a queen",
        "Robotics engineer adjusts a robotic arm",
        "A boy and his dog run along the beach",
        "Nobody believed her. She lifted the car.",
        "Two Women Laughing Over Coffee in King Street",
        "Élodie is a dancer and she teaches",
    ],
)
def test_somebody_does_something(caption):
    assert kept(caption)


@pytest.mark.parametrize(
    "caption",
    [
        "Statue of a soldier holding a rifle",
        "Cartoon princess dancing in a castle",
        "Animated businessman climbing a ladder, flat design",
        "Grand Theft Auto mission: driver escapes police",
        "Lion cub plays with its mother",
        "Baby birds waiting in the nest for food",
        "Queen bee laying eggs",
        "the ferry Princess Maria leaves the pier",
        "cars crossing Prince Edward Bridge",
        "Teacher's desk with apples",
        "Women's running shoes on a shelf",
        "Playground without children",
        "wedding cake rotating on a stand",
        'a sign says "men are working here"',
        "timelapse_clouds_moving_03",
    ],
)
def test_nobody_does_anything(caption):
    assert not kept(caption)


@pytest.mark.parametrize(
    "caption",
    [
        *("", " \n", "0042", "!?", "一个女人在说话", "امرأة تتحدث", "Женщина говорит"),
        "Una mujer canta con las manos en el pelo",
        "Eine Frau spricht mit der Kamera",
        "Une femme chante dans le métro avec sur la tête un chapeau",
    ],
)
def test_what_an_english_list_cannot_judge(caption):
    assert screen(caption) is None
    assert measured(caption) == {"person": None, "action": None}


def test_the_filter():
    assert measured(None) == {"person": None, "action": None}
    assert measured("a woman speaks") == {"person": 1, "action": 1}
    assert measured("an empty road at dusk") == {"person": 0, "action": 0}


def test_it_decodes_nothing():
    assert not Caption.needs.frames
    assert not Caption.needs.audio


def test_odd_texts_are_judged():
    for caption in ("\"'“’~#. " * 50 + "a", "a man " * 300, "'s " * 300, "\x00a\ud7ff", "A" * 5000):
        assert screen(caption) is not None

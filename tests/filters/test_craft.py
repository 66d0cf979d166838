import cv2
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="CRAFT needs torch")

from filters import weights  # noqa: E402
from filters.nets.craft import Craft, load, word_boxes, words  # noqa: E402
from filters.subtitles import CRAFT, FRAMES, Subtitles  # noqa: E402
from tests.filters.builders import person, scores, view  # noqa: E402


@pytest.fixture(scope="module")
def random_weights(tmp_path_factory):
    """A file in the official layout."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("craft") / "craft_mlt_25k.pth"
    torch.save({f"module.{name}": tensor for name, tensor in Craft().state_dict().items()}, path)
    return path


def test_the_official_network_finds_a_subtitle():
    """Numbers of EasyOCR 1.7.2 on the same picture, whose maps and boxes ours equalled."""
    if not weights.available(CRAFT):
        pytest.skip(f"needs the official weights: s2v weights pull {CRAFT}")
    image = cv2.GaussianBlur(np.random.default_rng(0).integers(0, 255, (240, 426, 3), np.uint8), (0, 0), 6)
    cv2.putText(image, "HELLO WORLD subtitles", (40, 200), cv2.FONT_HERSHEY_SIMPLEX, 1, (255, 255, 255), 2)
    found = word_boxes(load(weights.path(CRAFT)), image, 2000)
    assert len(found) == 3
    assert found[0] == pytest.approx(np.array([[134, 204], [40, 204], [40, 176], [134, 176]]), abs=4)


def test_characters_that_are_linked_are_one_word_and_specks_are_none():
    characters, links = np.zeros((60, 120)), np.zeros((60, 120))
    characters[20:30, 10:20] = characters[20:30, 26:36] = 0.9
    links[24:26, 18:28] = 0.8
    characters[20:30, 60:70] = 0.9  # by itself
    characters[50:52, 5:8] = 0.9  # a speck
    characters[45:55, 90:110] = 0.6  # nowhere sure enough
    found = words(characters, links)
    assert len(found) == 2
    (left, top), (right, bottom) = found[0].min(axis=0), found[0].max(axis=0)
    assert 6 <= left <= 10
    assert 35 <= right <= 40
    assert 16 <= top <= 20
    assert 29 <= bottom <= 34
    assert words(np.zeros((8, 8)), np.zeros((8, 8))).shape == (0, 4, 2)


def test_subtitles_are_measured_with_it(random_weights, monkeypatch):
    monkeypatch.setattr(weights, "path", {CRAFT: random_weights}.__getitem__)
    subtitles = Subtitles(detector="craft", longest=160)
    assert subtitles.chosen_weights() == (CRAFT,)
    assert Subtitles().chosen_weights() != (CRAFT,)
    images = [np.full((90, 120, 3), 90, np.uint8)] * 2
    assert set(scores(subtitles, view({FRAMES: images}, tracks=person()))) == {"area", "face", "hand"}
    # The network's maps decide: where all of the picture is text, all of it is covered.
    subtitles.setup()
    subtitles._craft.conv_cls[-1].bias.data.fill_(5.0)
    assert subtitles.words(images[0]).shape == (1, 4, 2)


def test_other_files_are_refused(tmp_path):
    torch.save({"module.a": torch.zeros(1)}, tmp_path / "a.pth")
    with pytest.raises(ValueError, match="doesn't hold CRAFT"):
        load(tmp_path / "a.pth")
    (tmp_path / "b.pth").write_text("<html>")
    with pytest.raises(ValueError, match="can't be read"):
        load(tmp_path / "b.pth")

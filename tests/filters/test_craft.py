import cv2
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="CRAFT needs torch")

from filters import weights  # noqa: E402
from filters.nets.craft import Craft, load, score_maps, text_boxes  # noqa: E402
from filters.nets.craft_boxes import lines, words  # noqa: E402
from filters.subtitles import CRAFT, FRAMES, Subtitles  # noqa: E402
from tests.filters.builders import person, scores, view  # noqa: E402


@pytest.fixture(scope="module")
def random_weights(tmp_path_factory):
    """A file in the official layout."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("craft") / "craft_mlt_25k.pth"
    torch.save({f"module.{name}": tensor for name, tensor in Craft().state_dict().items()}, path)
    return path


def word(left: int, top: int, right: int, bottom: int, rise: int = 0) -> list[list[int]]:
    return [[left, top], [right, top + rise], [right, bottom + rise], [left, bottom]]


def edges(boxes: np.ndarray) -> list[tuple[int, ...]]:
    """Left, top, right, bottom of each, in order."""
    return sorted((*map(int, box.min(axis=0)), *map(int, box.max(axis=0))) for box in boxes)


def test_the_official_network_equals_easyocr():
    """Numbers of EasyOCR 1.7.2 on the same picture: samples of its score maps, and what its `detect` returns."""
    if not weights.available(CRAFT):
        pytest.skip(f"needs the official weights: s2v weights pull {CRAFT}")
    image = cv2.GaussianBlur(np.random.default_rng(0).integers(0, 255, (240, 426, 3), np.uint8), (0, 0), 6)
    for text, at, size, width in (("HELLO WORLD subtitles", (40, 200), 1, 2), ("above", (250, 60), 1.4, 3)):
        cv2.putText(image, text, at, cv2.FONT_HERSHEY_SIMPLEX, size, (255, 255, 255), width)
    net = load(weights.path(CRAFT))
    characters, links = score_maps(net, [image], 1.0)[0]
    rows, columns = [95, 95, 95, 25, 60], [30, 60, 150, 140, 100]
    assert characters.shape == links.shape == (128, 224)
    assert characters[rows, columns] == pytest.approx([0.35773, 0.91387, 0.92124, 0.55858, 0.00102], abs=1e-4)
    assert links[rows, columns] == pytest.approx([0.96991, 0.06462, 0.2309, 0.59036, 0.00023], abs=1e-4)
    assert (characters.mean(), links.mean()) == pytest.approx((0.047246, 0.018267), abs=1e-5)
    assert edges(text_boxes(net, [image], 2560)[0]) == [(38, 174, 368, 206), (245, 25, 373, 67)]


def test_images_of_a_batch_do_not_meet(random_weights):
    net = load(random_weights)
    images = list(np.random.default_rng(0).integers(0, 255, (3, 50, 70, 3), np.uint8))
    together = score_maps(net, images, 0.8)
    assert together.shape == (3, 2, 32, 32)
    for maps, image in zip(together, images, strict=True):
        np.testing.assert_allclose(score_maps(net, [image], 0.8)[0], maps, atol=1e-4)
    assert text_boxes(net, [], 100) == []


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


def test_words_that_follow_each_other_are_one_line():
    near = word(10, 100, 50, 120), word(58, 101, 90, 121)
    assert edges(lines(np.array(near))) == [(8, 98, 92, 123)]
    far, below, tall = word(150, 100, 190, 120), word(10, 140, 60, 160), word(94, 60, 140, 160)
    assert len(lines(np.array([*near, far, below, tall]))) == 4
    assert lines(np.zeros((0, 4, 2))).shape == (0, 4, 2)


def test_a_slanted_word_stays_by_itself():
    assert edges(lines(np.array([word(10, 100, 60, 120, rise=30), word(62, 115, 90, 135)]))) == [
        (10, 100, 60, 150),
        (60, 113, 92, 137),
    ]


def test_a_short_word_counts_within_a_line_alone():
    short = word(10, 100, 26, 116), word(30, 100, 46, 116)
    assert len(lines(np.array(short[:1]))) == 0
    assert edges(lines(np.array(short))) == [(9, 99, 47, 117)]


def test_subtitles_are_measured_with_it(random_weights, monkeypatch):
    monkeypatch.setattr(weights, "path", {CRAFT: random_weights}.__getitem__)
    subtitles = Subtitles(detector="craft", longest=160)
    assert subtitles.chosen_weights() == (CRAFT,)
    assert Subtitles().chosen_weights() != (CRAFT,)
    images = [np.full((90, 120, 3), 90, np.uint8)] * 2
    assert set(scores(subtitles, view({FRAMES: images}, tracks=person()))) == {"area", "face", "hand"}
    # The network's maps decide: where all of the picture is text, all of it is covered.
    subtitles.setup()
    torch.nn.init.constant_(subtitles._craft.get_parameter("conv_cls.8.bias"), 5.0)
    assert subtitles.craft(images)[0].shape == (1, 4, 2)
    assert subtitles.text_masks(images)[0].sum() == 0  # too tall for a subtitle


def test_other_files_are_refused(tmp_path):
    torch.save({"module.a": torch.zeros(1)}, tmp_path / "a.pth")
    with pytest.raises(ValueError, match="doesn't hold CRAFT"):
        load(tmp_path / "a.pth")
    (tmp_path / "b.pth").write_text("<html>")
    with pytest.raises(ValueError, match="can't be read"):
        load(tmp_path / "b.pth")

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="Light-ASD needs torch")

from dataset.media import FrameBatch  # noqa: E402
from filters import weights  # noqa: E402
from filters.active_speaker import FRAMES, WEIGHTS, ActiveSpeaker, face_boxes, faces, pcm16, time_grid  # noqa: E402
from filters.nets.light_asd import LightASD  # noqa: E402
from tests.conftest import shared  # noqa: E402
from tests.filters.builders import nobody, person, scores, view  # noqa: E402
from tests.filters.test_occupancy import join  # noqa: E402

NOTHING = {"speaking": None, "logit": None, "active_time": None, "person": None, "active": None}
HEIGHT, WIDTH = 300, 600
LEFT, RIGHT = 150.5, 450.5  # x of the middle of a face
Y, SIZE = 100.5, 160  # with this size, what the network sees are 112 x 112 pixels of the frame as they are
SHOWN = 76, 94  # row and column of their corner, for a face on the left


@pytest.fixture
def official(monkeypatch) -> None:
    monkeypatch.setattr(weights, "path", {WEIGHTS: shared("golden/light_asd/pretrain_AVA_CVPR.model")}.__getitem__)


@pytest.fixture
def untrained(tmp_path, monkeypatch) -> None:
    torch.save(LightASD().state_dict(), tmp_path / "asd.model")
    monkeypatch.setattr(weights, "path", {WEIGHTS: tmp_path / "asd.model"}.__getitem__)


@pytest.fixture
def talk(official) -> dict[str, np.ndarray]:
    """5 s of a real talker."""
    return dict(np.load(shared("golden/light_asd/real_wda_kh_130f.npz")))


def box(x: float, size: float = SIZE / 1.1) -> np.ndarray:
    """A face as tracks hold it, in shares of the frame."""
    middle = np.array([x, Y])
    return np.concatenate([middle - size / 2, middle + size / 2]) / (WIDTH, HEIGHT, WIDTH, HEIGHT)


def stage(left: np.ndarray, right: np.ndarray | None = None) -> list[np.ndarray]:
    """Frames that show grey crops (T, 112, 112) where Light-ASD will look for them."""
    frames = np.full((len(left), HEIGHT, WIDTH, 3), 90, np.uint8)
    row, column = SHOWN
    frames[:, row : row + 112, column : column + 112] = left[..., None]
    if right is not None:
        column += round(RIGHT - LEFT)
        frames[:, row : row + 112, column : column + 112] = right[..., None]
    return list(frames)


def measure(frames: list[np.ndarray], audio: np.ndarray | None, tracks: Any) -> dict[str, float | None]:
    return scores(ActiveSpeaker(), view({FRAMES: frames}, audio=audio, tracks=tracks))


def test_a_talker_scores_as_upstream_scores_him(talk):
    audio = talk["audio_int16"] / np.float32(32768)
    found = measure(stage(talk["visual"]), audio, person(count=130, face=box(LEFT)))
    logits = talk["ava_scores_mean"]
    assert found["logit"] == pytest.approx(logits.mean(), abs=1e-3)
    assert found["active_time"] == pytest.approx((logits > 0).sum() / 25)
    assert found["speaking"] > (logits > 0).mean()  # pauses between words don't count
    assert found["speaking"] > 0.9
    assert (found["person"], found["active"]) == (0, 1)


def test_of_two_faces_the_one_that_speaks_is_chosen(talk):
    moving, audio = talk["visual"][:60], talk["audio_int16"][: 61 * 640] / np.float32(32768)
    still = np.repeat(moving[:1], 60, axis=0)
    both = join(person(count=60, face=box(LEFT)), person(count=60, face=box(RIGHT)))
    found = measure(stage(still, moving), audio, replace(both, ids=np.array([7, 3])))
    assert found["person"] == 3
    assert found["active"] == 1
    assert found["speaking"] > 0.8


def test_moving_lips_in_silence_do_not_speak(talk):
    found = measure(stage(talk["visual"][:40]), np.zeros(41 * 640, np.float32), person(count=40, face=box(LEFT)))
    assert found["speaking"] == found["active_time"] == found["active"] == 0
    assert found["logit"] < -1


def test_where_a_face_is_not_seen_it_does_not_speak(talk):
    where = np.tile(box(LEFT), (60, 1))
    where[30:] = np.nan
    audio = talk["audio_int16"][: 61 * 640] / np.float32(32768)
    found = measure(stage(talk["visual"][:60]), audio, person(count=60, face=where))
    assert 0.3 < found["speaking"] < 0.65


def test_what_can_not_be_judged(untrained):
    frames, audio = [np.zeros((HEIGHT, WIDTH, 3), np.uint8)] * 60, np.zeros(60 * 640, np.float32)
    face = person(count=60, face=box(LEFT))
    assert measure(frames, None, face) == NOTHING
    assert measure(frames, audio, nobody(60)) == NOTHING
    assert measure(frames, audio, person(count=60, face=np.full(4, np.nan))) == NOTHING
    glimpse = np.full((60, 4), np.nan)
    glimpse[0] = box(LEFT)
    assert measure(frames, audio, person(count=60, face=glimpse)) == NOTHING
    assert measure(frames[:1], audio[:100], person(count=1, face=box(LEFT))) == NOTHING


@pytest.mark.parametrize("audio", ["shorter", "longer"])
def test_sound_and_pictures_of_unlike_length(untrained, audio):
    frames = [np.zeros((HEIGHT, WIDTH, 3), np.uint8)] * 25
    sound = np.random.default_rng(0).normal(0, 0.1, {"shorter": 15, "longer": 60}[audio] * 640).astype(np.float32)
    assert measure(frames, sound, person(count=25, face=box(LEFT)))["logit"] is not None


@pytest.mark.parametrize(
    "times",
    [np.arange(60) / 30, np.arange(24) / 12, np.sort(np.random.default_rng(1).uniform(0, 2, 40))],
    ids=["30 fps", "12 fps", "variable rate"],
)
def test_the_network_sees_25_frames_a_second_whatever_the_clip_has(times):
    images = [np.full((HEIGHT, WIDTH, 3), 4 * i, np.uint8) for i in range(len(times))]
    tracks = person(count=50, face=box(LEFT))
    grid = time_grid(np.zeros(2 * 16000, np.float32))
    ((_, run, crops),) = faces(FrameBatch(images, times), tracks, grid)
    assert (run.start, run.stop) == (0, 49)  # the last frame misses the end of its sound
    shown = times[crops[:, 56, 56] // 4]
    assert np.abs(shown - grid) == pytest.approx(np.abs(times[:, None] - grid).min(axis=0))


def test_short_gaps_are_bridged_and_long_ones_are_not():
    where = np.stack([box(x) for x in np.linspace(LEFT, RIGHT, 60)])
    gaps = where.copy()
    gaps[10:18], gaps[30:50] = np.nan, np.nan
    found = face_boxes(person(count=60, face=gaps), 0, np.arange(60) / 25)
    assert found[:30] == pytest.approx(where[:30], abs=1e-6)
    assert np.isnan(found[35:45]).all()


def test_sound_is_16_bit():
    whole = np.array([-32768, -2, 0, 1, 32767], np.int16)
    assert np.array_equal(pcm16(whole / np.float32(32768)), whole)
    loud = pcm16(np.array([-1.7, 1.0, 2.5], np.float32))
    assert loud.dtype == np.int16
    assert loud.tolist() == [-32768, 32767, 32767]

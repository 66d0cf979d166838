"""The demo's videos are what their names say: playable, with lips that follow the sound, or not."""

from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from av.error import InvalidDataError

from curation.demo import BROKEN, FPS, NEAR, VIDEOS, make_demo
from curation.demo_portrait import MOUTH_HALF, MOUTH_X, MOUTH_Y
from curation.demo_speech import RATE, music, openness, speech
from filters.weights import MissingWeights


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("demo")
    try:
        make_demo(out, only=("talker_1", "fails_out_of_sync", "fails_no_audio", "fails_truncated"))
    except MissingWeights as missing:
        pytest.skip(str(missing))
    return out


def read(path: Path) -> tuple[list[np.ndarray], np.ndarray]:
    """The frames, and the sound at the demo's own rate."""
    with av.open(str(path)) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    with av.open(str(path)) as container:
        resampler = av.AudioResampler(format="flt", layout="mono", rate=RATE)
        pieces = [piece.to_ndarray()[0] for frame in container.decode(audio=0) for piece in resampler.resample(frame)]
    return frames, np.concatenate(pieces)


def sync(path: Path) -> float:
    """How well the dark of the open mouth goes along with the loudness: a correlation."""
    frames, sound = read(path)
    (x0, y0), (x1, y1) = NEAR.to_frame(MOUTH_X - MOUTH_HALF, MOUTH_Y), NEAR.to_frame(MOUTH_X + MOUTH_HALF, MOUTH_Y + 24)
    dark = [(cv2.cvtColor(frame[y0:y1, x0:x1], cv2.COLOR_RGB2GRAY) < 70).mean() for frame in frames]
    return float(np.corrcoef(dark, openness(sound, FPS, len(frames)))[0, 1])


def test_a_talker_plays_and_moves_its_lips_with_the_sound(demo):
    frames, sound = read(demo / "talker_1.mp4")
    assert 5 < len(frames) / FPS < 8
    assert abs(len(sound) / RATE - len(frames) / FPS) < 0.1
    assert np.sqrt((sound**2).mean()) > 0.03
    assert sync(demo / "talker_1.mp4") > 0.7


def test_the_shifted_sound_is_out_of_sync(demo):
    assert abs(sync(demo / "fails_out_of_sync.mp4")) < 0.3


def test_no_audio_means_no_audio_stream(demo):
    with av.open(str(demo / "fails_no_audio.mp4")) as container:
        assert [stream.type for stream in container.streams] == ["video"]


def test_the_truncated_file_does_not_open(demo):
    with pytest.raises(InvalidDataError):
        av.open(str(demo / "fails_truncated.mp4"))


def test_speech_is_the_same_every_time(demo):
    assert np.array_equal(speech("Hello."), speech("Hello."))


def test_every_file_says_what_to_expect():
    assert all(name.startswith(("talker_", "fails_")) for name in (*VIDEOS, *BROKEN))


def test_openness_follows_loudness():
    sound = music(2.0)
    sound[RATE:] = 0
    opened = openness(sound, FPS, 50)
    assert opened[:20].mean() > 0.3
    assert opened[30:].max() == 0

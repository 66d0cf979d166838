import numpy as np
import pytest

from filters import weights
from filters.voice import WEIGHTS, Voice
from tests.filters.builders import scores, seconds, view

pytestmark = pytest.mark.skipif(not weights.available(WEIGHTS), reason="the Silero weights are not in the cache")


def measure(audio):
    return scores(Voice(), view(audio=audio))


def vowels(duration: float, seed: int = 0) -> np.ndarray:
    """A crude talker: glottal pulses through wandering formants, in syllables of about 0.2 s."""
    rng = np.random.default_rng(seed)
    t = seconds(duration)
    pitch = 120 + 15 * np.sin(2 * np.pi * 0.9 * t) + 8 * np.sin(2 * np.pi * 2.3 * t)
    phase = np.cumsum(pitch) / 16_000
    sound = np.zeros_like(t)
    syllable = (t / 0.22).astype(int)
    f1, f2 = rng.uniform(300, 800, 99)[syllable], rng.uniform(900, 2300, 99)[syllable]
    for k in range(1, 30):
        frequency = k * pitch
        gain = sum(1 / (1 + ((frequency - f) / 90) ** 2) for f in (f1, f2, 2600.0))
        sound += gain * np.sin(2 * np.pi * k * phase) / k**0.5
    envelope = np.clip(np.sin(np.pi * ((t / 0.22) % 1)) * 1.5, 0, 1)
    sound = sound * envelope + 0.02 * rng.standard_normal(len(t))
    return (0.1 * sound / np.abs(sound).max() * 3).astype(np.float32)


def test_speech_is_heard_and_its_pause_measured():
    quiet = 0.0005 * np.random.default_rng(0).standard_normal(32_000).astype(np.float32)
    found = measure(np.concatenate([vowels(2), quiet, vowels(2, 1)]))
    assert 0.3 < found["speech"] < 0.75
    assert found["longest_pause"] == pytest.approx(2, abs=0.5)


def test_a_chord_is_not_speech():
    t = seconds(4)
    chord = sum(np.sin(2 * np.pi * f * t) for f in (262, 330, 392)) * 0.05 * (1 + 0.6 * np.sin(2 * np.pi * 4 * t))
    found = measure(chord.astype(np.float32))
    assert found["speech"] < 0.05
    assert found["longest_pause"] > 3.5


def test_silence_and_noise_are_not_speech():
    assert measure(np.zeros(48_000, np.float32))["speech"] == 0
    assert measure(0.01 * np.random.default_rng(0).standard_normal(48_000).astype(np.float32))["speech"] < 0.1


def test_no_audio():
    assert measure(None) == {"speech": None, "longest_pause": None}

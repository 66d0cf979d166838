import shutil
import wave
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from filters import weights

RATE = 48_000


@pytest.fixture(scope="session")
def portrait() -> str:
    return str(weights.path("scikit-image/astronaut.png"))


def voice(seconds: float, rate: int = RATE) -> np.ndarray:
    """(samples,) something like a voice: a hum in syllables, and breath."""
    time = np.arange(round(seconds * rate)) / rate
    hum = np.sin(2 * np.pi * 160 * time) * (0.5 + 0.5 * np.sin(2 * np.pi * 4 * time))
    return 0.3 * hum + 0.02 * np.random.default_rng(0).standard_normal(time.size)


def write_wav(path: Path, samples: np.ndarray, rate: int = RATE, channels: int = 1) -> str:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes((np.repeat(samples, channels) * 32_767).astype("<i2").tobytes())
    return str(path)


@pytest.fixture(scope="session")
def talk(tmp_path_factory: pytest.TempPathFactory) -> str:
    """12 seconds: three clips."""
    return write_wav(tmp_path_factory.mktemp("sound") / "talk.wav", voice(12))


@pytest.fixture(scope="session")
def options(tiny: Path, portrait: str, talk: str) -> Callable[..., list[str]]:
    """Arguments of a quick `s2v generate`; given ones replace them, and None takes one out."""

    def options(out: Path, **changed: object) -> list[str]:
        usual: dict[str, object] = {
            "image": portrait,
            "audio": talk,
            "prompt": "A woman speaks to the camera",
            "checkpoint": tiny,
            "out": out,
            "size": "64x64",
            "steps": 2,
        }
        chosen = usual | {key.replace("_", "-"): value for key, value in changed.items()}
        flags = [f"--{key}" for key, value in chosen.items() if value is True]
        valued = [(key, value) for key, value in chosen.items() if value is not None and value is not True]
        return ["generate", *flags, *(word for key, value in valued for word in (f"--{key}", str(value)))]

    return options


@pytest.fixture(scope="session")
def copied(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Path]:
    """A copy of the tiny checkpoint that a test may change."""

    def copy() -> Path:
        return Path(shutil.copytree(tiny, tmp_path_factory.mktemp("copy") / "checkpoint"))

    return copy

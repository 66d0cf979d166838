"""Sound for the demo's videos: speech by eSpeak NG, a little music, and how far a mouth opens for a sound."""

import ctypes
import shutil
import tempfile
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from filters import weights

RATE = 22_050  # Hz, what eSpeak NG speaks at
VOICE = "en-us+f3"
GAP = 18  # between words, in 10 ms (at normal speed): lips that rest now and then show what they follow

# Where eSpeak NG looks for each file, below its data folder.
DATA = dict.fromkeys(("phondata", "phonindex", "phontab", "intonations", "en_dict"), "")
DATA |= {"en-US": "lang/gmw", "f3": "voices/!v"}

# From speak_lib.h
AUDIO_OUTPUT_SYNCHRONOUS, POSITION_CHARACTER, CHARS_UTF8 = 2, 1, 1
PARAMETER_RATE, PARAMETER_PITCH, PARAMETER_GAP = 1, 3, 7
Callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)


def speech(text: str, pitch: int = 50, speed: int = 200) -> np.ndarray:
    """(samples,) float32 in [-1, 1] at RATE: `text` spoken in English, `speed` in words a minute.

    The C library runs in a process of its own: it can't take ours down, and its licence stays with it.
    """
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        try:
            return pool.submit(_speak, text, pitch, speed).result()
        except (BrokenProcessPool, OSError) as error:
            raise RuntimeError("eSpeak NG does not run here; the demo's voice needs Linux on x86-64") from error


def music(seconds: float) -> np.ndarray:
    """(samples,) float32 at RATE: slow broken chords, with nothing in them like a voice."""
    time = np.arange(round(seconds * RATE)) / RATE
    sound = np.zeros_like(time)
    for number, start in enumerate(np.arange(0, seconds, 0.25)):
        chord = ((0, 4, 7, 12), (-3, 0, 4, 9), (-7, -3, 0, 5), (-5, -1, 2, 7))[number // 8 % 4]
        frequency = 261.6 * 2 ** (chord[number % 4] / 12)
        since = np.clip(time - start, 0, None)
        sound += np.sin(2 * np.pi * frequency * since) * np.exp(-3 * since) * np.minimum(since / 0.01, 1)
    return (0.25 * sound).astype(np.float32)


def openness(sound: np.ndarray, fps: float, frames: int) -> np.ndarray:
    """(frames,) in 0..1: how far a mouth is open while it makes `sound`: its loudness around each frame's time."""
    window = round(RATE / fps)
    centres = np.round(np.arange(frames) * RATE / fps).astype(int)
    padded = np.pad(sound.astype(np.float64) ** 2, (window // 2, window + max(0, int(centres[-1]) - len(sound))))
    loudness = np.sqrt([padded[at : at + window].mean() for at in centres])
    smooth = np.convolve(loudness, (0.2, 0.6, 0.2), "same")  # lips have mass
    return np.clip(smooth / max(np.percentile(smooth, 92), 1e-6), 0, 1)


def _speak(text: str, pitch: int, speed: int) -> np.ndarray:
    chunks: list[np.ndarray] = []

    @Callback
    def collect(samples, count, _events):
        if count:
            chunks.append(np.ctypeslib.as_array(samples, (count,)).copy())
        return 0

    library = ctypes.CDLL(str(weights.path("espeakng-loader/libespeak-ng.so")))
    with tempfile.TemporaryDirectory() as data:
        for name, below in DATA.items():
            folder = Path(data) / below
            folder.mkdir(parents=True, exist_ok=True)
            shutil.copy(weights.path(f"espeakng-loader/{name}"), folder)
        if library.espeak_Initialize(AUDIO_OUTPUT_SYNCHRONOUS, 0, data.encode(), 0) != RATE:
            raise OSError("eSpeak NG did not accept its data files")
        library.espeak_ng_SetRandSeed(ctypes.c_long(1))  # of the breath in the voice
        library.espeak_SetSynthCallback(collect)
        library.espeak_SetVoiceByName(VOICE.encode())
        library.espeak_SetParameter(PARAMETER_RATE, speed, 0)
        library.espeak_SetParameter(PARAMETER_PITCH, pitch, 0)
        library.espeak_SetParameter(PARAMETER_GAP, GAP, 0)
        spoken = text.encode()
        size = ctypes.c_size_t(len(spoken) + 1)
        library.espeak_Synth(spoken, size, 0, POSITION_CHARACTER, 0, CHARS_UTF8, None, None)
    return np.concatenate(chunks).astype(np.float32) / 32768

"""Mel-frequency cepstral coefficients, number for number those of python_speech_features 0.6 (`base.mfcc`).

Light-ASD was trained on that library's defaults, quirks included: a rectangular window, triangles snapped to whole
Fourier bins, and the log energy of the frame in place of the first coefficient.
"""

import numpy as np

RATE = 16_000  # Hz
WINDOW, STEP = 400, 160  # samples: 25 ms every 10 ms
COEFFICIENTS = 13
BANDS = 26
FOURIER = 512  # samples, a window and zeros after it
PRE_EMPHASIS = 0.97
LIFTER = 22


def mfcc(sound: np.ndarray) -> np.ndarray:
    """sound: (samples,) int16 at 16 kHz, not scaled to -1..1. Returns (F, 13) float64, 100 rows a second.

    Row i starts at sample 160 i. The last row's window is filled up with zeros, so F = 1 + ceil((samples - 400) / 160),
    at least 1; 0 without any sound.
    """
    if not len(sound):
        return np.zeros((0, COEFFICIENTS))
    level = sound.astype(np.float64)
    level[1:] -= PRE_EMPHASIS * level[:-1]
    power = np.abs(np.fft.rfft(windows(level), FOURIER)) ** 2 / FOURIER
    found = log(power @ triangles().T) @ cosines().T
    found *= 1 + LIFTER / 2 * np.sin(np.pi * np.arange(COEFFICIENTS) / LIFTER)
    found[:, 0] = log(power.sum(axis=1))
    return found


def windows(level: np.ndarray) -> np.ndarray:
    """(samples,) -> (F, 400), a view."""
    steps = max(0, -(-(len(level) - WINDOW) // STEP))
    padded = np.pad(level, (0, steps * STEP + WINDOW - len(level)))
    return np.lib.stride_tricks.sliding_window_view(padded, WINDOW)[::STEP]


def triangles() -> np.ndarray:
    """(26, 257) weights of the Fourier bins in the mel bands from 0 to 8 kHz."""
    mel = np.linspace(0, 2595 * np.log10(1 + RATE / 2 / 700), BANDS + 2)
    corners = np.floor((FOURIER + 1) * 700 * (10 ** (mel / 2595) - 1) / RATE)
    low, middle, high = corners[:-2, None], corners[1:-1, None], corners[2:, None]
    bins = np.arange(FOURIER // 2 + 1)
    return np.clip(np.minimum((bins - low) / (middle - low), (high - bins) / (high - middle)), 0, None)


def cosines() -> np.ndarray:
    """(13, 26) the first rows of the orthonormal DCT-II."""
    order, band = np.mgrid[:COEFFICIENTS, :BANDS]
    basis = np.sqrt(2 / BANDS) * np.cos(np.pi * order * (2 * band + 1) / (2 * BANDS))
    basis[0] /= np.sqrt(2)
    return basis


def log(energy: np.ndarray) -> np.ndarray:
    return np.log(np.where(energy == 0, np.finfo(float).eps, energy))

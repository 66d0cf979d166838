"""Look at the videos that came out."""

from dataclasses import dataclass

import av
import numpy as np

import cli


@dataclass(frozen=True)
class Film:
    """frames (T, H, W, 3) float, times (T,) seconds, sound (samples,) at 48 kHz from the first frame's time on."""

    frames: np.ndarray
    times: np.ndarray
    sound: np.ndarray


def watch(path: object) -> Film:
    with av.open(str(path)) as file:
        frames = list(file.decode(video=0))
    with av.open(str(path)) as file:
        heard = list(file.decode(audio=0))
    start = float(frames[0].pts * frames[0].time_base)
    sound = np.concatenate([frame.to_ndarray().mean(axis=0) for frame in heard])
    late = round((float(heard[0].pts * heard[0].time_base) - start) * heard[0].sample_rate)
    sound = sound[-late:] if late < 0 else np.pad(sound, (late, 0))
    return Film(
        np.stack([frame.to_ndarray(format="rgb24") for frame in frames]).astype(float),
        np.array([float(frame.pts * frame.time_base) for frame in frames]) - start,
        sound,
    )


def s2v(arguments: list[str]) -> int:
    """Run a command in this process; returns the exit code."""
    try:
        cli.main(arguments)
    except SystemExit as e:
        return int(e.code or 0)
    return 0

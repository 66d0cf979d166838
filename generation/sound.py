"""Sound in: what wav2vec2 hears, and what the video will play."""

from dataclasses import dataclass

import av
import numpy as np

from dataset.cut import SOUND_RATE
from dataset.media import AUDIO_RATE, MediaError, Opened, open_sound, read_audio
from model.audio_frames import FRAME_RATE
from model.errors import InputError

LONGEST = 1200.0  # seconds of one run: the states of 25 layers are held in memory, 1.6 MB a second
SILENT = 1e-3  # peak, of 1
SHORT = 0.5  # seconds


@dataclass(frozen=True)
class Sound:
    """speech (n,) float32, 16 kHz mono. track (2, m) float32, 48 kHz."""

    speech: np.ndarray
    track: np.ndarray
    rate: int  # of the file, Hz

    @property
    def frames(self) -> int:
        """Video frames that hold all of it."""
        return max(1, int(np.ceil(self.speech.size / AUDIO_RATE * FRAME_RATE - 1e-6)))

    @property
    def peak(self) -> float:
        return float(np.abs(self.speech).max(initial=0))


def read_sound(path: str, start: float = 0.0, seconds: float | None = None) -> Sound:
    """The sound of a file from `start` on, for `seconds` or to its end; any rate, any number of channels."""
    try:
        with open_sound(path) as opened:
            there = duration(opened) - start
            if there <= 0:
                raise InputError(f"{path} lasts {clock(there + start)}: nothing is left after {start:g} s.")
            wanted = there if seconds is None else min(seconds, there)
            if wanted > LONGEST:
                raise InputError(
                    f"{path} lasts {clock(there)}, which is more than a run takes ({clock(LONGEST)}). Say how much of "
                    "it to use with --seconds, and go on from there with --continue and --audio-start."
                )
            track = read_audio(opened, start, start + wanted, rate=SOUND_RATE, layout="stereo")
            opened.seek(0.0, opened.audio)
            speech = read_audio(opened, start, start + wanted, rate=AUDIO_RATE)[0]
            return Sound(speech, track, opened.audio.rate)
    except MediaError as e:
        raise InputError(f"{path}: {e}; {e.remedy}.") from e


def duration(opened: Opened) -> float:
    """Seconds, by the header."""
    audio = opened.audio
    if audio.duration:
        return float(audio.duration * audio.time_base)
    if opened.container.duration:
        return opened.container.duration / av.time_base
    raise MediaError("the header states no duration", "convert it to WAV, for example with `ffmpeg`")


def clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}" if minutes >= 60 else f"{minutes}:{rest:02}"

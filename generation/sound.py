"""Sound in: what wav2vec2 hears, and what the video will play."""

from dataclasses import dataclass

import numpy as np

from dataset.cut import SOUND_RATE
from dataset.media import AUDIO_RATE, MediaError, open_sound, read_audio_until
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
    """The sound of a file from `start` on, for `seconds` or to its end; any rate, any number of channels.

    It is decoded to the end: headers are often wrong about where that is.
    """
    end = start + min(seconds or LONGEST + 1, LONGEST + 1)  # enough to see that it is too long
    try:
        with open_sound(path) as opened:
            track, played = read_audio_until(opened, start, end, rate=SOUND_RATE, layout="stereo")
            opened.seek(0.0, opened.audio)
            speech, heard = read_audio_until(opened, start, end, rate=AUDIO_RATE)
            rate = opened.audio.rate
    except MediaError as e:
        raise InputError(f"{path}: {e}; {e.remedy}.") from e
    sound = Sound(speech[0, :heard], track[:, :played], rate)
    if heard > LONGEST * AUDIO_RATE:
        raise InputError(
            f"{path} lasts longer than a run takes ({clock(LONGEST)}). Say how much of it to use with --seconds, "
            "and go on from there with --continue and --audio-start."
        )
    if heard < SHORT * AUDIO_RATE:
        raise InputError(f"{path} has {heard / AUDIO_RATE:.2f} s of sound from {start:g} s on; {SHORT} s are needed.")
    if not np.isfinite(sound.speech).all():
        raise InputError(f"{path} holds samples that are no numbers: export it again.")
    return sound


def clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}" if minutes >= 60 else f"{minutes}:{rest:02}"

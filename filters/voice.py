"""Speech, found by Silero VAD."""

import numpy as np
import onnxruntime
from pydantic import PrivateAttr

from dataset.media import AUDIO_RATE
from filters.base import ClipView, Filter, Measurement, Needs, score
from filters.nets import onnx

WEIGHTS = "silero-vad/silero_vad_16k_op15.onnx"
WINDOW = 512  # samples that the network hears at a time
CONTEXT = 64  # samples before them that it also sees


class Voice(Filter):
    """Whether anybody speaks on the sound track: what drives the video must be a voice (paper section 2)."""

    needs = Needs(audio=True)
    weights = (WEIGHTS,)

    threshold: float = 0.5  # probability of speech at which speech begins
    hysteresis: float = 0.15  # it ends this much lower

    _net: onnxruntime.InferenceSession = PrivateAttr()

    class Scores(Measurement):
        speech: float | None = score(unit="share of time", better="higher", about="32 ms windows with speech")
        longest_pause: float | None = score(unit="s", better="lower", about="longest stretch without speech")

    def setup(self) -> None:
        self._net = onnx.load(WEIGHTS)

    def measure(self, clip: ClipView) -> Scores:
        if clip.audio is None or len(clip.audio) < WINDOW:
            return self.Scores()
        speech = self.speech(self.probabilities(clip.audio))
        pauses = np.diff(np.flatnonzero(np.concatenate([[True], speech, [True]]))) - 1
        return self.Scores(speech=float(speech.mean()), longest_pause=float(pauses.max()) * WINDOW / AUDIO_RATE)

    def probabilities(self, audio: np.ndarray) -> np.ndarray:
        """(windows,) probability of speech."""
        padded = np.concatenate([np.zeros(CONTEXT, np.float32), audio])
        state, rate, found = np.zeros((2, 1, 128), np.float32), np.array(AUDIO_RATE, np.int64), []
        for start in range(0, len(audio) - WINDOW + 1, WINDOW):
            heard = padded[None, start : start + CONTEXT + WINDOW]
            chance, state = self._net.run(None, {"input": heard, "state": state, "sr": rate})
            found.append(np.asarray(chance).item())
        return np.array(found)

    def speech(self, chances: np.ndarray) -> np.ndarray:
        """(windows,) bool: begins at `threshold`, goes on until `hysteresis` below it."""
        talking, found = False, []
        for chance in chances:
            talking = chance >= self.threshold - (self.hysteresis if talking else 0)
            found.append(talking)
        return np.array(found)

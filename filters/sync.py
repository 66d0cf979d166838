"""Do the lips move with the sound? Correlation of lip motion and loudness over lags."""

import numpy as np

from dataset.media import AUDIO_RATE
from dataset.tracks import FACE, Tracks
from filters.base import ClipView, Filter, Measurement, Needs, score
from filters.faces import visible

RATE = 25  # Hz of the compared curves
UPPER, LOWER = 62, 66  # iBUG points: the middle of the inner lips
CHIN, BROW = 8, 27  # jaw tip and the top of the nose: the face height that distances are divided by


class Sync(Filter):
    """Audio that is not synchronised with the speaker, or a speaker who does not speak (paper section 2).

    The paper names Light-ASD, which was measured not to notice shifted audio. Here the speed at which the inner lips
    open and close is correlated with the loudness of the voice band at lags of up to 1 s. A weak statistic: use it to
    drop clear cases only. With several faces, the scores are those of the face with the highest z.
    """

    needs = Needs(audio=True, after=("pose",))

    least_seconds: float = 4.0  # of visible face; shorter clips are not judged
    near: int = 3  # frames at 25 fps within which audio counts as in sync
    reach: int = 25  # frames, the largest lag looked at

    class Scores(Measurement):
        z: float | None = score(
            unit="MADs", better="higher", about="best correlation within 0.12 s, above the median of the other lags"
        )
        rival: float | None = score(
            unit="MADs", better="lower", about="best correlation at other lags, minus the best within 0.12 s"
        )
        lag: float | None = score(unit="s", better="none", about="lag of the best correlation, + = audio is late")
        correlation: float | None = score(unit="Pearson r", better="higher", about="at that lag")
        mouth: float | None = score(
            unit="face heights / s", better="higher", about="median speed of the inner lip opening while there is sound"
        )

    def measure(self, clip: ClipView) -> Scores:
        assert clip.tracks is not None
        if clip.audio is None or len(clip.tracks.times) < 2:
            return self.Scores()
        grid = np.arange(clip.tracks.times[0], min(clip.tracks.times[-1], len(clip.audio) / AUDIO_RATE), 1 / RATE)
        seen = lips_seen(clip.tracks)
        loudness = voice_level(clip.audio, grid)
        aspect = clip.clip.media.width / clip.clip.media.height
        found = []
        for person in range(len(clip.tracks.ids)):
            if seen[person].mean() * len(grid) / RATE >= self.least_seconds:
                found.append(self.judge(lip_speed(clip.tracks, person, grid, aspect), loudness))
        return max(found, key=lambda scores: scores.z or 0.0, default=self.Scores())

    def judge(self, speed: np.ndarray, loudness: np.ndarray) -> Scores:
        """speed: (N,) of the lips. loudness: (N,) dB. Both at RATE."""
        voiced = loudness > np.percentile(loudness, 95) - 25
        mouth = float(np.median(speed[voiced])) if voiced.any() else None
        lips, sound = flatten(speed), flatten(loudness)
        if not lips.any() or not sound.any():
            return self.Scores(mouth=mouth)
        lags = np.arange(-self.reach, self.reach + 1)
        curve = np.array([correlate(lips, sound, int(lag)) for lag in lags])
        near = np.abs(lags) <= self.near
        far = curve[~near]
        spread = max(float(np.median(np.abs(far - np.median(far)))), 1e-6)
        best = int(np.argmax(curve))
        return self.Scores(
            z=float(curve[near].max() - np.median(far)) / spread,
            rival=float(far.max() - curve[near].max()) / spread,
            lag=float(lags[best]) / RATE,
            correlation=float(curve[best]),
            mouth=mouth,
        )


def lips_seen(tracks: Tracks) -> np.ndarray:
    """(P, T) bool. A backend may know of a face, and not of its points."""
    return visible(tracks) & tracks.keypoints[:, :, FACE, 2].any(axis=-1)


def lip_speed(tracks: Tracks, person: int, grid: np.ndarray, aspect: float) -> np.ndarray:
    """(N,) how fast the opening between the inner lips changes at the times of `grid`, in face heights per second.

    aspect: width / height of the frame, as keypoints are shares of either.
    """
    seen = lips_seen(tracks)[person]
    points, times = tracks.keypoints[person, seen, FACE, :2] * (aspect, 1.0), tracks.times[seen]
    height = np.median(np.linalg.norm(points[:, CHIN] - points[:, BROW], axis=1))
    opening = np.linalg.norm(points[:, UPPER] - points[:, LOWER], axis=1) / height
    return np.abs(np.gradient(np.interp(grid, times, opening))) * RATE


def voice_level(audio: np.ndarray, grid: np.ndarray) -> np.ndarray:
    """(N,) RMS in dB of 150-4000 Hz in the 40 ms around each time of `grid`."""
    spectrum = np.fft.rfft(audio)
    pitch = np.fft.rfftfreq(len(audio), 1 / AUDIO_RATE)
    spectrum[(pitch < 150) | (pitch > 4000)] = 0
    energy = np.concatenate([[0], np.cumsum(np.fft.irfft(spectrum, len(audio)) ** 2)])
    half = AUDIO_RATE // RATE // 2
    middle = np.round(grid * AUDIO_RATE).astype(int)
    power = energy[np.clip(middle + half, 0, len(audio))] - energy[np.clip(middle - half, 0, len(audio))]
    return 10 * np.log10(power / (2 * half) + 1e-9)


def flatten(curve: np.ndarray) -> np.ndarray:
    """Take out the moving mean of 1 s, and scale to unit deviation; zeros where nothing changes."""
    window = np.ones(RATE)
    mean = np.convolve(curve, window, "same") / np.convolve(np.ones_like(curve), window, "same")
    rest = curve - mean
    return rest / rest.std() if rest.std() > 1e-9 else np.zeros_like(curve)


def correlate(lips: np.ndarray, sound: np.ndarray, lag: int) -> float:
    """Pearson r of the lips with the sound `lag` frames later."""
    a, b = (lips[: len(lips) - lag], sound[lag:]) if lag >= 0 else (lips[-lag:], sound[:lag])
    return float(np.corrcoef(a, b)[0, 1])

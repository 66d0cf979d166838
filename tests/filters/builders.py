"""Clips made by hand: drawn frames, invented people, computed sound."""

from typing import Any

import numpy as np

from dataset.media import AUDIO_RATE, FrameBatch, Frames
from dataset.records import Clip, MediaFacts
from dataset.tracks import FACE, KEYPOINTS, RIGHT_HAND, Tracks
from filters.base import ClipView, Filter, Measurement

FACE_BOX = (0.35, 0.2, 0.65, 0.6)  # shares of the frame
BODY_BOX = (0.2, 0.1, 0.8, 1.0)
HAND_BOX = (0.7, 0.7, 0.9, 0.9)
MOUTH = (0.44, 0.48, 0.56, 0.54)


def facts(**changes: Any) -> MediaFacts:
    plain = {
        "width": 640, "height": 480, "fps": 25.0, "duration": 5.0, "frames": 125, "video_codec": "h264",
        "pix_fmt": "yuv420p", "bit_rate": 1_000_000, "audio_codec": "aac", "audio_rate": 44100, "audio_channels": 2,
    }  # fmt: skip
    return MediaFacts(**{**plain, **changes})


def view(
    frames: dict[Frames, list[np.ndarray]] | None = None,
    *,
    tracks: Tracks | None = None,
    audio: np.ndarray | None = None,
    media: MediaFacts | None = None,
    measured: dict[str, Measurement] | None = None,
) -> ClipView:
    """A clip of 5 s whose frames stand at the full slots of their rates."""
    media = media or facts()
    clip = Clip(clip_id="c", source="c.mp4", source_id="s", start=0.0, end=media.duration, media=media)
    batches = {need: FrameBatch(images, np.arange(len(images)) / need.fps) for need, images in (frames or {}).items()}
    return ClipView(clip, batches, audio, measured or {}, tracks)


def scores(which: Filter, clip: ClipView) -> dict[str, float | None]:
    which.setup()
    return which.measure(clip).model_dump()


def person(
    *, count: int = 126, face: Any = FACE_BOX, body: Any = BODY_BOX, hand: Any = None, opening: Any = None
) -> Tracks:
    """One person over 5 s (25 frames/s). Boxes: shares of the frame, fixed, or (count, 4) with NaN where unseen.

    opening: (count,) distance of the inner lips in shares of the frame's height.
    """
    keypoints = np.zeros((1, count, KEYPOINTS, 3), np.float32)
    points = keypoints[0, :, FACE]
    x0, y0, x1, y1 = MOUTH
    points[..., 2] = 1
    points[..., :2] = np.array([x0, y0]) + np.linspace(0, 1, 68)[:, None] * np.array([x1 - x0, y1 - y0])
    points[:, 8, :2], points[:, 27, :2] = (0.5, 0.6), (0.5, 0.35)  # chin, top of the nose
    points[:, 62, :2] = points[:, 51, :2] = 0.5, 0.5
    points[:, 66, :2] = points[:, 57, :2] = 0.5, 0.51
    if opening is not None:
        points[:, 66, 1] = points[:, 57, 1] = 0.5 + np.asarray(opening)
    if hand is not None:
        hand = np.array(hand)
        keypoints[0, :, RIGHT_HAND, :2] = hand[:2] + np.linspace(0, 1, 21)[:, None] * (hand[2:] - hand[:2])
        keypoints[0, :, RIGHT_HAND, 2] = 1
    boxes, faces = (np.broadcast_to(np.array(b, np.float32), (count, 4))[None].copy() for b in (body, face))
    return Tracks(np.arange(count) / 25, np.arange(1), keypoints, boxes, faces)


def nobody(count: int = 126) -> Tracks:
    return Tracks.empty(np.arange(count) / 25)


def texture(height: int, width: int, seed: int = 0, finest: int = 1) -> np.ndarray:
    """(height, width, 3) uint8 with detail of equal strength at all sizes, as natural pictures have."""
    rng = np.random.default_rng(seed)
    y, x = np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)
    size = np.hypot(y, x)
    spectrum = np.fft.rfft2(rng.standard_normal((height, width))) / np.maximum(size, 1 / max(height, width))
    spectrum[size > 0.5 / finest] = 0
    image = np.fft.irfft2(spectrum, (height, width))
    grey = np.clip(128 + 40 * image / image.std(), 0, 255).astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=2)


def moved(image: np.ndarray, dx: float, dy: float) -> np.ndarray:
    """The picture shifted by whole pixels, wrapping around."""
    return np.roll(image, (round(dy), round(dx)), (0, 1))


def seconds(duration: float) -> np.ndarray:
    """Times of the samples of a sound."""
    return np.arange(round(duration * AUDIO_RATE)) / AUDIO_RATE


def clicks(times: np.ndarray, duration: float = 5.04) -> np.ndarray:
    """Bursts of 80 ms of noise at the given times, over a soft floor."""
    rng = np.random.default_rng(1)
    t = seconds(duration)
    level = 0.002 + 0.3 * np.any(np.abs(t - np.asarray(times)[:, None]) < 0.04, axis=0)
    return (level * rng.standard_normal(len(t))).astype(np.float32)

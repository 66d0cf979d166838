"""Small real video files for tests, encoded on the spot."""

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

Picture = Callable[[float], np.ndarray]  # seconds -> (H, W, 3) uint8 RGB


def grey_ramp(time: float, height: int = 96, width: int = 128) -> np.ndarray:
    """A picture whose brightness is its time: 20 + 10 per second; so a frame tells when it was shown."""
    return np.full((height, width, 3), min(255, round(20 + 10 * time)), np.uint8)


def numbered(time: float, height: int = 96, width: int = 192, fps: int = 25) -> np.ndarray:
    """A picture that shows the number of its frame as twelve bars, the bits."""
    bits = round(time * fps) >> np.arange(12) & 1
    row = np.where(bits, 235, 20).astype(np.uint8).repeat(width // 12)
    return np.broadcast_to(row[None, :, None], (height, width, 3)).copy()


def number_of(image: np.ndarray) -> int:
    """What `numbered` has written into a picture of any size."""
    middles = (np.arange(12) + 0.5) / 12 * image.shape[1]
    return int(((image[:, middles.astype(int)].mean((0, 2)) > 128) << np.arange(12)).sum())


def moving_square(time: float, height: int = 96, width: int = 128) -> np.ndarray:
    image = np.full((height, width, 3), 90, np.uint8)
    x = int((width - 24) * (0.5 + 0.5 * np.sin(2 * time)))
    image[30:54, x : x + 24] = (220, 60, 40)
    return image


def clicks(seconds: float, every: float = 1.0, rate: int = 48_000) -> np.ndarray:
    """(samples,) float32: a short click at 0.5 s, 1.5 s, ..."""
    sound = np.zeros(int(seconds * rate), np.float32)
    for at in np.arange(0.5, seconds, every):
        first = int(at * rate)
        sound[first : first + rate // 500] = 0.9
    return sound


def write_video(
    path: Path,
    seconds: float = 2.0,
    *,
    fps: int = 25,
    picture: Picture = grey_ramp,
    sound: np.ndarray | None = None,
    codec: str = "libx264",
    pix_fmt: str = "yuv420p",
    sound_codec: str = "aac",
    sound_late: float = 0.0,
    times: list[float] | None = None,
    aspect: Fraction | None = None,
    gop: int = 12,
    b_frames: int | None = None,
) -> Path:
    """Encode `picture` (and `sound`, mono float32 at 48 kHz) into `path`; `times` overrides the constant frame rate."""
    times = times if times is not None else [i / fps for i in range(round(seconds * fps))]
    with av.open(str(path), "w") as target:
        video = target.add_stream(codec, rate=fps)
        first = picture(0.0)
        video.height, video.width = first.shape[:2]
        video.pix_fmt = pix_fmt
        video.gop_size = gop
        if b_frames is not None:
            video.codec_context.max_b_frames = b_frames
        tick = Fraction(1, fps) if codec == "mpeg2video" else Fraction(1, 90_000)
        video.codec_context.time_base = tick
        if aspect:
            video.codec_context.sample_aspect_ratio = aspect
        if codec == "libx264":
            video.codec_context.options = {"crf": "14", "preset": "ultrafast"}
        audio = target.add_stream(sound_codec, rate=48_000, layout="mono") if sound is not None else None
        for time in times:
            frame = av.VideoFrame.from_ndarray(picture(time), "rgb24")
            frame.pts, frame.time_base = round(time / tick), tick
            target.mux(video.encode(frame))
        target.mux(video.encode(None))
        if audio is not None and sound is not None:
            for at in range(0, len(sound), 1024):
                piece = av.AudioFrame.from_ndarray(np.ascontiguousarray(sound[None, at : at + 1024]), "fltp", "mono")
                piece.sample_rate, piece.time_base = 48_000, Fraction(1, 48_000)
                piece.pts = at + round(sound_late * 48_000)
                target.mux(audio.encode(piece))
            target.mux(audio.encode(None))
    return path

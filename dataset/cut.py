"""Cut a clip out of its source: H.264 + AAC in an mp4, frames and sound to the sample."""

import io
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import av
import numpy as np

from dataset.media import ROUNDED, Counters, MediaError, Painter, Readable, Source, open_source, read_audio

TICK = Fraction(1, 90_000)  # seconds; exact for every usual frame rate
SOUND_RATE = 48_000  # Hz, stereo
SOUND_FRAME = 1024  # samples that the AAC encoder takes at a time


@dataclass(frozen=True)
class Cut:
    """A clip by itself: an mp4, and the size of its pictures in pixels."""

    video: bytes
    width: int
    height: int


def cut_clip(path: str | Readable, start: float, end: float) -> Cut:
    """The span [start, end) in seconds of a local file, or of one that can be read here and there, as an mp4.

    Pictures are upright, have square pixels and even sides, and keep their timestamps. The sound is the span's own,
    with silence where the source has none. The same input gives the same bytes on every machine.
    """
    out = io.BytesIO()
    with open_source(path, Counters()) as source:
        sound = read_audio(source, start, end, rate=SOUND_RATE, layout="stereo") if source.audio else None
        with av.open(out, "w", format="mp4", options={"fflags": "+bitexact"}) as target:
            count = write_clip(target, source, span_frames(source, start, end), sound)
            size = (target.streams.video[0].width, target.streams.video[0].height) if count else (0, 0)
    if not count:
        raise MediaError(f"no frame between {start:.2f} and {end:.2f} s", "the source has changed; curate it again")
    return Cut(out.getvalue(), *size)


def span_frames(source: Source, start: float, end: float) -> Iterator[tuple[float, Any]]:
    """(seconds from start, upright yuv420p frame with even sides) of the span."""
    straight, turned = Painter(source, None, "yuv420p"), Painter(source, None)
    for time, frame in source.frames_from(start):
        if time >= end - ROUNDED:
            return
        if time >= start - ROUNDED:
            if frame.rotation:
                upright = upright_frame(turned(frame))
            else:  # no way over RGB: the numbers stay, and so does what they mean
                upright = straight.convert(frame)
                upright.color_range = frame.color_range
            yield max(0.0, time - start), upright


def upright_frame(image: np.ndarray) -> Any:
    height, width = (side // 2 * 2 for side in image.shape[:2])
    return av.VideoFrame.from_ndarray(np.ascontiguousarray(image[:height, :width]), "rgb24").reformat(format="yuv420p")


def write_clip(target: Any, source: Source, frames: Iterator[tuple[float, Any]], sound: np.ndarray | None) -> int:
    """Encode pictures and sound side by side, so that the file plays from the start; returns the number of frames."""
    video, audio, count = None, None, 0
    for time, frame in frames:
        if video is None:
            video = video_track(target, source, frame)
            audio = SoundTrack(target, sound) if sound is not None else None
        frame.pts, frame.time_base = round(time / TICK), TICK
        target.mux(video.encode(frame))
        if audio:
            audio.write_until(time)
        count += 1
    if video is not None:
        target.mux(video.encode(None))
    if audio:
        audio.write_until(None)
    return count


def video_track(target: Any, source: Source, frame: Any) -> Any:
    track = target.add_stream("libx264", rate=source.video.average_rate or 25)
    track.width, track.height = frame.width, frame.height
    track.pix_fmt = "yuv420p"
    context = track.codec_context
    context.time_base = TICK
    # What the numbers of a picture mean is told along with it, or players would guess.
    for name in ("colorspace", "color_primaries", "color_trc", "color_range"):
        setattr(context, name, getattr(frame, name))
    # One thread: the bytes must not depend on how many cores a machine has.
    context.thread_count = 1
    context.options = {"crf": "18", "preset": "veryfast"}
    return track


class SoundTrack:
    """The AAC track of a clip, written as far as the pictures have come."""

    def __init__(self, target: Any, sound: np.ndarray):
        self.target = target
        self.sound = sound  # (2, samples) float32
        self.track = target.add_stream("aac", rate=SOUND_RATE, layout="stereo")
        self.track.bit_rate = 128_000
        self.at = 0

    def write_until(self, time: float | None) -> None:
        """Up to `time` seconds; None: to the end."""
        end = self.sound.shape[1] if time is None else min(self.sound.shape[1], int(time * SOUND_RATE))
        while self.at < end and (time is None or end - self.at >= SOUND_FRAME):
            piece = np.ascontiguousarray(self.sound[:, self.at : self.at + SOUND_FRAME])
            frame = av.AudioFrame.from_ndarray(piece, "fltp", "stereo")
            frame.sample_rate, frame.pts, frame.time_base = SOUND_RATE, self.at, Fraction(1, SOUND_RATE)
            self.target.mux(self.track.encode(frame))
            self.at += piece.shape[1]
        if time is None:
            self.target.mux(self.track.encode(None))

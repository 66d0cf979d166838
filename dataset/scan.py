"""Look at a whole source: what its header says, or all of it once for shots and true facts."""

import os
from collections.abc import Callable
from typing import Any

import av
import numpy as np

from dataset.media import Counters, MediaError, Painter, Source, open_source, square_pixels
from dataset.records import MediaFacts

# Containers whose header states a duration; others estimate it, and an estimate can't prove truncation.
EXACT_DURATION = ("mov", "matroska", "avi")


def scan(path: str, counters: Counters, see: Callable[[float, np.ndarray], None], short_side: int = 90) -> MediaFacts:
    """Decode a whole source once, hand small BGR pictures to `see(seconds, image)`, and return what it is.

    Raises MediaError for sources that end before their header says so: half a clip must not pass for a whole one.
    """
    with open_source(path, counters) as source:
        painter = Painter(source, short_side, "bgr24")
        source.video.codec_context.options = {"skip_loop_filter": "all"}  # invisible at this size
        count, first, last, rotated = 0, 0.0, 0.0, False
        for time, frame in source.frames():
            if count == 0:
                first, rotated = time, round(frame.rotation / 90) % 2 == 1
            count, last = count + 1, max(last, time)
            see(time, painter(frame))
        if count < 2:
            raise MediaError(f"only {count} frame could be decoded", "not a video, or damaged: download it again")
        fps = (count - 1) / (last - first)
        duration = last + 1 / fps
        check_complete(source.container, source.video, duration)
        return media_facts(source, count, fps, duration, rotated, os.path.getsize(path))


def probe(path: str, counters: Counters) -> MediaFacts:
    """What the header says, without decoding: duration and frame count are its claims."""
    with open_source(path, counters) as source:
        video = source.video
        duration = stated_duration(source.container, video)
        if duration <= 0:
            raise MediaError("the header states no duration", "remux the file, for example with `ffmpeg -c copy`")
        frames = video.frames or round(duration * float(video.average_rate or 25))
        return media_facts(source, frames, frames / duration, duration, False, os.path.getsize(path))


def stated_duration(container: Any, video: Any) -> float:
    """Seconds from time zero that the header states for the pictures, or else for the file; 0: none."""
    if video.duration:
        return float(video.duration * video.time_base)
    start = container.start_time or 0 if "matroska" in container.format.name else 0  # only there it counts along
    return max(0, (container.duration or 0) - start) / av.time_base


def check_complete(container: Any, video: Any, duration: float) -> None:
    exact = any(name in container.format.name for name in EXACT_DURATION) and not container.streams.audio
    promised = stated_duration(container, video) if video.duration or exact else 0.0
    if promised - duration > max(0.5, 0.1 * promised):
        raise MediaError(
            f"truncated: {duration:.1f} of {promised:.1f} s could be decoded", "download or copy the file again"
        )


def media_facts(source: Source, frames: int, fps: float, duration: float, rotated: bool, size: int) -> MediaFacts:
    video, audio = source.video, source.audio
    width, height = square_pixels(video.width, video.height, float(video.sample_aspect_ratio or 1))
    return MediaFacts(
        width=height if rotated else width,
        height=width if rotated else height,
        fps=fps,
        duration=duration,
        frames=frames,
        video_codec=video.codec_context.name,
        pix_fmt=video.pix_fmt or "unknown",
        bit_rate=round(8 * size / duration),
        audio_codec=audio.codec_context.name if audio else None,
        audio_rate=audio.rate if audio else None,
        audio_channels=audio.channels if audio else None,
    )

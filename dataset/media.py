"""Read video files with PyAV: the clips of a source in one forward pass.

Time zero of a source is the start of its video stream; audio is placed by its own timestamps on that clock, so
late audio, offset streams and variable frame rates stay in sync.
"""

import math
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain
from typing import Any, Protocol

import av
import numpy as np
from av.video.reformatter import Interpolation, VideoReformatter

from dataset.stamps import own_stamps, paced

AUDIO_RATE = 16_000  # Hz
MAX_SHORT_SIDE = 2160  # "native" frames above this would not fit in memory for a whole clip
JITTER = 0.004  # seconds by which a frame may come early and still open its slot
ROUNDED = 0.0006  # seconds by which a frame may come before its span: those are rounded to milliseconds
SEEK_GAP = 2.0  # seconds between two spans above which seeking beats decoding through
NO_INDEX = "mpegts", "mpeg"  # formats where seeking lands on any packet; decoding begins with the keyframe behind it
WRAP = 2**33 / 90_000  # seconds after which the clock of these formats begins anew
SOUND_RUN_UP = 2.0  # seconds of sound before the wanted time: codecs need some, and stamps may lie a second apart
JUMP = 10.0  # seconds back that no order of frames explains
RUN_UPS = 0, 1, 4, 16, 64  # seconds before the wanted time from where they are tried, and then from the beginning


class Readable(Protocol):
    """A file that isn't here, but can be read here and there."""

    def read(self, size: int) -> bytes: ...


class MediaError(Exception):
    """A source that can't be used, with what its owner can do about it."""

    def __init__(self, error: str, remedy: str):
        super().__init__(error)
        self.remedy = remedy

    def __reduce__(self) -> tuple[Any, ...]:
        return MediaError, (str(self), self.remedy)


@dataclass(frozen=True)
class Frames:
    """A sampling of a clip's frames: at most `fps` a second, `short_side` pixels (None: native).

    cut: what is kept of each picture, (H, W, 3) uint8 -> the same type, any size: native pictures of a whole clip would
    not fit in memory. A function of a module, so that two filters which want the same share the work.
    """

    fps: float
    short_side: int | None = None
    cut: Callable[[np.ndarray], np.ndarray] | None = None


@dataclass(frozen=True)
class FrameBatch:
    """images: N pictures (H, W, 3) uint8 RGB, upright, square pixels. times: (N,) seconds from the clip's start."""

    images: list[np.ndarray]
    times: np.ndarray

    def __len__(self) -> int:
        return len(self.times)


@dataclass
class Counters:
    """What reading cost: containers opened, frames that came out of the decoder."""

    opens: int = 0
    decoded: int = 0


@dataclass(frozen=True)
class DecodedClip:
    """One span of a source.

    span_frames: frames that lie in it, the yardstick for `Counters.decoded`.
    until: seconds of it at which the last frame lies; its whole length where the source goes on behind it.
    """

    batches: dict[Frames, FrameBatch]
    audio: np.ndarray | None  # (samples,) float32 mono at AUDIO_RATE; None: no audio stream
    span_frames: int
    until: float


class Opened:
    """An open file, and the time on its clock that counts as zero."""

    def __init__(self, container: Any):
        self.container = container
        self.audio = container.streams.best("audio")
        self.zero = (container.start_time or 0) / av.time_base
        self.midway = False  # whether reading goes on from somewhere behind the beginning
        self.unindexed = container.format.name in NO_INDEX
        if self.unindexed:
            # Not every frame has a stamp there, and the ones that libav makes up after a seek are wrong.
            container.flags |= av.container.Flags.no_fillin.value

    def seconds(self, stamp: int, time_base: Fraction) -> float:
        """A stamp on the clock that starts at zero."""
        time = float(stamp * time_base) - self.zero
        if self.unindexed:  # what begins just before zero may read as the end of the clock
            time = (time + 60) % WRAP - 60  # a minute is what libav allows for, too
        return time

    def decoded(self, stream: Any) -> Iterator[Any]:
        """Frames of a stream; a damaged packet loses its frames, not the file (as every player does)."""
        packets = self.container.demux(stream)
        for packet in own_stamps(packets, self.midway) if self.unindexed else packets:
            try:
                yield from packet.decode()
            except av.error.InvalidDataError:
                continue

    def seek(self, time: float, stream: Any) -> None:
        """To the keyframe of `stream` at or before `time` seconds."""
        target = int((time + self.zero) / stream.time_base)
        self.midway = target > (stream.start_time or 0)
        try:
            self.container.seek(target, stream=stream)
        except PermissionError:  # what libav says of a time before all others, or if it finds none
            self.rewind(stream)

    def rewind(self, stream: Any) -> None:
        self.midway = False
        try:
            self.container.seek(int((self.zero - 60) / stream.time_base), stream=stream, backward=False)
        except PermissionError as e:
            remedy = "convert it, for example with `ffmpeg -i FILE NEW.mp4`"
            raise MediaError(f"no way to a place in a file of type {self.container.format.name}", remedy) from e


class Source(Opened):
    """An open video file. Use `open_source`."""

    def __init__(self, container: Any, counters: Counters):
        super().__init__(container)
        self.counters = counters
        self.video = best_video(container)
        # One decoder thread: parallelism is one worker per core, and frame threads would delay and reorder errors.
        self.video.thread_type, self.video.thread_count = "SLICE", 1
        self.zero = float((self.video.start_time or 0) * self.video.time_base)
        # AVI stores no presentation times: libav guesses them and reorders B-frames wrongly. Decoding times are right
        # up to a constant, which is only known from the first frame on.
        self.guessed_times = "avi" in container.format.name

    def seek(self, time: float, stream: Any) -> None:
        super().seek(0.0 if self.guessed_times else time, stream)

    def frames_from(self, time: float) -> Iterator[tuple[float, Any]]:
        """`frames`, the first of which lies at or before `time` seconds, where the source has one.

        Seeking alone may land behind it: where there is no index on any packet, and else on a keyframe that is decoded
        before `time`, but shown after it.
        """
        for back in (*(back for back in RUN_UPS if back < time), time + 60):
            self.seek(time - back, self.video)
            frames = self.frames()
            first = next(frames, None)
            if first and first[0] <= time + ROUNDED:
                break
        return chain([first] if first else [], frames)

    def frames(self) -> Iterator[tuple[float, Any]]:
        """(seconds, frame) in presentation order from where the container stands; times ascend."""
        return paced(self.stamped(), 1 / float(self.video.average_rate or 25))

    def stamped(self) -> Iterator[tuple[float | None, Any]]:
        """(seconds by its own stamp, frame). Raises MediaError if time jumps back: it would name two places."""
        first, last = None, -math.inf
        for frame in self.decoded(self.video):
            self.counters.decoded += 1
            stamp = frame.dts if self.guessed_times else frame.pts
            if stamp is None:
                yield None, frame
                continue
            time = self.seconds(stamp, self.video.time_base)
            if self.guessed_times:
                first = time if first is None else first
                time -= first
            if time < last - JUMP:
                raise MediaError(
                    f"its clock jumps back from {last:.1f} to {time:.1f} s",
                    "remux it, for example with `ffmpeg -i FILE -c copy NEW.mkv`, or give its parts one by one",
                )
            last = time
            yield time, frame


def best_video(container: Any) -> Any:
    """The video stream a player would show; a cover picture is not a video."""
    streams = [s for s in container.streams.video if not s.disposition & av.stream.Disposition.attached_pic]
    if not streams:
        raise MediaError("no video stream", "supply a file with moving pictures, not audio with a cover picture")
    best = container.streams.best("video")
    return best if best in streams else streams[0]


@contextmanager
def open_source(path: str | Readable, counters: Counters) -> Iterator[Source]:
    """Open a video. Raises MediaError for what isn't one."""
    counters.opens += 1
    with open_container(path, "a video") as container:
        if container.format.name.endswith("_pipe") or container.format.name == "image2":
            raise MediaError("a still picture, not a video", "remove it from the source")
        yield Source(container, counters)


@contextmanager
def open_sound(path: str) -> Iterator[Opened]:
    """Open a local file that has sound, with or without pictures. Raises MediaError for what isn't one."""
    with open_container(path, "a sound file") as container:
        sound = Opened(container)
        if sound.audio is None:
            raise MediaError("no audio stream", "give a file with sound in it")
        yield sound


@contextmanager
def open_container(path: str | Readable, kind: str) -> Iterator[Any]:
    try:
        if isinstance(path, str | os.PathLike):
            check_file(path, kind)
        container = av.open(path)
    except PermissionError as e:
        raise MediaError(f"permission denied: {e.filename or path}", "make the file readable for this user") from e
    except FileNotFoundError as e:
        raise MediaError("no such file", "check the path, or remove the row from the manifest") from e
    except av.error.FFmpegError as e:
        remedy = f"not {kind}, or its index is lost: download it again, or check it with `ffprobe`"
        raise MediaError(f"can't be opened: {e.strerror}", remedy) from e
    with container:
        yield container


def check_file(path: str | os.PathLike, kind: str) -> None:
    mode = os.stat(path).st_mode
    if not stat.S_ISREG(mode):
        raise MediaError("not a regular file", f"give the path of {kind}")
    if os.path.getsize(path) == 0:
        raise MediaError("empty file (0 bytes)", "copy or download the file again")


# ---------------------------------------------------------------- pictures


class Painter:
    """Turns the decoder's frames into upright pictures with square pixels, all of one size and format."""

    def __init__(self, source: Source, short_side: int | None, pixel_format: str = "rgb24"):
        self.aspect = float(source.video.sample_aspect_ratio or 1)
        self.short_side = short_side or MAX_SHORT_SIDE
        self.format = pixel_format
        self.grain = 2 if pixel_format == "yuv420p" else 1  # pixels that share a colour sample
        self.reformatter = VideoReformatter()
        self.size: tuple[int, int] | None = None  # fixed by the first frame, also if the stream changes size later

    def __call__(self, frame: Any) -> np.ndarray:
        """(H, W, 3) uint8 of a frame, upright."""
        image = self.convert(frame).to_ndarray()
        return np.ascontiguousarray(np.rot90(image, k=round(frame.rotation / 90))) if frame.rotation else image

    def convert(self, frame: Any) -> Any:
        """The frame in this painter's size and format, as it is stored: not turned."""
        if self.size is None:
            width, height = square_pixels(frame.width, frame.height, self.aspect)
            scale = min(1.0, self.short_side / min(width, height))
            width, height = (max(2, round(side * scale)) for side in (width, height))
            self.size = width // self.grain * self.grain, height // self.grain * self.grain
        how = Interpolation.AREA if self.size[0] < frame.width else Interpolation.BICUBIC
        return self.reformatter.reformat(frame, *self.size, format=self.format, interpolation=how)


def square_pixels(width: int, height: int, aspect: float) -> tuple[int, int]:
    """Stored size -> size with square pixels (the longer of the two is kept, the other grows)."""
    return (round(width * aspect), height) if aspect >= 1 else (width, round(height / aspect))


# ---------------------------------------------------------------- the clips of a source


class Sampler:
    """Picks the frames of one need out of the frames of a span: the first one in each 1/fps slot."""

    def __init__(self, need: Frames):
        self.need = need
        self.slot = -1
        self.images: list[np.ndarray] = []
        self.times: list[float] = []

    def wants(self, time: float) -> bool:
        slot = int((time + JITTER) * self.need.fps)
        if slot <= self.slot:
            return False
        self.slot = slot
        return True

    def batch(self) -> FrameBatch:
        return FrameBatch(self.images, np.array(self.times))


def read_clips(
    path: str | Readable,
    spans: Sequence[tuple[float, float]],
    needs: Sequence[Frames],
    *,
    audio: bool,
    counters: Counters,
) -> Iterator[DecodedClip]:
    """Decode the clips of one source in a single forward pass.

    spans: (start, end) in seconds, ascending, not overlapping. needs: the samplings wanted of each span; the ones
    that share a size share their pictures. One container is opened, and every frame is decoded at most once
    (but for a few where `Source.frames_from` looks for a keyframe).
    """
    with open_source(path, counters) as source:
        sound = read_audio(source, spans[0][0], spans[-1][1])[0] if audio and source.audio else None
        painters = {need.short_side: Painter(source, need.short_side) for need in needs}
        for number, (start, end) in enumerate(spans):
            if not number or start - spans[number - 1][1] > SEEK_GAP:
                stream, pending = source.frames_from(start), None
            samplers = [Sampler(need) for need in needs]
            count, until = 0, 0.0
            while pending is not None or (pending := next(stream, None)) is not None:
                time, frame = pending
                if time >= end - ROUNDED:
                    until = end - start
                    break
                pending = None
                if time >= start - ROUNDED:
                    count, until = count + 1, time - start
                    sample_frame(frame, max(0.0, time - start), samplers, painters)
            if not count:
                raise MediaError(
                    f"no frame could be decoded between {start:.2f} and {end:.2f} s",
                    "the file is damaged or has changed since it was ingested; replace it and curate again",
                )
            piece = None if sound is None else cut_audio(sound, start - spans[0][0], end - start)
            yield DecodedClip({s.need: s.batch() for s in samplers}, piece, count, until)


def sample_frame(frame: Any, time: float, samplers: list[Sampler], painters: dict[int | None, Painter]) -> None:
    """Hand a frame to every sampler that wants it; each size is converted once."""
    pictures: dict[int | None, np.ndarray] = {}
    for sampler in samplers:
        if sampler.wants(time):
            side, cut = sampler.need.short_side, sampler.need.cut
            if side not in pictures:
                pictures[side] = painters[side](frame)
            sampler.images.append(cut(pictures[side]) if cut else pictures[side])
            sampler.times.append(time)


# ---------------------------------------------------------------- audio


def read_audio(source: Opened, start: float, end: float, *, rate: int = AUDIO_RATE, layout: str = "mono") -> np.ndarray:
    """(channels, samples) float32 of [start, end) on the video's clock; silence where the source has no sound."""
    return read_audio_until(source, start, end, rate=rate, layout=layout)[0]


def read_audio_until(
    source: Opened, start: float, end: float, *, rate: int = AUDIO_RATE, layout: str = "mono"
) -> tuple[np.ndarray, int]:
    """`read_audio`, and the number of samples after which the source has no more sound."""
    channels = 1 if layout == "mono" else 2
    out = np.zeros((channels, max(1, round((end - start) * rate))), np.float32)
    stream = source.audio
    if start > 0:
        source.seek(start - SOUND_RUN_UP, stream)
    resampler, cursor, shape, reached = None, 0, None, 0
    for frame in source.decoded(stream):
        if frame.pts is None and resampler is None:
            continue
        begin = cursor / rate if frame.pts is None else source.seconds(frame.pts, frame.time_base) - start
        if begin > end - start:
            break
        now = (frame.format.name, frame.layout.name, frame.sample_rate)
        if resampler is None or shape != now or abs(begin * rate - cursor) > 0.05 * rate:  # new format, or a gap
            resampler = av.AudioResampler(format="fltp", layout=layout, rate=rate)
            shape, cursor = now, round(begin * rate)
        for piece in resampler.resample(frame):
            cursor = paste(out, piece.to_ndarray(), cursor)
            reached = max(reached, min(cursor, out.shape[1]))
    return out, reached


def paste(out: np.ndarray, samples: np.ndarray, at: int) -> int:
    """Write (channels, n) samples into `out` from index `at`, clipped at both ends; returns the index after them."""
    low, high = max(0, at), min(out.shape[1], at + samples.shape[1])
    if low < high:
        out[:, low:high] = samples[:, low - at : high - at]
    return at + samples.shape[1]


def cut_audio(sound: np.ndarray, start: float, seconds: float) -> np.ndarray:
    first = round(start * AUDIO_RATE)
    return sound[first : first + round(seconds * AUDIO_RATE)]

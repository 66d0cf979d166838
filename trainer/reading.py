"""A clip in a shard -> the pictures, the sound and the words of one training sample.

What is wrong with a sample is told as `Unreadable`, whatever it is: one sample must not end a run.
"""

import json
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

import numpy as np

from dataset.draw import draw_pose
from dataset.errors import RunError
from dataset.media import Counters, MediaError, open_source, read_audio_until
from dataset.pictures import cover, frames_at
from dataset.shards import read_samples
from dataset.tracks import KEYPOINTS, Tracks
from trainer.budget import RATE, frame_count
from trainer.sample import Clip, Pixels, Request, Window, numpy_generator

APART = 8  # frames between the reference and the window, where the clip has room for it
PACK_AGAIN = "delete its shard and pack it again (`s2v curate`), or leave the clip out"
COPY_AGAIN = "copy its shard again, or delete it and pack it again (`s2v curate`)"


class Unreadable(Exception):
    """A sample that can't be used, and what its owner can do about it."""

    def __init__(self, clip: Clip, error: str, remedy: str):
        super().__init__(f"{clip.clip_id} in {clip.shard}: {error}")
        self.clip, self.error, self.remedy = clip, error, remedy

    def __reduce__(self) -> tuple[Any, ...]:
        return Unreadable, (self.clip, self.error, self.remedy)


@contextmanager
def blamed(clip: Clip, part: str, remedy: str = PACK_AGAIN) -> Iterator[None]:
    """Everything that goes wrong within is the sample's fault: it may hold anything, and libraries raise anything."""
    try:
        yield
    except (Unreadable, RunError):
        raise
    except MediaError as e:
        raise Unreadable(clip, f"{part}: {e}", e.remedy) from e
    except Exception as e:
        raise Unreadable(clip, f"{part} can't be read ({type(e).__name__}: {e})", remedy) from e


# ---------------------------------------------------------------- what is shown


def window_of(request: Request, seed: int) -> Window:
    """Any window that has the shape's history before it; the reference is any frame that the window doesn't show."""
    clip, shape = request.clip, request.shape
    luck = numpy_generator(seed, "window", clip.clip_id, request.epoch)
    total = frame_count(clip.seconds)
    start = int(luck.integers(shape.history, total - shape.frames + 1))
    away = np.maximum(start - np.arange(total), np.arange(total) - (start + shape.frames - 1))
    choices = next(c for least in (APART, 1, -total) if len(c := np.flatnonzero(away >= least)))
    return Window(start, shape.frames, int(luck.choice(choices)), float(luck.random()))


def read_pixels(request: Request, seed: int) -> Pixels:
    """Opens the shard at the sample's offset; one forward pass over the video, as far as it is needed."""
    clip, window = request.clip, window_of(request, seed)
    files = read_files(clip)
    with blamed(clip, "its .json"):
        caption = choose_caption(json.loads(files.get("json", b"{}")), window.caption)
    with blamed(clip, "its .pose.npz"):
        tracks = read_tracks(files["pose.npz"]) if "pose.npz" in files else None
    with blamed(clip, "its video"), on_disk(files["mp4"]) as path:
        frames, reference, size = read_frames(path, request, window)
        speech = read_speech(path, clip)
    with blamed(clip, "its .pose.npz"):
        pose = None if tracks is None else draw_window(tracks, request, window, size)
    return Pixels(request, window, frames, reference, pose, speech, caption)


# ---------------------------------------------------------------- the parts


def read_files(clip: Clip) -> dict[str, bytes]:
    """The sample's files by extension."""
    with blamed(clip, "its shard", COPY_AGAIN), closing(read_samples(clip.shard, clip.offset)) as found:  # type: ignore[type-var]
        sample = next(found, None)
    if sample is None or sample.key != clip.clip_id:
        there = "nothing" if sample is None else f"'{sample.key}'"
        raise Unreadable(clip, f"its shard has {there} at byte {clip.offset}, where the index has it", COPY_AGAIN)
    if "mp4" not in sample.files:
        raise Unreadable(clip, "it has no .mp4", PACK_AGAIN)
    return sample.files


@contextmanager
def on_disk(data: bytes) -> Iterator[str]:
    """The path of a file that holds the data. In its folder it has no name: a killed process leaves nothing behind."""
    with tempfile.TemporaryFile() as file:
        try:
            file.write(data)
            file.flush()
        except OSError as e:
            raise RunError(f"{tempfile.gettempdir()} can't take a clip ({e}): make room there, or set TMPDIR.") from e
        yield f"/proc/self/fd/{file.fileno()}"


def read_frames(path: str, request: Request, window: Window) -> tuple[np.ndarray, np.ndarray, tuple[int, int]]:
    """(frames of history and window, reference, height and width of the source)."""
    clip, shape = request.clip, request.shape
    promised = frame_count(clip.seconds)
    first, last = window.start - window.history, max(window.end - 1, window.reference)
    frames = np.empty((window.end - first, shape.height, shape.width, 3), np.uint8)
    reference, size, count = None, (0, 0), 0
    check_length(path, clip)
    with closing(frames_at(path, RATE)) as pictures:  # type: ignore[type-var]
        for number, picture in enumerate(pictures):
            count = number + 1
            if first <= number < window.end or number == window.reference:
                size = picture.shape[:2]
                scaled = cover(picture, shape.height, shape.width)
                if first <= number < window.end:
                    frames[number - first] = scaled
                if number == window.reference:
                    reference = scaled
            if number == last:
                break
    if count <= last or reference is None:
        raise too_short(clip, count, promised)
    return frames, reference, size


def check_length(path: str, clip: Clip) -> None:
    """By the header: not all of a clip is decoded. A frame more or less is a matter of rounding."""
    with open_source(path, Counters()) as source:
        video = source.video
        seconds = float(video.duration * video.time_base) if video.duration else clip.seconds
    if frame_count(seconds) < (promised := frame_count(clip.seconds)) - 1:
        raise too_short(clip, frame_count(seconds), promised)


def too_short(clip: Clip, count: int, promised: int) -> Unreadable:
    return Unreadable(
        clip, f"its video has {count} frames at {RATE} a second; the index promises {promised}", PACK_AGAIN
    )


def read_speech(path: str, clip: Clip) -> np.ndarray:
    """The whole clip's sound from its first frame on, (n,) float32 at 16 kHz mono; n = 0 where there is none."""
    with open_source(path, Counters()) as source:
        if source.audio is None:
            return np.zeros(0, np.float32)
        sound, reached = read_audio_until(source, 0, clip.seconds)
    if not np.isfinite(sound).all():
        remedy = "export the video with 16-bit sound and pack it again (`s2v curate`), or leave the clip out"
        raise Unreadable(clip, "its sound has samples that are no numbers", remedy)
    return sound[0] if reached else np.zeros(0, np.float32)


def read_tracks(data: bytes) -> Tracks:
    """Arrays that don't belong together would be drawn as somebody else's pose, or not at all."""
    tracks = Tracks.from_npz_bytes(data)
    times, points = tracks.times, tracks.keypoints
    if points.shape != (len(tracks.ids), len(times), KEYPOINTS, 3):
        raise ValueError("its arrays don't fit together")
    if not (np.isfinite(times).all() and (np.diff(times) > 0).all()):
        raise ValueError("its times don't ascend")
    if not (np.isfinite(points[..., :2]).all(-1) | (points[..., 2] == 0)).all():
        raise ValueError("a keypoint was seen nowhere")
    return tracks


def draw_window(tracks: Tracks, request: Request, window: Window, size: tuple[int, int]) -> np.ndarray:
    """(frames, H, W, 3): drawn in the size that `cover` scales a picture of `size` to, and cropped as it does."""
    height, width = request.shape.height, request.shape.width
    scale = max(height / size[0], width / size[1])
    covering = max(height, round(size[0] * scale)), max(width, round(size[1] * scale))
    drawn = np.empty((window.frames, height, width, 3), np.uint8)
    for n in range(window.frames):
        drawn[n] = cover(draw_pose(tracks, (window.start + n) / RATE, *covering), height, width)
    return drawn


def choose_caption(facts: Any, luck: float) -> str:
    """One of `captions` (a list, or by name), or else `caption`; luck: 0 to 1, over all there are."""
    if not isinstance(facts, dict):
        raise TypeError("it holds no mapping")
    named = facts.get("captions") or []
    if isinstance(named, dict):
        named = [named[name] for name in sorted(named)]
    found = [caption for caption in named if caption] or [facts.get("caption") or ""]
    if not isinstance(named, list) or not all(isinstance(caption, str) for caption in found):
        raise TypeError("a caption that is no text")
    return found[min(int(luck * len(found)), len(found) - 1)]

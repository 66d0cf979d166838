"""A small set of sample videos, made on the spot: talkers that should be kept, and one video for each way to fail.

python -m curation.demo OUT
"""

import argparse
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import av
import cv2
import numpy as np
from rich.progress import track

from curation.demo_portrait import FACE_BOX, FPS, SIZE, View, photo, poses, render
from curation.demo_speech import RATE, music, openness, speech

GREETING = "Hello, and welcome. Today we look at how the lips of a talker follow the sound."
STORY = "This video holds two shots. First, you see me from some way off. Then the camera comes closer, and I go on."
OUTDOORS = "Out here the sky is wide, and the clouds go by slowly. Somebody should paint them."
NEAR = View()
WIDE = View(centre=(246, 190), width=380)
CLOSE = View(centre=(224, 130), width=205, mirror=True)
FAR = View(centre=(256, 512 - 1100), width=2200)  # the picture's bottom edge lies on the frame's
LATE = 0.4  # seconds by which the sound of `fails_out_of_sync` lags


@dataclass(frozen=True)
class Video:
    """frames: (SIZE, SIZE, 3) uint8 RGB each. sound: (samples,) float32 at RATE; None: no audio stream."""

    frames: list[np.ndarray]
    sound: np.ndarray | None
    fps: int = FPS


class Studio:
    """What several videos share, each made once."""

    @cached_property
    def photo(self) -> np.ndarray:
        return photo()

    @cached_property
    def voice(self) -> np.ndarray:
        return speech(GREETING)

    @cached_property
    def talker(self) -> Video:
        return self.talk(self.voice, NEAR)

    @cached_property
    def landscape(self) -> list[np.ndarray]:
        return landscape(len(self.talker.frames))

    def talk(
        self,
        sound: np.ndarray,
        view: View,
        seed: int = 0,
        background: list[np.ndarray] | None = None,
        walk: Callable[[float], float] = lambda done: 0.0,
    ) -> Video:
        """A talker whose lips follow `sound`. walk: pixels of the portrait to the right, by the share of time gone."""
        count = round(len(sound) / RATE * FPS)
        frames = []
        for number, pose in enumerate(poses(openness(sound, FPS, count), seed)):
            done = number / count
            closer = replace(view.shifted(walk(done)), width=view.width * (1 - 0.04 * done))  # the camera creeps in
            behind = background[number % len(background)] if background else None
            frames.append(render(self.photo, closer, pose, behind))
        return Video(frames, sound)


def landscape(count: int) -> list[np.ndarray]:
    """Hills under moving clouds, with nobody there."""
    rng = np.random.default_rng(7)
    rows, columns = np.mgrid[0:SIZE, 0:SIZE].astype(np.float32) / SIZE
    clouds = fractal(rng, SIZE, 3 * SIZE)
    ground = fractal(rng, SIZE, SIZE) * fractal(rng, SIZE, SIZE)
    hills = 0.58 + 0.06 * np.sin(9 * columns) + 0.03 * np.sin(23 * columns + 1)
    land = np.array((70, 120, 60), np.float32) * (0.4 + 1.2 * ground[..., None])
    sky = np.array((90, 140, 210), np.float32) + 45 * rows[..., None]
    frames = []
    for number in range(count):
        veil = np.clip(2 * clouds[:, 2 * number % (2 * SIZE) :][:, :SIZE] - 0.8, 0, 1)[..., None]
        frames.append(np.where((rows > hills)[..., None], land, sky + veil * (245 - sky)).astype(np.uint8))
    return frames


def fractal(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """(height, width) float32 in 0..1: noise with detail at every scale, like clouds or grass."""
    total = np.zeros((height, width), np.float32)
    for octave in range(2, 9):
        grid = rng.random((2**octave, 2**octave * width // height), np.float32)
        total += cv2.resize(grid, (width, height), interpolation=cv2.INTER_CUBIC) * np.float32(0.62**octave)
    return (total - total.min()) / np.ptp(total)


# ---- what can be wrong with pictures


def blur_face(frame: np.ndarray) -> np.ndarray:
    (x0, y0), (x1, y1) = NEAR.to_frame(*FACE_BOX[:2]), NEAR.to_frame(*FACE_BOX[2:])
    mask = np.zeros(frame.shape[:2], np.float32)
    cv2.ellipse(mask, ((x0 + x1) // 2, (y0 + y1) // 2), (x1 - x0, y1 - y0), 0, 0, 360, (1.0,), -1)
    soft = cv2.GaussianBlur(mask, (0, 0), 10)[..., None]
    return (frame + soft * (cv2.GaussianBlur(frame, (0, 0), 7) - frame.astype(np.float32))).astype(np.uint8)


def write_on_face(frame: np.ndarray) -> np.ndarray:
    frame = frame.copy()
    for row, text in enumerate(("SUBSCRIBE NOW", "FOR MORE VIDEOS")):
        for colour, thickness in (((0, 0, 0), 14), ((255, 255, 255), 5)):
            cv2.putText(frame, text, (60, 290 + 70 * row), cv2.FONT_HERSHEY_DUPLEX, 1.9, colour, thickness, cv2.LINE_AA)
    return frame


def shake(frames: list[np.ndarray]) -> list[np.ndarray]:
    rng = np.random.default_rng(3)
    throws = rng.uniform(-36, 36, (len(frames), 2))
    turns = rng.uniform(-4, 4, len(frames))
    shaken = []
    for frame, throw, turn in zip(frames, throws, turns, strict=True):
        move = cv2.getRotationMatrix2D((SIZE / 2, SIZE / 2), turn, 1.0)
        move[:, 2] += throw
        shaken.append(cv2.warpAffine(frame, move, (SIZE, SIZE), borderMode=cv2.BORDER_REFLECT))
    return shaken


# ---- the videos


def two_shots(studio: Studio) -> Video:
    """A cut in the middle, to a closer view from the other side, in warmer light."""
    sound = speech(STORY, pitch=45)
    half = len(sound) // 2
    first = studio.talk(sound[:half], WIDE, seed=1)
    second = studio.talk(sound[half:], CLOSE, seed=2)
    warm = [(frame * np.array((1.0, 0.86, 0.7), np.float32)).astype(np.uint8) for frame in second.frames]
    return Video(first.frames + warm, sound)


def leave(done: float) -> float:
    """Out of the frame to the left between a fifth and two fifths of the time."""
    return -340 * float(np.clip((done - 0.2) / 0.2, 0, 1))


def changed(studio: Studio, change: Callable[[np.ndarray], np.ndarray]) -> Video:
    return replace(studio.talker, frames=[change(frame) for frame in studio.talker.frames])


# Each failure is one change to the good talker, or to what is in view.
VIDEOS: dict[str, Callable[[Studio], Video]] = {
    "talker_1": lambda s: s.talker,
    "talker_2_two_shots": two_shots,
    "talker_3_outdoors": lambda s: s.talk(speech(OUTDOORS, pitch=60), View(mirror=True), 3, s.landscape),
    "fails_no_audio": lambda s: replace(s.talker, sound=None),
    "fails_music_only": lambda s: replace(s.talker, sound=music(len(s.talker.frames) / FPS)),
    "fails_silent": lambda s: replace(s.talker, sound=np.zeros_like(s.voice)),
    "fails_frozen": lambda s: replace(s.talker, frames=s.talker.frames[:1] * len(s.talker.frames)),
    "fails_nobody": lambda s: replace(s.talker, frames=s.landscape),
    "fails_person_small": lambda s: s.talk(s.voice, FAR, 0, s.landscape),
    "fails_person_leaves": lambda s: s.talk(s.voice, NEAR, 0, s.landscape, leave),
    "fails_face_blurred": lambda s: changed(s, blur_face),
    "fails_text_on_face": lambda s: changed(s, write_on_face),
    "fails_shaking": lambda s: replace(s.talker, frames=shake(s.talker.frames)),
    "fails_dark": lambda s: changed(s, lambda frame: (frame * 0.05).astype(np.uint8)),
    "fails_too_short": lambda s: Video(s.talker.frames[: FPS + 5], s.voice[: RATE * (FPS + 5) // FPS]),
    "fails_one_fps": lambda s: replace(s.talker, frames=s.talker.frames[::FPS], fps=1),
    "fails_out_of_sync": lambda s: replace(s.talker, sound=np.roll(s.voice, round(LATE * RATE))),
}

# Files that are no videos, made from the bytes of a good one.
BROKEN: dict[str, Callable[[bytes], bytes]] = {
    "fails_truncated": lambda good: good[: len(good) * 6 // 10],
    "fails_text_file": lambda good: b"This is a text file that somebody named .mp4\n" * 40,
    "fails_empty": lambda good: b"",
}


def write(video: Video, path: Path) -> None:
    """Encode as H.264 and AAC in MP4."""
    with av.open(str(path), "w") as container:
        # The thread count shapes x264's output: a fixed one gives the same file on every machine.
        pictures = container.add_stream("libx264", rate=video.fps, options={"preset": "veryfast", "threads": "2"})
        pictures.width = pictures.height = SIZE
        pictures.pix_fmt = "yuv420p"
        sound = container.add_stream("aac", rate=48_000, layout="mono") if video.sound is not None else None
        for image in video.frames:
            container.mux(pictures.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(pictures.encode())
        if sound is not None and video.sound is not None:
            samples = av.AudioFrame.from_ndarray(video.sound[None], format="fltp", layout="mono")
            samples.sample_rate = RATE
            container.mux(sound.encode(samples))
            container.mux(sound.encode())


def make_demo(out: Path, only: Collection[str] | None = None) -> None:
    """Write the demo's videos (or `only` those of these names) as `out/NAME.mp4`; the broken ones need `talker_1`."""
    out.mkdir(parents=True, exist_ok=True)
    studio = Studio()
    names = [name for name in (*VIDEOS, *BROKEN) if only is None or name in only]
    for name in track(names, "Making sample videos"):
        path = out / f"{name}.mp4"
        if name in VIDEOS:
            write(VIDEOS[name](studio), path)
        else:
            path.write_bytes(BROKEN[name]((out / "talker_1.mp4").read_bytes()))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    make_demo(parser.parse_args().out)

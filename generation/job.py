"""What a user asks for, and the frames and clips that follow from it."""

import os
from dataclasses import dataclass, field
from pathlib import Path

from model.audio_frames import FRAME_RATE
from model.errors import InputError
from model.long_video import CLIP_FRAMES, WARM_UP, clips_needed
from model.sampler import Sampling
from model.schedulers import SOLVERS
from model.size import fit_size

NEGATIVE = (
    "blurry picture, worst quality, washed-out details, subtitles, still frame, cluttered background, crowd behind, "
    "violent emotion, fast shaking hands, badly drawn hands, extra or fused fingers, badly drawn face, deformed face, "
    "malformed limbs, third leg, walking backwards"
)
SMALLEST_TILE = 128  # pixels
LIP_SYNC_PROMPT = "A person is speaking to the camera."


@dataclass(frozen=True)
class Job:
    """The options that `s2v generate` and `s2v lipsync` share."""

    checkpoint: str
    audio: str
    out: str
    prompt: str
    negative: str = NEGATIVE
    area: int = 1024 * 704
    seconds: float | None = None
    audio_start: float = 0.0
    sampling: Sampling = field(default_factory=Sampling)
    gpus: int = 1
    stream: bool = False
    tile: int = 0
    compiled: bool = False
    force: bool = False

    def check(self) -> None:
        """Raises InputError for options that can't be, before anything is read."""
        if self.sampling.solver not in SOLVERS:
            raise InputError(f"--solver is one of {', '.join(SOLVERS)}, not '{self.sampling.solver}'.")
        if self.seconds is not None and self.seconds <= 0:
            raise InputError(f"--seconds must be more than 0, not {self.seconds:g}.")
        if Path(self.out).suffix.lower() != ".mp4":
            raise InputError(f"--out {self.out}: the video is an mp4; give a name that ends in .mp4.")
        if not Path(self.out).absolute().parent.is_dir():
            raise InputError(
                f"--out {self.out}: the folder {Path(self.out).absolute().parent} does not exist; make it."
            )
        if not os.access(Path(self.out).absolute().parent, os.W_OK):
            raise InputError(f"--out {self.out}: the folder can't be written to; choose another, or its permissions.")
        if Path(f"{self.out}.latents").is_file():
            raise InputError(
                f"{self.out}.latents is a file, and latents are to be kept in a folder there; move it away."
            )
        if Path(self.out).is_dir():
            raise InputError(f"--out {self.out} is a folder; give the name of a file.")
        for given in self.inputs():
            if Path(given).exists() and Path(self.out).exists() and os.path.samefile(given, self.out):
                raise InputError(f"--out {self.out} is also given as input; choose another name.")
        if self.tile and (self.tile < SMALLEST_TILE or self.tile % 64):
            raise InputError(f"--tile {self.tile}: give a multiple of 64 from {SMALLEST_TILE} on, or 0 for no tiles.")

    def inputs(self) -> list[str]:
        """The files that are read."""
        return [self.audio]


@dataclass(frozen=True)
class GenerateJob(Job):
    image: str = ""
    pose: str = ""
    previous: str = ""
    first_frame: bool = False
    upstream_alignment: bool = False

    def inputs(self) -> list[str]:
        return [name for name in (self.audio, self.image, self.pose, self.previous) if name]

    def check(self) -> None:
        super().check()
        if self.previous and self.first_frame:
            raise InputError(
                "--continue begins where a video ends, --init-first-frame with the image: give one of them."
            )


@dataclass(frozen=True)
class LipSyncJob(Job):
    video: str = ""
    person: int = 0
    keep_pixels: bool = False

    def inputs(self) -> list[str]:
        return [self.audio, self.video]


@dataclass(frozen=True)
class Plan:
    """The video to be made. cut: frames that the first clip loses. lead: frames by which the sound comes later."""

    height: int
    width: int
    frames: int
    cut: int
    lead: int

    @classmethod
    def of(cls, shape: tuple[int, ...], area: int, frames: int, *, has_past: bool, upstream: bool = False) -> "Plan":
        """shape: (height, width, ...) of the picture whose shape the video takes.

        A first clip without a past loses its first frames. The sound starts with the frame that is shown first; the
        official code starts it with the first of those that are lost.
        """
        height, width = fit_size(shape[0], shape[1], area)
        cut = 0 if has_past else WARM_UP
        return cls(height, width, frames, cut, 0 if upstream else cut)

    @property
    def clips(self) -> int:
        return clips_needed(self.frames, self.cut)

    @property
    def seconds(self) -> float:
        return self.frames / FRAME_RATE

    def span(self, clip: int) -> tuple[int, int]:
        """The frames of the video, [first, end), that a clip is about; those before 0 are the first one, repeated."""
        first = clip * CLIP_FRAMES - self.lead
        return first, first + CLIP_FRAMES


def parse_size(text: str) -> int:
    """'1024x704' -> its area in pixels."""
    sides = text.lower().replace("*", "x").split("x")
    if len(sides) != 2 or not all(side.strip().isdigit() for side in sides):
        raise InputError(f"--size {text}: give WIDTHxHEIGHT, such as 1024x704.")
    width, height = (int(side) for side in sides)
    if not 64 * 64 <= width * height <= 4096 * 2304 or min(width, height) < 64:
        raise InputError(f"--size {text}: between 64x64 and 4096x2304 pixels are possible; 1024x704 is usual.")
    return width * height

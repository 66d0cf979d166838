"""The stages of training (paper section 4), as typed settings. What the paper leaves open is marked "ours"."""

from collections.abc import Callable, Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, model_validator

from dataset.config import load, parse, suggest
from dataset.errors import UsageError

Share = Field(0.0, ge=0, le=1)


class Settings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Drops(Settings):
    """How often a condition is withheld, each drawn by itself. What is withheld is masked: see `trainer.draws`."""

    text: float = Share
    audio: float = Share
    reference: float = Share
    motion: float = Share
    pose: float = Share


class Timesteps(Settings):
    """Noise levels, logit-normal of deviation `spread` (None: uniform), moved towards noise by `shift`."""

    spread: float | None = Field(1.0, gt=0)
    shift: float = Field(3.0, gt=0)


class Optimiser(Settings):
    """AdamW. The rate rises over `warmup` steps, then stays, or follows half a cosine down to a tenth."""

    rate: float = Field(1e-5, gt=0)
    schedule: Literal["constant", "cosine"] = "constant"
    warmup: int = Field(0, ge=0)
    weight_decay: float = Field(0.01, ge=0)
    betas: tuple[float, float] = (0.9, 0.999)
    clip: float = Field(1.0, gt=0)  # largest norm of the gradient
    ema: float | None = Field(0.999, gt=0, lt=1)  # None: no moving average of the weights
    offload: bool = False  # states and update on the CPU: slower, and 12 bytes a parameter less on the GPU


class Validation(Settings):
    """On clips that training doesn't see, the same ones throughout. levels: noise levels, at even quantiles."""

    every: int = Field(500, ge=0)  # steps; 0: never
    clips: int = Field(16, ge=0)
    held_out: bool = True  # False: on clips that are trained on, to see that they are learnt
    levels: int = Field(4, ge=1)
    videos: int = Field(2, ge=0)  # sampled each time
    video_steps: int = Field(20, ge=1)


class Zero(Settings):
    """DeepSpeed's `zero_optimization`, where it changes speed and memory only. None: DeepSpeed's own default.

    Nothing else of it can be set: without `reduce_scatter`, with other stages or with DeepSpeed's own sequence
    parallelism, gradients have another scale.
    """

    overlap_comm: bool | None = None
    reduce_bucket_size: int | None = None
    stage3_prefetch_bucket_size: int | None = None
    stage3_param_persistence_threshold: int | None = None
    stage3_max_live_parameters: int | None = None
    stage3_max_reuse_distance: int | None = None
    sub_group_size: int | None = None


class Stage(Settings):
    """One stage. trains: patterns of the parameters that learn. mixture: kind of data -> its share of the samples."""

    name: str
    trains: tuple[str, ...] = ("*",)
    mixture: dict[str, float] = {"speech": 1.0}
    tokens: int = Field(45_000, ge=1)  # M: the most tokens of a sample, reference and motion frames included
    frames: int = Field(48, ge=4, multiple_of=4)  # the most video frames of a sample, 16 a second
    batch: int = Field(32, ge=1)  # clips an update
    steps: int = Field(ge=1)
    timesteps: Timesteps = Timesteps()
    drops: Drops = Drops()
    optimiser: Optimiser = Optimiser()
    validation: Validation = Validation()
    precision: Literal["bf16", "fp32"] = "bf16"  # of weights in use; masters are always fp32
    sequence: int = Field(0, ge=0)  # ranks that share a sample; 0: all of a node
    ulysses: int = Field(0, ge=0)  # of those, by Ulysses, the others by ring; 0: as many as heads and node allow
    recompute: Literal["all", "all-but-attention", "nothing"] = "all-but-attention"  # of a block, in the backward pass
    zero: Zero = Zero()
    save_every: int = Field(250, ge=1)  # steps
    keep: int = Field(3, ge=1)  # newest checkpoints that stay
    seed: int = Field(0, ge=0)
    workers: int = Field(2, ge=0)  # reading processes a data rank; 0: none of their own

    @model_validator(mode="after")
    def shares(self) -> "Stage":
        if not self.mixture or any(share <= 0 for share in self.mixture.values()):
            raise ValueError("mixture needs at least one kind of data, each with a share above 0")
        return self

    def learns(self, parameter: str) -> bool:
        """Does the parameter of this name?"""
        return any(fnmatch(parameter, pattern) for pattern in self.trains)


# The drop rates of public trainers: a tenth of each (facts of VideoX-Fun and TalkVerse). The paper gives none.
DROPS = Drops(text=0.1, audio=0.1, reference=0.1, motion=0.1, pose=0.5)


def audio_encoder() -> Stage:
    """Stage 1: what listens learns, the video model stays. Small pictures: lips need time more than size (ours)."""
    return Stage(
        name="audio-encoder",
        trains=("audio_encoder.*", "*.audio_injector.*"),
        tokens=16_000,
        steps=10_000,
        batch=64,
        drops=DROPS,
        optimiser=Optimiser(rate=1e-4, warmup=500),
    )


def speech() -> Stage:
    """Stage 2: the whole network on speech."""
    return Stage(name="speech", steps=20_000, drops=DROPS, optimiser=Optimiser(rate=2e-5, warmup=500))


def film_speech() -> Stage:
    """Stage 3: film and television with speech, in equal parts (ours)."""
    return Stage(
        name="film-speech",
        mixture={"film": 0.5, "speech": 0.5},
        steps=20_000,
        drops=DROPS,
        optimiser=Optimiser(rate=1e-5, warmup=500),
    )


def sft() -> Stage:
    """Stage 4: the best clips, at the largest size, with a falling rate (ours: rate, drops, steps)."""
    return Stage(
        name="sft",
        mixture={"best": 1.0},
        steps=3_000,
        drops=DROPS.model_copy(update={"text": 0.05, "audio": 0.05, "reference": 0.05}),
        optimiser=Optimiser(rate=5e-6, schedule="cosine", warmup=100, ema=0.9995),
    )


def tiny() -> Stage:
    """For a CPU: a small network learns a few clips by heart in minutes. To see that everything works.

    Motion and reference are often withheld: they show most of what a clip is, and would leave the sound little to tell.
    """
    return Stage(
        name="tiny",
        tokens=400,
        frames=16,
        batch=4,
        steps=500,
        drops=Drops(text=0.05, audio=0.05, reference=0.5, motion=0.5, pose=0.5),
        optimiser=Optimiser(rate=5e-3, schedule="cosine", warmup=10, weight_decay=0.0, ema=0.95),
        validation=Validation(every=100, clips=4, held_out=False, videos=1, video_steps=8),
        precision="fp32",
        recompute="nothing",
        save_every=100,
        workers=1,
    )


SHIPPED: dict[str, Callable[[], Stage]] = {
    "audio-encoder": audio_encoder,
    "speech": speech,
    "film-speech": film_speech,
    "sft": sft,
    "tiny": tiny,
}


def find_stage(name: str, changes: Sequence[str] = ()) -> Stage:
    """A shipped stage, or a YAML file; with `key=value` changes, such as `optimiser.rate=1e-5`."""
    if name in SHIPPED:
        stage = SHIPPED[name]()
    elif Path(name).is_file():
        stage = load(Stage, Path(name))
    else:
        raise UsageError(f"There is no file and no shipped stage '{name}'.{suggest(name, list(SHIPPED))}")
    return with_changes(stage, changes)


def with_changes(stage: Stage, changes: Sequence[str]) -> Stage:
    settings = stage.model_dump()
    for change in changes:
        key, equals, value = change.partition("=")
        if not equals:
            raise UsageError(f"--set {change}: give key=value, such as optimiser.rate=1e-5.")
        *parents, last = key.strip().split(".")
        place: Any = settings
        for parent in parents:
            place = place.get(parent)
            if not isinstance(place, dict):
                raise UsageError(
                    f"--set {change}: '{parent}' has no settings below it.{suggest(parent, list(settings))}"
                )
        place[last] = number_or_text(value)
    return parse(Stage, settings, "--set")


def number_or_text(value: str) -> object:
    """As YAML reads it; and 1e-5, which YAML takes for text."""
    try:
        read = yaml.safe_load(value)
        return float(read) if isinstance(read, str) else read
    except (yaml.YAMLError, ValueError):
        return value

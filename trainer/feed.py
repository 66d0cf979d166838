"""From places to examples on every rank's device: of the ranks that share a sample, one reads, the others receive."""

import json
from collections.abc import Callable, Generator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from dataset.errors import UsageError
from model.checkpoint import Checkpoint
from model.config import S2VConfig
from trainer.budget import fit
from trainer.corpus import read_corpus, split
from trainer.encoders import Encoders
from trainer.latents import LatentStore, is_latents
from trainer.loader import Loader
from trainer.ranks import Ranks
from trainer.reading import read_pixels
from trainer.sample import Clip, Example, Pixels, Replaced, Request
from trainer.schedule import Schedule
from trainer.stages import Stage

REPLACED = "replaced.jsonl"


@dataclass(frozen=True)
class Data:
    """The clips of a run, and how to read one of them: its pixels, or its example where that was encoded ahead."""

    train: list[Clip]
    held_out: list[Clip]
    read: Callable[[Request], Any]
    encoded: bool

    @classmethod
    def open(cls, places: Sequence[str], stage: Stage, config: S2VConfig) -> "Data":
        """Reads indexes only. places: `[KIND=]PATH`, as `trainer.corpus.read_corpus` takes them."""
        latents = [place for place in places if is_latents(place.rpartition("=")[2])]
        if latents and len(latents) < len(places):
            raise UsageError(f"--data mixes latents ({latents[0]}) with videos: encode all of them, or none.")
        if latents:
            stores = StoredLatents(tuple(LatentStore.open(place.rpartition("=")[2]) for place in latents))
            stores.check(config)
            clips, read = stores.clips(stage), stores
        else:
            clips, read = read_corpus(places, stage), partial(read_pixels, seed=stage.seed)  # type: ignore[assignment]
        return cls(*split(clips, stage), read, bool(latents))


@dataclass(frozen=True)
class StoredLatents:
    stores: tuple[LatentStore, ...]

    def check(self, config: S2VConfig) -> None:
        """Refuse latents that were made with the encoders of another network."""
        for store in self.stores:
            for name, here in (("audio_dim", config.audio_dim), ("text_dim", config.text_dim)):
                if (there := getattr(store.facts, name)) != here:
                    raise UsageError(
                        f"{store.path} was encoded with {name} {there}, and the network of --init has {here}: "
                        "encode again, with that checkpoint's encoders."
                    )

    def clips(self, stage: Stage) -> list[Clip]:
        clips = [clip for store in self.stores for clip in store.clips(stage, list(stage.mixture))]
        if lacking := set(stage.mixture) - {clip.kind for clip in clips}:
            raise UsageError(f"--data has no {', '.join(sorted(lacking))}, which the stage's mixture asks for.")
        return clips

    def __call__(self, request: Request) -> Example:
        return next(s for s in self.stores if request.clip.shard.startswith(f"{s.path}/")).read(request)


class Feed:
    """Examples of this rank's micro-steps, update after update. Encoders are loaded on ranks that have to encode."""

    def __init__(self, data: Data, stage: Stage, config: S2VConfig, parts: Path, run: Path, ranks: Ranks):
        self.data, self.stage, self.config, self.run, self.ranks = data, stage, config, run, ranks
        self.schedule = Schedule(data.train, stage, config, ranks.data_ranks)
        encodes = ranks.reads and not data.encoded
        self.encoders = Encoders.load(Checkpoint.open(parts), ranks.device) if encodes else None

    def from_step(self, first: int) -> Generator[list[Example], None, None]:
        """A collective: every rank iterates."""
        count = self.stage.batch // self.ranks.data_ranks
        if not self.ranks.reads:
            for _ in range(first, self.stage.steps):
                yield [self.ranks.share(None) for _ in range(count)]
            return
        loader = Loader(self.schedule, self.data.read, self.stage, self.ranks.data_rank, first)
        for _, samples, replaced in loader:
            self.note(replaced)
            yield [self.ranks.share(self.encoded(sample)) for sample in samples]

    def encoded(self, sample: Pixels | Example) -> Example:
        if isinstance(sample, Example):
            return sample
        assert self.encoders is not None
        return self.encoders.encode(sample)

    def note(self, replaced: Sequence[Replaced]) -> None:
        if replaced:
            with (self.run / REPLACED).open("a") as file:  # several ranks append, each in one write
                file.write("".join(json.dumps(asdict(row)) + "\n" for row in replaced))

    def held_out(self) -> list[Example]:
        """The clips of validation, on the CPU; those that can't be read are left out. A collective."""
        examples = []
        for clip in self.data.held_out:
            example = self.ranks.share(self.first_epoch(clip) if self.ranks.reads else None)
            examples.append(example.with_tensors({name: t.cpu() for name, t in example.tensors().items()}))
        return examples

    def first_epoch(self, clip: Clip) -> Example | None:
        shape = fit(clip.seconds, clip.width, clip.height, self.stage, self.config)
        assert shape is not None
        return self.encoded(self.data.read(Request(clip, shape, 0)))

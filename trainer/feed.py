"""From places to examples on every rank's device: of the ranks that share a sample, one reads, the others receive."""

import json
from collections.abc import Callable, Generator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from dataset.config import suggest
from dataset.errors import UsageError
from model.checkpoint import Checkpoint
from model.config import S2VConfig
from trainer.budget import fit
from trainer.corpus import read_corpus, split, split_place
from trainer.encoders import ENCODERS, Encoders, digest
from trainer.job import Start
from trainer.latents import LatentStore, is_latents
from trainer.loader import Loader
from trainer.ranks import Ranks
from trainer.reading import Unreadable, read_pixels
from trainer.sample import Clip, Example, Pixels, Replaced, Request, seed_of
from trainer.schedule import Schedule
from trainer.stages import Stage

REPLACED = "replaced.jsonl"


Tell = Callable[[str], None]


@dataclass(frozen=True)
class Data:
    """The clips of a run, and how to read one of them: its pixels, or its example where that was encoded ahead."""

    train: list[Clip]
    held_out: list[Clip]
    read: Callable[[Request], Any]
    encoded: bool

    @classmethod
    def open(cls, data: Sequence[str], stage: Stage, start: Start, tell: Tell = lambda _: None) -> "Data":
        """Reads indexes only, where there are any. data: `[KIND=]PATH`. `tell` hears in sentences what is odd."""
        places = [split_place(text) for text in data]
        latents = [path for _, path in places if is_latents(path)]
        if latents and len(latents) < len(places):
            raise UsageError(f"--data mixes latents ({latents[0]}) with videos: encode all of them, or none.")
        if latents:
            read = StoredLatents({path: LatentStore.open(path) for _, path in places})
            read.check(start, tell)
            return cls(*split(read.clips(places, stage), stage), read, True)
        clips = read_corpus(data, stage, start.config, tell)
        return cls(*split(clips, stage), partial(read_pixels, seed=stage.seed), False)

    @property
    def digest(self) -> str:
        """Of what the order of samples depends on."""
        return f"{seed_of(sorted((clip.kind, clip.clip_id) for clip in self.train)):016x}"


@dataclass(frozen=True)
class StoredLatents:
    """Latent shards by path."""

    stores: dict[str, LatentStore]

    def check(self, start: Start, tell: Tell) -> None:
        """Refuse latents that the network can't take; tell where they were made with other files."""
        config, parts = start.config, Checkpoint.open(start.parts)
        here = None if parts.missing(ENCODERS) else digest(parts)
        for path, store in self.stores.items():
            facts = store.facts
            for name, wanted in (
                ("channels", config.in_dim),
                ("audio_dim", config.audio_dim),
                ("text_dim", config.text_dim),
            ):
                if (found := getattr(facts, name)) != wanted:
                    raise UsageError(
                        f"{path} was encoded with {name} {found}, and the network has {wanted}: encode again, with the "
                        "encoders of its checkpoint."
                    )
            if here not in (None, facts.encoders):
                tell(f"{path} was encoded with other files than those of {start.parts}: see that they are the same.")

    def clips(self, places: Sequence[tuple[str, str]], stage: Stage) -> list[Clip]:
        """Of the kind that is given with a path, or else of the kinds that the clips were encoded as."""
        found: dict[tuple[str, str], Clip] = {}
        for kind, path in places:
            if kind and kind not in stage.mixture:
                raise UsageError(
                    f"--data {kind}={path}: the stage has no such kind.{suggest(kind, list(stage.mixture))}"
                )
            for clip in self.stores[path].clips(stage):
                named = replace(clip, kind=kind or clip.kind)
                if named.kind in stage.mixture:
                    found.setdefault((named.kind, named.clip_id), named)
        if lacking := sorted(set(stage.mixture) - {kind for kind, _ in found}):
            raise UsageError(f"--data has no {' and no '.join(lacking)}. Say what it is: --data {lacking[0]}=PATH.")
        return [found[key] for key in sorted(found)]

    def __call__(self, request: Request) -> Example:
        store = next(s for s in self.stores.values() if request.clip.shard.startswith(f"{s.path}/"))
        return store.read(request)


class Feed:
    """Examples of this rank's micro-steps, update after update. Encoders are loaded on ranks that have to encode."""

    def __init__(self, data: Data, stage: Stage, config: S2VConfig, parts: Path, run: Path, ranks: Ranks, tell: Tell):
        self.data, self.stage, self.config, self.run, self.ranks, self.tell = data, stage, config, run, ranks, tell
        encodes = ranks.reads and not data.encoded
        self.encoders = Encoders.load(Checkpoint.open(parts), ranks.device) if encodes else None

    def from_step(self, first: int) -> Generator[list[Example], None, None]:
        """A collective: every rank iterates."""
        count = self.stage.batch // self.ranks.data_ranks
        if not self.ranks.reads:
            for _ in range(first, self.stage.steps):
                yield [self.ranks.share(None) for _ in range(count)]
            return
        schedule = Schedule(self.data.train, self.stage, self.config, self.ranks.data_ranks)
        loader = Loader(schedule, self.data.read, self.stage, self.ranks.data_rank, first)
        for _, samples, replaced in loader:
            self.note(replaced)
            yield [self.ranks.share(self.encoded(sample)) for sample in samples]

    def encoded(self, sample: Pixels | Example) -> Example:
        if isinstance(sample, Example):
            return sample
        assert self.encoders is not None
        return self.encoders.encode(sample)

    def note(self, replaced: Sequence[Replaced]) -> None:
        if not replaced:
            return
        try:
            with (self.run / REPLACED).open("a") as file:  # several ranks append, each in one write
                file.write("".join(json.dumps(asdict(row)) + "\n" for row in replaced))
        except OSError as error:
            self.tell(f"{self.run / REPLACED} can't be written: {error}.")

    def held_out(self) -> list[Example]:
        """The clips of validation, on the CPU; one that any rank can't read is left out. A collective."""
        examples = []
        for clip in self.data.held_out:
            example, complaint = self.first_epoch(clip) if self.ranks.reads else (None, "")
            if self.ranks.any(bool(complaint)):
                self.tell(f"the clip {clip.clip_id} is left out of validation: {complaint or 'unreadable elsewhere'}.")
                continue
            shared = self.ranks.share(example)
            examples.append(shared.with_tensors({name: t.cpu() for name, t in shared.tensors().items()}))
        return examples

    def first_epoch(self, clip: Clip) -> tuple[Example | None, str]:
        shape = fit(clip.seconds, clip.width, clip.height, self.stage, self.config)
        assert shape is not None
        try:
            return self.encoded(self.data.read(Request(clip, shape, 0))), ""
        except Unreadable as error:
            return None, error.error

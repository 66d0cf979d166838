"""Rows of `scores/`: what was measured of a clip, by which version of what."""

from typing import Any

import pyarrow as pa

from curation.chain import DECODE, Job
from curation.layout import struct_of
from curation.policy import Policy
from curation.recipe import Recipe, digests
from dataset.records import Clip
from dataset.tables import short_hash
from dataset.tracks import Tracks
from filters.base import Filter, Looked


def score_schema(chain: list[Filter]) -> pa.Schema:
    """One struct column per filter; a filter that did not run is null."""
    fixed = [
        ("clip_id", pa.string()),
        ("stopped", pa.string()),
        ("chain", pa.string()),
        ("policy", pa.string()),
        ("versions", pa.map_(pa.string(), pa.string())),
        ("ms", pa.map_(pa.string(), pa.float64())),
        ("looked", pa.map_(pa.string(), struct_of(Looked))),
        ("frames", pa.int64()),
        ("decoded", pa.int64()),
        ("opens", pa.int64()),
    ]
    return pa.schema(fixed + [(f.name(), struct_of(f.Scores)) for f in chain])


class ScoreRows:
    """Jobs <-> rows of `scores/`, for one chain of filters."""

    def __init__(self, recipe: Recipe, policy: Policy):
        self.chain = chain = recipe.build()
        self.policy = policy
        self.cascade = recipe.cascade
        self.digests = digests(chain)
        self.signature = short_hash(repr((self.digests, self.cascade)))
        self.schema = score_schema(chain)

    def row(self, job: Job, old: dict[str, Any] | None = None) -> dict[str, Any]:
        """old: the clip's row of an earlier run."""
        ms, before = dict(job.ms), dict(old["ms"]) if old else {}
        if DECODE in before:  # a later run decodes only what is still missing: the dearest tells what all of it costs
            ms[DECODE] = max(before[DECODE], ms.get(DECODE, 0.0))
        return {
            "clip_id": job.clip.clip_id,
            "stopped": job.stopped,
            "chain": self.signature,
            "policy": self.policy.digest,
            "versions": [(name, self.digests[name]) for name in job.measured],
            "ms": list(ms.items()),
            "looked": [(name, looked.model_dump()) for name, looked in job.looked.items()],
            "frames": job.frames,
            "decoded": job.decoded,
            "opens": job.opens,
            **{name: m.model_dump() for name, m in job.measured.items()},
        }

    def job(self, clip: Clip, row: dict[str, Any] | None, tracks: dict[str, Any] | None) -> Job:
        """A job with the measurements that are still valid: same digest of version, parameters, weights, inputs.

        What decoding took is left out, so that the job tells what it took this time."""
        job = Job(clip)
        if row:
            versions, ms, looked = dict(row["versions"]), dict(row["ms"]), dict(row.get("looked") or [])
            for f in self.chain:
                name = f.name()
                if row.get(name) is not None and versions.get(name) == self.digests[name]:
                    job.measured[name] = f.Scores.model_validate(row[name])
                    job.ms[name] = ms.get(name, 0.0)
                    if name in looked:
                        job.looked[name] = Looked.model_validate(looked[name])
            job.frames, job.decoded, job.opens = row["frames"], row["decoded"], row["opens"]
        if tracks and job.measured:
            job.tracks = Tracks.from_row(tracks)
        return job

    def complete(self, row: dict[str, Any]) -> bool:
        """Whether nothing is left to measure of a clip under this chain and policy."""
        versions = dict(row["versions"])
        for f in self.chain:
            name = f.name()
            if row.get(name) is None or versions.get(name) != self.digests[name]:
                return False
            if self.cascade and self.policy.stops(name, f.Scores.model_validate(row[name])):
                return True
        return True

"""What lies in a dataset: its recipe and policy, one clip, one row."""

from typing import Any

import fsspec
import pyarrow.compute as pc
import yaml

from curation.layout import CLIPS, clips_of, read, table
from curation.policy import Policy
from curation.recipe import Recipe
from dataset.config import Model, parse
from dataset.errors import UsageError
from dataset.records import Clip
from dataset.store import told


class NotADataset(UsageError):
    """There is nothing at this place that `s2v curate` wrote."""


def settings(dataset: str) -> tuple[Recipe, Policy]:
    """The recipe and policy that lie in a dataset."""
    return stored(dataset, "recipe.yaml", Recipe), stored(dataset, "policy.yaml", Policy)


def stored(dataset: str, name: str, model: type[Model]) -> Model:
    try:
        with told(dataset), fsspec.open(f"{dataset}/{name}", "rt", encoding="utf-8") as f:
            return parse(model, yaml.safe_load(f), f"{dataset}/{name}")
    except (FileNotFoundError, NotADirectoryError):
        raise NotADataset(f"{dataset} is not a dataset: it has no {name}. Make one with `s2v curate`.") from None


def find_clip(dataset: str, name: str) -> Clip:
    """A clip by its id, the beginning of its id, or a part of its source's name."""
    clips = read(dataset, CLIPS)
    by_id = clips.filter(pc.starts_with(clips["clip_id"], name))
    hits = clips_of(by_id if by_id.num_rows else clips.filter(pc.match_substring(clips["source"], name)))
    if not hits:
        raise UsageError(f"No clip of {dataset} has an id or a source with '{name}'.")
    if len(hits) > 1:
        shown = "\n".join(f"  {c.clip_id}  {c.source}  {c.start:.2f}-{c.end:.2f} s" for c in hits[:10])
        raise UsageError(f"{len(hits)} clips match '{name}'; give one id:\n{shown}")
    return hits[0]


def row_of(dataset: str, name: str, clip: Clip) -> dict[str, Any] | None:
    rows = table(dataset, name)
    for part in rows.parts():
        found = rows.read_part(part)
        hit = found.filter(pc.equal(found["clip_id"], clip.clip_id))
        if hit.num_rows:
            return hit.to_pylist()[0]
    return None

"""Recipes: which filters, in which order, with which parameters and resources."""

import importlib
import importlib.util
import inspect
import json
import math
import sys
from collections.abc import Iterable, Sequence
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

import filters as shipped
from captioning.settings import Captioning
from curation.config import find
from dataset.config import load, parse, suggest
from dataset.errors import RunError, UsageError
from dataset.tables import short_hash
from filters import weights
from filters.base import Filter

UNASKED = 50  # MB; larger weights are fetched by `s2v weights pull` alone


class Setting(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Shots(Setting):
    """How a source is cut into clips."""

    max_seconds: float = Field(15.0, gt=0)  # longer shots are cut into equal pieces
    adaptive_threshold: float = Field(3.0, gt=0)  # PySceneDetect: ratio of a frame's change to its neighbours'
    min_content: float = Field(15.0, gt=0)  # PySceneDetect: least change of a cut, 0-255


class Recipe(Setting):
    """A curation run. `filters` run in this order; an entry is a name, or `{name: {parameter: value}}`."""

    name: str
    filters: list[str | dict[str, dict[str, Any]]] = Field(min_length=1)
    policy: str = "embedded"
    shots: Shots = Shots()
    captioning: Captioning = Captioning()
    cascade: bool = True  # stop a clip at the first hard rule it breaks
    time_limit: float = Field(120.0, gt=0)  # seconds a clip may take before it is given up
    fetch_limit: float = Field(600.0, gt=0)  # seconds a download may take
    cpus: float = Field(1.0, gt=0)  # of one worker
    gpus: float = Field(0.0, ge=0)
    shard_clips: int = Field(64, gt=0)

    def limits(self, source: str) -> dict[str, float]:
        """Seconds for a child's first and later answers about a source, each of which may wait for the network."""
        limit = self.time_limit + (self.fetch_limit if "://" in source else 0.0)
        return {"first": limit, "later": limit}

    def build(self) -> list[Filter]:
        """The filters with their parameters. Raises UsageError for unknown ones and for a wrong order."""
        built: list[Filter] = []
        for entry in self.filters:
            name, params = (entry, {}) if isinstance(entry, str) else next(iter(entry.items()))
            made = parse(find_filter(name), params, f"recipe '{self.name}', filter '{name}'")
            before = places(built)
            for need in made.needs.after:
                if need not in before:
                    raise UsageError(f"Recipe '{self.name}': filter '{made.name()}' must come after '{need}'.")
            if twice := {made.name(), made.stands_for} & before.keys():
                raise UsageError(f"Recipe '{self.name}' names filter '{twice.pop()}' twice.")
            built.append(made)
        return built


def places(chain: Sequence[Filter]) -> dict[str, Filter]:
    """Filters by their names, and by what they stand for."""
    return {name: f for f in chain for name in (f.stands_for, f.name()) if name}


def load_recipe(name: str) -> Recipe:
    """A shipped recipe by name, or a file. Files that it names are looked for beside it, then where you are."""
    path = find(name, "recipe")
    recipe = load(Recipe, path)
    filters = [with_full_path(entry, path.parent) for entry in recipe.filters]
    return recipe.model_copy(update={"filters": filters, "policy": absolute(recipe.policy, path.parent)})


def with_full_path(entry: str | dict[str, Any], folder: Path) -> str | dict[str, Any]:
    """A recipe's entry in which `file.py:Class` is an absolute path: datasets are looked at from anywhere."""
    if isinstance(entry, dict):
        return {absolute(name, folder): params for name, params in entry.items()}
    return absolute(entry, folder)


def absolute(name: str, folder: Path = Path()) -> str:
    """The full path where `name` (or what stands before its `:Class`) is a file; else the name as it is."""
    place, colon, rest = name.partition(":")
    found = (
        path for path in (folder / place, Path(place)) if path.suffix in (".py", ".yaml", ".yml") and path.is_file()
    )
    return next((f"{path.resolve()}{colon}{rest}" for path in found), name)


# ---------------------------------------------------------------- finding filters


def find_filter(name: str) -> type[Filter]:
    """By name among the shipped ones and entry points, or `file.py:Class`, or `package.module:Class`."""
    if ":" in name:
        return load_filter(*name.rsplit(":", 1))
    installed = {e.name: e for e in entry_points(group="s2v.filters")}
    if name in installed:
        return installed[name].load()
    if name in shipped_names():
        return only_filter(importlib.import_module(f"filters.{name}"))
    raise UsageError(f"There is no filter '{name}'.{suggest(name, [*shipped_names(), *installed])}")


def shipped_names() -> list[str]:
    names = (p.stem for p in Path(shipped.__path__[0]).glob("*.py"))
    return sorted(n for n in names if n not in ("__init__", "base"))


def only_filter(module: Any) -> type[Filter]:
    found = [c for _, c in inspect.getmembers(module, inspect.isclass) if issubclass(c, Filter)]
    return next(c for c in found if c.__module__ == module.__name__)


def load_filter(place: str, name: str) -> type[Filter]:
    """A filter class from a file or an importable module."""
    try:
        module = load_file(Path(place)) if place.endswith(".py") else importlib.import_module(place)
        return getattr(module, name)
    except (ImportError, FileNotFoundError, AttributeError) as e:
        raise UsageError(f"Filter '{place}:{name}' can't be loaded: {e}") from e


def load_file(path: Path) -> Any:
    """A Python file as a module, executed once a process."""
    name = f"s2v_filter_{path.stem}_{short_hash(str(path.resolve()))}"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, path.resolve())
        assert spec
        assert spec.loader
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        sys.modules[name] = module
    return sys.modules[name]


# ---------------------------------------------------------------- identity and weights


def digests(chain: list[Filter]) -> dict[str, str]:
    """Filter name -> digest of all that decides its scores: version, parameters, weights, and the filters it reads."""
    found: dict[str, str] = {}
    by_place = places(chain)
    for f in chain:
        parts = [
            f.name(),
            str(f.version),
            json.dumps(f.model_dump(mode="json"), sort_keys=True),
            *(digest(w) for w in f.chosen_weights()),
            *(found[by_place[name].name()] for name in f.needs.after),
        ]
        found[f.name()] = short_hash("\n".join(parts))
    return found


def digest(name: str) -> str:
    """Of weights. A node of a cluster that hasn't got them yet gets them: the filters on it will need them anyway."""
    try:
        return weights.digest(name)
    except weights.MissingWeights:
        weights.path(name)
        return weights.digest(name)


def ensure_weights(chain: list[Filter]) -> None:
    """Fetch small files; fail before the run where others are missing, with the list and the command that gets all."""
    try:
        missing = [name for name in weights_of(chain) if not weights.available(name)]
    except weights.MissingWeights as e:
        raise RunError(str(e)) from e
    if all(map(comes_unasked, missing)):
        return get_weights(missing)
    lines = ["Weights are missing:", *map(why_missing, missing), f"Get them: {pull_command(chain, missing)}"]
    raise RunError("\n".join(lines))


def comes_unasked(name: str) -> bool:
    return weights.accepted(name) and (weights.entry(name).megabytes or math.inf) < UNASKED


def get_weights(names: Iterable[str]) -> None:
    """Fetch them all before the first failure is told."""
    failed = []
    for name in names:
        try:
            weights.path(name)
        except weights.MissingWeights as e:
            failed.append(str(e))
    if failed:
        raise RunError("\n".join(failed))


def pull_command(chain: list[Filter], missing: list[str]) -> str:
    """The command that gets them: by the name of the shipped recipe that needs the same weights, where there is one."""
    shipped_recipes = sorted(path.stem for path in (Path(__file__).parent / "recipes").glob("*.yaml"))
    same = (name for name in shipped_recipes if weights_of(load_recipe(name).build()) == weights_of(chain))
    recipe = next(same, None)
    command = f"s2v weights pull {f'--recipe {recipe}' if recipe else ' '.join(missing)}"
    return command if all(map(weights.accepted, missing)) else f"{command} --accept-licence"


def weights_of(chain: Sequence[Filter]) -> list[str]:
    return sorted({name for f in chain for name in f.chosen_weights()})


def why_missing(name: str) -> str:
    """A line on one of the weights: what it costs to get it, and what its licence asks for."""
    wanted = weights.entry(name)
    size = f", {wanted.megabytes:.0f} MB" if wanted.megabytes else ""
    licence = "" if weights.accepted(name) else f"; licence to be accepted: {wanted.licence}"
    return f"  {name}{size}, from {wanted.source}{licence}"

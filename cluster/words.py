"""What a command line that is to run elsewhere means: checked here, with its paths made such that they hold there."""

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import click
import yaml

from cluster.job import Job, Kind, default_name, replaced
from dataset.errors import UsageError

PATHS = {  # parameters that are, or hold, paths of this machine
    "curate": ("sources", "dataset", "recipe", "policy"),
    "train": ("data", "init", "run", "resume", "stage"),
    "preflight": ("dataset", "recipe"),
}
NAMES = ("recipe", "policy", "stage", "init")  # that may be something else than a path: then no such file exists
YAML = (".yaml", ".yml")
SMALL = (*YAML, ".csv", ".tsv", ".jsonl", ".ndjson", ".parquet")  # files that travel with a job
HOME = {"curate": ("dataset",), "train": ("run", "resume"), "preflight": ("dataset",)}


def understand(kind: Kind, command: click.Command, words: Sequence[str], name: str) -> Job:
    """The job that `s2v KIND WORDS` is. Raises what the command itself would: a typing error costs no queue."""
    params = command.make_context(f"s2v submit {kind}", list(words)).params
    if params.get("address"):
        raise UsageError("--address: --to and the cluster file say where the job runs.")
    moved = {value: absolute(value) for value in paths(kind, params)}
    named = [Path(p) for p in map(bare, moved.values()) if p.endswith(SMALL) and os.path.isfile(p)]
    files = [*named, *(file for recipe in named if recipe.suffix in YAML for file in beside(recipe))]
    files = list(dict.fromkeys(files))
    if twice := {f.name for f in files if [g.name for g in files].count(f.name) > 1}:
        raise UsageError(f"Two of the job's files are called {twice.pop()}: rename one.")
    home = next((absolute(params[key].rstrip("/")) for key in HOME[kind] if params.get(key)), "")
    argv = (kind, *(replaced(word, moved) for word in words))
    return Job(kind, name or default_name(kind, home), argv, home, tuple(files))


def paths(kind: str, params: Mapping[str, Any]) -> Iterator[str]:
    for key in PATHS[kind]:
        value = params.get(key) or ()
        for word in (value,) if isinstance(value, str) else value:
            if key not in NAMES or os.path.exists(word):
                yield word


def beside(recipe: Path) -> Iterator[Path]:
    """The files that a recipe names and that lie beside it: its policy, and filters of its own (`file.py:Class`)."""
    try:
        data = yaml.safe_load(recipe.read_text())
    except (OSError, ValueError, yaml.YAMLError):
        return  # whoever reads it will say so
    if not isinstance(data, dict):
        return
    entries = data.get("filters")
    for word in (data.get("policy"), *(entries if isinstance(entries, list) else ())):
        name = next(iter(word), None) if isinstance(word, dict) else word
        file = recipe.parent / str(name).partition(":")[0]
        if isinstance(name, str) and file.parent == recipe.parent and file.is_file():
            yield file


def absolute(word: str) -> str:
    """A path as every directory sees it. KIND=PATH keeps its kind; addresses stay as they are."""
    kind, equals, path = word.partition("=")
    if "://" in word:
        return word
    return f"{kind}={os.path.abspath(path)}" if equals and kind.isidentifier() else os.path.abspath(word)


def bare(word: str) -> str:
    kind, equals, path = word.partition("=")
    return path if equals and kind.isidentifier() else word

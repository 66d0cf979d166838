"""What a command line that is to run elsewhere means: checked here, with its paths made such that they hold there."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import click
import yaml

from cluster.job import Job, Kind, default_name
from dataset.errors import UsageError

PATHS = {  # parameters that are, or hold, paths of this machine
    "curate": ("sources", "dataset", "recipe", "policy"),
    "train": ("data", "init", "run", "resume", "stage"),
}
NAMES = ("recipe", "policy", "stage")  # of shipped ones, too: a path is what is a YAML file
YAML = (".yaml", ".yml")
SMALL = (*YAML, ".csv", ".tsv", ".jsonl", ".ndjson", ".parquet")  # files that travel with a job
TYPED = "COMMANDLINE"  # where click says that a value is from
HOME = {"curate": ("dataset",), "train": ("run", "resume")}


def understand(kind: Kind, command: click.Command, words: Sequence[str], name: str) -> Job:
    """The job that `s2v KIND WORDS` is. Raises what the command itself would: a typing error costs no queue."""
    context = command.make_context(f"s2v submit {kind}", list(words))
    params = context.params
    if params.get("address"):
        raise UsageError("--address: --to and the cluster file say where the job runs.")
    argv = (kind, *rewritten(kind, context))
    named = [Path(word) for word in map(bare, argv) if word.endswith(SMALL) and os.path.isfile(word)]
    files = [*named, *(file for recipe in named if recipe.suffix in YAML for file in beside(recipe))]
    files = list(dict.fromkeys(files))
    if twice := {f.name for f in files if [g.name for g in files].count(f.name) > 1}:
        raise UsageError(f"Two of the job's files are called {twice.pop()}: rename one.")
    home = next((absolute(params[key].rstrip("/")) for key in HOME[kind] if params.get(key)), "")
    return Job(kind, name or default_name(kind, home), argv, home, tuple(files))


def rewritten(kind: str, context: click.Context) -> Iterator[str]:
    """The words that were typed, arguments first, with paths that hold in every directory."""
    typed = [p for p in context.command.params if getattr(context.get_parameter_source(p.name), "name", "") == TYPED]
    for parameter in sorted(typed, key=lambda p: p.param_type_name != "argument"):
        value = context.params[parameter.name]
        if isinstance(value, bool):
            yield parameter.opts[0]
            continue
        for word in value if isinstance(value, list | tuple) else (value,):
            if parameter.param_type_name != "argument":
                yield parameter.opts[0]
            yield placed(kind, parameter.name, str(word))


def placed(kind: str, key: str, word: str) -> str:
    if key not in PATHS[kind] or (key in NAMES and not (word.endswith(YAML) and os.path.isfile(word))):
        return word
    return absolute(word.rstrip("/") or word)


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

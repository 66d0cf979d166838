"""YAML into typed settings, with errors that a person can act on."""

import difflib
from pathlib import Path
from typing import TypeVar

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from dataset.errors import UsageError

Model = TypeVar("Model", bound=BaseModel)


def suggest(name: str, known: list[str]) -> str:
    """' Did you mean ...?' for a misspelt name, or what there is."""
    close = difflib.get_close_matches(name, known, n=1)
    return f" Did you mean '{close[0]}'?" if close else f" Known: {', '.join(sorted(known))}."


def load(model: type[Model], path: Path) -> Model:
    """Read a YAML file as `model`; unknown keys are refused with a suggestion."""
    try:
        data = yaml.safe_load(path.read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as e:
        raise UsageError(f"{path} is not valid YAML: {e}") from e
    if not isinstance(data, dict):
        raise UsageError(f"{path} must hold a mapping such as 'name: ...', not {type(data).__name__}.")
    return parse(model, data, str(path))


def parse(model: type[Model], data: dict, where: str) -> Model:
    try:
        return model.model_validate(data)
    except ValidationError as e:
        raise UsageError("\n".join(explain(model, problem, where) for problem in e.errors())) from None


def explain(model: type[BaseModel], problem: ErrorDetails, where: str) -> str:
    """One pydantic problem as a sentence."""
    *parents, last = problem["loc"] or ("",)
    place = ".".join(str(p) for p in problem["loc"])
    if problem["type"] == "extra_forbidden":
        return f"{where}: unknown key '{place}'.{suggest(str(last), known_keys(model, parents))}"
    return f"{where}: {place}: {problem['msg']}."


def known_keys(model: type[BaseModel], parents: list) -> list[str]:
    """Field names of the model that `parents` leads to."""
    for name in parents:
        field = model.model_fields.get(str(name))
        if field is None:
            continue
        for kind in (field.annotation, *getattr(field.annotation, "__args__", ())):
            if isinstance(kind, type) and issubclass(kind, BaseModel):
                model = kind
    return list(model.model_fields)

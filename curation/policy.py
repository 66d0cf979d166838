"""Policies: pure functions from stored scores to keep, or drop with reasons."""

from collections.abc import Mapping
from typing import Annotated

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

from curation.config import find
from dataset.config import load, suggest
from dataset.errors import UsageError
from dataset.tables import short_hash
from filters.base import Filter, Measurement


class Rule(BaseModel):
    """`score` must be at least `min` or at most `max`. A null score (it does not apply to the clip) passes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    score: Annotated[str, Field(pattern=r"^\w+\.\w+$")]  # filter.score
    min: float | None = None
    max: float | None = None
    source: str  # where the threshold comes from, or `uncalibrated: ...`
    hard: bool = True  # a clip that breaks it is not measured further

    @model_validator(mode="after")
    def one_bound(self) -> "Rule":
        if (self.min is None) == (self.max is None):
            raise ValueError(f"rule for {self.score} needs either min or max")
        return self

    @property
    def filter(self) -> str:
        return self.score.split(".")[0]

    @property
    def field(self) -> str:
        return self.score.split(".")[1]

    @property
    def threshold(self) -> float:
        return self.min if self.min is not None else self.max  # type: ignore[return-value]

    def broken_by(self, value: float | None) -> bool:
        if value is None:
            return False
        return value < self.min if self.min is not None else value > self.threshold

    def breaks(self, values: np.ndarray) -> np.ndarray:
        """broken_by() for many values, where NaN stands for null."""
        return values < self.threshold if self.min is not None else values > self.threshold


class Policy(BaseModel):
    """An ordered list of rules."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    rules: list[Rule]

    @property
    def digest(self) -> str:
        """Identity of what the policy decides: its bounds, not its wording."""
        bounds = repr([(r.score, r.min, r.max, r.hard) for r in self.rules])
        return short_hash(bounds)

    def broken(self, name: str, measurement: Measurement) -> list[Rule]:
        """The rules on filter `name` that its measurement breaks."""
        mine = (rule for rule in self.rules if rule.filter == name)
        return [rule for rule in mine if rule.broken_by(getattr(measurement, rule.field))]

    def stops(self, name: str, measurement: Measurement) -> bool:
        """Whether a hard rule on filter `name` rejects the clip."""
        return any(rule.hard for rule in self.broken(name, measurement))

    def check(self, filters: Mapping[str, type[Filter]]) -> None:
        """Refuse rules on scores that the recipe doesn't measure."""
        for rule in self.rules:
            if rule.filter not in filters:
                raise UsageError(
                    f"Policy '{self.name}' has a rule on '{rule.score}', but the recipe has no filter "
                    f"'{rule.filter}'.{suggest(rule.filter, list(filters))}"
                )
            fields = list(filters[rule.filter].Scores.model_fields)
            if rule.field not in fields:
                raise UsageError(
                    f"Policy '{self.name}': filter '{rule.filter}' has no score '{rule.field}'."
                    f"{suggest(rule.field, fields)}"
                )


def load_policy(name: str) -> Policy:
    """A shipped policy by name, or a file."""
    return load(Policy, find(name, "policy"))

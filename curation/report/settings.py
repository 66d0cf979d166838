"""The recipe and the policy that lie in the dataset, as text and as objects."""

from dataclasses import dataclass, field

import fsspec
import yaml

from curation.policy import Policy, Rule, load_policy
from curation.recipe import Recipe
from dataset.config import Model, parse
from dataset.errors import UsageError
from filters.base import Filter


@dataclass
class Settings:
    """How the dataset was made. What can't be read is None, and `notes` says why."""

    recipe: Recipe | None = None
    policy: Policy | None = None
    chain: list[Filter] = field(default_factory=list)
    recipe_text: str = ""
    policy_text: str = ""
    notes: list[str] = field(default_factory=list)

    def rules(self, order: list[str]) -> list[Rule]:
        """The policy's rules in chain order; rules on filters that nobody knows come last."""
        place = {name: i for i, name in enumerate(order)}
        return sorted(self.policy.rules if self.policy else [], key=lambda rule: place.get(rule.filter, len(order)))


def read_settings(dataset: str) -> Settings:
    found = Settings()
    found.recipe_text = read_text(f"{dataset}/recipe.yaml")
    found.policy_text = read_text(f"{dataset}/policy.yaml")
    found.recipe = read_model(Recipe, found.recipe_text, "recipe.yaml", found.notes)
    found.policy = read_model(Policy, found.policy_text, "policy.yaml", found.notes)
    if found.recipe:
        try:
            found.chain = found.recipe.build()
        except UsageError as e:
            found.notes.append(f"The filters of the recipe can't be loaded here, so units are missing. {e}")
    if found.policy is None and found.recipe:
        found.policy = shipped_policy(found.recipe.policy, found.notes)
    return found


def read_text(place: str) -> str:
    """A small text file, or nothing where there is none."""
    try:
        with fsspec.open(place, "rt", encoding="utf-8", errors="replace") as f:
            return f.read()
    except FileNotFoundError:
        return ""


def read_model(model: type[Model], text: str, name: str, notes: list[str]) -> Model | None:
    if not text:
        notes.append(f"The dataset has no {name}.")
        return None
    try:
        return parse(model, yaml.safe_load(text), name)
    except (yaml.YAMLError, UsageError) as e:
        notes.append(f"{name} can't be read: {e}")
        return None


def shipped_policy(name: str, notes: list[str]) -> Policy | None:
    """The policy that the recipe names, for a dataset that was never judged."""
    try:
        policy = load_policy(name)
    except UsageError:
        return None
    notes.append(f"The thresholds below are those of the policy '{policy.name}', which the recipe names.")
    return policy

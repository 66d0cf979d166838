"""Recipes and policies: what is wrong is told before the run, with what was probably meant."""

import subprocess
import sys
from pathlib import Path

import pytest

from curation.policy import Policy, load_policy
from curation.recipe import Recipe, digests, load_recipe, weights_of
from dataset.config import load
from dataset.errors import UsageError
from filters import weights


def recipe(tmp_path, text: str) -> Recipe:
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    return load(Recipe, path)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("name: x\nfilters: [header]\ntimelimit: 3", "unknown key 'timelimit'. Did you mean 'time_limit'"),
        ("name: x\nfilters: [header]\nshots: {max_second: 3}", "Did you mean 'max_seconds'"),
        ("name: x\nfilters: [hedaer]", "Did you mean 'header'"),
        ("name: x\nfilters: [{pose: {max_peple: 3}}]", "Did you mean 'max_people'"),
        ("name: x\nfilters: [{pose: {max_people: many}}]", "max_people"),
        ("name: x\nfilters: [sharpness, pose]", "'sharpness' must come after 'pose'"),
        ("name: x\nfilters: [header, header]", "twice"),
        ("name: x\nfilters: ['nowhere.py:Thing']", "can't be loaded"),
        ("name: x\nfilters: []", "filters"),
        ("name: [", "not valid YAML"),
        ("just text", "must hold a mapping"),
    ],
)
def test_a_wrong_recipe_is_refused_with_a_hint(tmp_path, text, words):
    with pytest.raises(UsageError, match=words):
        recipe(tmp_path, text).build()


def test_unknown_names_are_refused_with_a_hint():
    with pytest.raises(UsageError, match="Did you mean 'embedded'"):
        load_recipe("embeded")
    with pytest.raises(UsageError, match="no file and no shipped policy"):
        load_policy("/nowhere.yaml")


@pytest.mark.parametrize("name", ["embedded", "paper"])
def test_shipped_recipes_fit_their_policies(name):
    shipped = load_recipe(name)
    load_policy(shipped.policy).check({f.name(): type(f) for f in shipped.build()})


def test_every_shipped_filter_is_found_without_torch():
    """The base environment has none, and `s2v doctor` asks all filters for their weights."""
    command = "import sys; sys.modules['torch'] = None; from curation import recipe as r; "
    command += "[*map(r.find_filter, r.shipped_names())]"
    subprocess.run([sys.executable, "-c", command], check=True, cwd=Path(__file__).parents[2])


@pytest.mark.parametrize("name", ["embedded", "paper"])
def test_every_shipped_threshold_says_where_it_comes_from(name):
    assert all(len(rule.source) > 10 for rule in load_policy(name).rules)


@pytest.mark.parametrize("name", ["embedded", "paper"])
def test_the_registry_has_the_weights_of_shipped_recipes(name):
    assert set(weights_of(load_recipe(name).build())) <= set(weights.REGISTRY)


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        ("{score: header.durration, min: 3, source: x}", "Did you mean 'duration'"),
        ("{score: heder.duration, min: 3, source: x}", "Did you mean 'header'"),
    ],
)
def test_rules_on_scores_that_nobody_measures_are_refused(tmp_path, rule, words):
    path = tmp_path / "policy.yaml"
    path.write_text(f"name: p\nrules: [{rule}]")
    chain = recipe(tmp_path, "name: x\nfilters: [header]").build()
    with pytest.raises(UsageError, match=words):
        load(Policy, path).check({f.name(): type(f) for f in chain})


@pytest.mark.parametrize("bounds", ["", "min: 1, max: 2,"])
def test_a_rule_has_one_bound(tmp_path, bounds):
    path = tmp_path / "policy.yaml"
    path.write_text(f"name: p\nrules: [{{score: a.b, {bounds} source: x}}]")
    with pytest.raises(UsageError, match="needs either min or max"):
        load(Policy, path)


def test_a_filters_identity_is_its_version_parameters_and_inputs(tmp_path):
    plain = digests(recipe(tmp_path, "name: x\nfilters: [header, pose, faces]").build())
    changed = digests(recipe(tmp_path, "name: x\nfilters: [header, {pose: {max_people: 2}}, faces]").build())
    assert plain["header"] == changed["header"]
    assert plain["pose"] != changed["pose"]
    assert plain["faces"] != changed["faces"]  # it reads what pose measured

"""`s2v chain tune`: the order in which a chain costs the least."""

import itertools

import numpy as np
import pytest
import yaml

from curation.chain import DECODE
from curation.chain_tune import Step, expected, order
from curation.recipe import Recipe
from tests.curation.report_data import fabricate
from tests.curation.test_run import s2v

N = 2000


def chain(*steps: tuple[str, float, np.ndarray | float, tuple[str, ...]]) -> dict[str, Step]:
    rng = np.random.default_rng(0)
    rejects = {name: rng.random(N) < r if isinstance(r, float) else r for name, _, r, _ in steps}
    return {
        name: Step(name, np.full(N, cost), rejects[name].astype(float), after, 1.0) for name, cost, _, after in steps
    }


def test_cheap_and_selective_filters_come_first():
    steps = chain(("slow", 900.0, 0.3, ()), ("cheap", 5.0, 0.1, ()), ("idle", 1.0, 0.0, ()), ("strict", 50.0, 0.8, ()))
    assert order(steps) == ["cheap", "strict", "slow", "idle"]
    assert expected(steps, order(steps)) < expected(steps, list(steps)) / 2


def test_what_costs_nothing_stays_ahead_though_it_rejected_nobody():
    """Such as captions, which the next source may have."""
    steps = chain(
        ("caption", 0.02, 0.0, ()), ("header", 0.02, 0.7, ()), (DECODE, 400.0, 0.0, ()), ("late", 0.0, 0.0, ())
    )
    assert order(steps) == ["caption", "header", "late", DECODE]


def test_what_a_filter_reads_comes_before_it_and_counts_for_it():
    """`faces` costs nothing, but only behind `pose`; so what needs neither comes first."""
    steps = chain(
        (DECODE, 200.0, 0.0, ()),
        ("pose", 1000.0, 0.05, (DECODE,)),
        ("faces", 0.1, 0.6, ("pose",)),
        ("voice", 60.0, 0.3, (DECODE,)),
        ("header", 0.1, 0.1, ()),
    )
    assert order(steps) == ["header", DECODE, "voice", "pose", "faces"]


def test_a_filter_that_finds_what_another_has_found_is_worth_nothing_behind_it():
    gone = np.arange(N) < N // 2
    steps = chain(("first", 10.0, gone, ()), ("same", 12.0, gone, ()), ("other", 40.0, 0.2, ()))
    assert order(steps) == ["first", "other", "same"]


def test_no_order_is_much_better_than_the_one_that_is_found():
    rng = np.random.default_rng(1)
    names = "abcdef"
    steps = chain(
        *((n, float(rng.gamma(1, 100)), float(rng.random() * 0.6), ("a",) if n == "d" else ()) for n in names)
    )
    allowed = [o for o in itertools.permutations(names) if o.index("a") < o.index("d")]
    assert expected(steps, order(steps)) <= 1.05 * min(expected(steps, o) for o in allowed)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tune")
    fabricate(str(folder / "dataset"), 500)
    return folder / "dataset"


def test_the_command_says_what_it_would_save_and_how(dataset):
    """The fabricated chain costs nearly nothing for the header, more for faces and most for blur: a good order."""
    printed = s2v("chain", "tune", dataset)
    assert "The order is good" in printed
    assert "cascade: false" in printed
    recipe = Recipe.model_validate(yaml.safe_load((dataset / "recipe.yaml").read_text()))
    turned = recipe.model_copy(update={"filters": recipe.filters[::-1]})
    (dataset / "recipe.yaml").write_text(yaml.safe_dump(turned.model_dump(mode="json", exclude_none=True)))
    printed = s2v("chain", "tune", dataset)
    assert "saved" in printed
    lines = printed[printed.index("filters:") :].splitlines()[1:4]
    assert [line.rsplit(":", 1)[-1] for line in lines] == [f.rsplit(":", 1)[-1] for f in recipe.filters]


def test_decoding_that_nobody_timed_is_not_free(tmp_path):
    recipe = Recipe(name="fixture", filters=["header", "media"])
    fabricate(str(tmp_path), 50, recipe=recipe)
    assert "what decoding cost" in s2v("chain", "tune", tmp_path, code=2)


def test_filters_that_measured_nobody_are_named(tmp_path):
    """They are in the recipe, and the scores were made without them."""
    fabricate(str(tmp_path), 50)
    recipe = yaml.safe_load((tmp_path / "recipe.yaml").read_text())
    recipe["filters"].append("media")
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    printed = " ".join(s2v("chain", "tune", tmp_path).split())
    assert "No clip was measured by decode, media" in printed


def test_without_scores_it_says_what_to_do(tmp_path, dataset):
    for name in ("recipe.yaml", "policy.yaml"):
        (tmp_path / name).write_bytes((dataset / name).read_bytes())
    assert "s2v curate" in s2v("chain", "tune", tmp_path, code=2)

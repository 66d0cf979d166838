"""The example of docs/add-a-filter.md works as it stands there."""

import re
from pathlib import Path

import numpy as np
import yaml

from curation.chain import Chain, Job
from curation.policy import load_policy
from curation.recipe import load_recipe
from dataset.media import Counters
from dataset.records import Clip
from dataset.scan import probe
from tests.videos import moving_square, write_video

GUIDE = Path(__file__).parents[1] / "docs" / "add-a-filter.md"


def test_a_filter_from_outside_the_package(tmp_path):
    blocks = re.findall(r"```(\w+)\n(.*?)```", GUIDE.read_text(), re.DOTALL)
    code = next(text for kind, text in blocks if kind == "python")
    assert len(code.splitlines()) <= 35
    (tmp_path / "colour.py").write_text(code)
    recipe_text, policy_text = (text for kind, text in blocks if kind == "yaml")
    (tmp_path / "recipe.yaml").write_text(recipe_text)
    (tmp_path / "colourful.yaml").write_text(policy_text)
    recipe = load_recipe(str(tmp_path / "recipe.yaml"))
    policy = load_policy(recipe.policy)
    chain = Chain(recipe.build(), policy)
    policy.check({f.name(): type(f) for f in chain.filters})
    assert yaml.safe_load(recipe_text)["filters"][1]["colour.py:Colour"] == {"least_value": 30}
    coloured = measure(chain, write_video(tmp_path / "a.mp4", 2, picture=moving_square))
    grey = measure(chain, write_video(tmp_path / "b.mp4", 2, picture=lambda t: np.full((96, 128, 3), 120, np.uint8)))
    assert grey.measured["colour"].saturation < 5 < coloured.measured["colour"].saturation
    assert grey.stopped == "colour"


def measure(chain: Chain, path: Path) -> Job:
    facts = probe(str(path), Counters())
    clip = Clip(clip_id="x", source=str(path), source_id="x", start=0, end=facts.duration, media=facts)
    (job,) = chain.run(str(path), [Job(clip)])
    assert job.error is None
    return job

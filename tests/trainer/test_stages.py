"""Shipped stages, and how they are changed."""

import re
from pathlib import Path

import pytest

from dataset.errors import UsageError
from model.config import S2VConfig
from trainer.budget import fit
from trainer.stages import SHIPPED, find_stage

DOCS = Path(__file__).resolve().parents[2] / "docs" / "training.md"


@pytest.mark.parametrize("name", SHIPPED)
def test_every_stage_can_use_a_clip_of_six_seconds(name):
    shape = fit(6.0, 1280, 720, find_stage(name), S2VConfig())
    assert shape is not None
    assert shape.history > 0


@pytest.mark.parametrize("name", SHIPPED)
def test_the_guide_says_what_a_stage_does(name):
    stage = find_stage(name)
    row = re.search(rf"\| `{name}` \|(.*)\|", DOCS.read_text())
    assert row
    *_, tokens, rate, amount = (cell.strip() for cell in row[1].split("|"))
    assert tokens == f"{stage.tokens:,}"
    assert float(rate.split(",")[0]) == stage.optimiser.rate
    assert ("cosine" in rate) == (stage.optimiser.schedule == "cosine")
    assert amount == f"{stage.steps:,} x {stage.batch}"


def test_only_the_first_stage_trains_a_part():
    assert find_stage("audio-encoder").learns("audio_encoder.conv2.weight")
    assert find_stage("audio-encoder").learns("blocks.27.audio_injector.attention.q.weight")
    assert not find_stage("audio-encoder").learns("blocks.27.self_attn.q.weight")
    assert all(find_stage(name).learns("blocks.0.ffn.0.weight") for name in SHIPPED if name != "audio-encoder")


def test_settings_are_changed_by_name_and_typed():
    stage = find_stage("speech", ["optimiser.rate=1e-6", "timesteps.spread=null", "mixture={film: 2, speech: 1}"])
    assert stage.optimiser.rate == 1e-6
    assert stage.timesteps.spread is None
    assert stage.mixture == {"film": 2.0, "speech": 1.0}


def test_a_stage_of_ones_own_is_a_yaml_file(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("name: mine\nsteps: 10\ndrops: {audio: 0.2}\n")
    assert find_stage(str(file)).drops.audio == 0.2


@pytest.mark.parametrize(
    "change", ["frames=10", "drops.audio=1.5", "steps=0", "optimiser.ema=1", "mixture={}", "sedd=1"]
)
def test_nonsense_is_refused(change):
    with pytest.raises(UsageError, match=change.split("=")[0].split(".")[0]):
        find_stage("speech", [change])

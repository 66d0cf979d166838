"""Latent shards as data of a run: kinds, doubles, clips that can't be read."""

import json
from pathlib import Path

import pytest

pytest.importorskip("deepspeed")

from dataset.errors import UsageError
from tests.trainer.runs import SHORT, losses_of, start, write_latents
from trainer.feed import Data
from trainer.job import absolute, start_from
from trainer.stages import find_stage

VALIDATING = ["validation.every=9", "validation.clips=6", "validation.levels=1", "validation.videos=0"]


@pytest.fixture(scope="module")
def latents(tmp_path_factory):
    return write_latents(tmp_path_factory.mktemp("x=1") / "latents", ("speech", "film"), clips=4)


@pytest.fixture
def clips(tiny):
    """{kind: ids} of what a stage with this mixture makes of --data."""

    def open_data(mixture: dict[str, float], *data: str) -> dict[str, list[str]]:
        stage = find_stage("tiny").model_copy(update={"mixture": mixture})
        found = Data.open(data, stage, start_from(tiny))
        return {kind: [c.clip_id for c in found.train if c.kind == kind] for kind in {c.kind for c in found.train}}

    return open_data


def test_latents_are_of_the_kinds_that_they_were_encoded_as(clips, latents):
    assert {kind: len(ids) for kind, ids in clips({"speech": 1, "film": 1}, str(latents)).items()} == {
        "speech": 4,
        "film": 4,
    }
    assert set(clips({"film": 1}, str(latents))) == {"film"}


def test_a_kind_that_is_given_counts_instead(clips, latents):
    assert {kind: len(ids) for kind, ids in clips({"best": 1}, f"best={latents}").items()} == {"best": 8}


def test_a_kind_that_the_stage_lacks_is_refused_with_a_remedy(clips, latents):
    with pytest.raises(UsageError, match="no such kind"):
        clips({"speech": 1}, f"film={latents}")
    with pytest.raises(UsageError, match="--data best=PATH"):
        clips({"best": 1}, str(latents))


def test_the_same_latents_twice_are_there_once(clips, latents):
    assert len(clips({"speech": 1}, str(latents), f"{latents}")["speech"]) == 4


def test_paths_may_have_an_equals_sign(latents):
    assert absolute(f"film={latents}") == f"film={latents}"
    assert absolute(str(latents)) == str(latents)
    assert absolute("film=a/b=c") == f"film={Path.cwd()}/a/b=c"


def test_a_clip_that_cannot_be_read_is_replaced_and_left_out_of_validation(tiny, tmp_path):
    data = write_latents(tmp_path / "latents", clips=6)
    shard = data / "shards" / "000000.tar"
    content = bytearray(shard.read_bytes())
    at = content.index(b"speech02-0.latent.safetensors")
    content[at + 512 : at + 1024] = bytes(512)  # the beginning of its tensors
    shard.write_bytes(content)
    told = start(data, tiny, tmp_path / "run", *SHORT, *VALIDATING, ranks=1).wait()
    assert "speech02 is left out of validation" in told
    assert len(losses_of(tmp_path / "run")) == 9
    rows = [json.loads(line) for line in (tmp_path / "run" / "replaced.jsonl").read_text().splitlines()]
    assert {row["clip_id"] for row in rows} == {"speech02"}
    assert all(row["instead"] != "speech02" for row in rows)

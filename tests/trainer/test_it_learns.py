"""From real talkers to a network that has learnt them, with the commands that a person types."""

import subprocess
import sys

import pytest

pytest.importorskip("deepspeed")

from tests.trainer.runs import losses_of
from trainer.run_files import read_rows

TALKERS = ["talk_hdtf_01", "talk_hdtf_02", "talk_vr_01", "talk_vr_02", "talk_vr_03", "talk_vr_04", "talk_vr_05"]


def s2v(*words: object) -> None:
    command = [sys.executable, "-m", "cli", *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1800, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.real
def test_the_tiny_stage_learns_real_clips_and_listens_to_them(real_clips, tiny, tmp_path):
    sources = [real_clips / f"{name}.mp4" for name in (*TALKERS, "two_dj_04")]
    s2v("curate", *sources, "--out", tmp_path / "talkers")
    s2v(
        "encode",
        tmp_path / "talkers",
        "--out",
        tmp_path / "latents",
        "--checkpoint",
        tiny,
        "--stage",
        "tiny",
        "--variants",
        2,
    )
    data = ["--data", tmp_path / "latents", "--init", tiny, "--out", tmp_path / "run"]
    s2v("train", "--stage", "tiny", *data, "--processes", 2)
    losses = losses_of(tmp_path / "run")
    assert sum(losses[-20:]) / 20 < 0.2 * losses[0]
    validations = list(read_rows(tmp_path / "run" / "validation.jsonl"))
    assert validations[-1]["gap"] > validations[-1]["gap_error"]
    assert len(list((tmp_path / "run" / "videos").rglob("*.mp4"))) > 0

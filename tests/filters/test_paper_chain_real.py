"""All networks of the recipe `paper` behind each other, on a real clip: random weights of the official sizes."""

import subprocess
import sys

import pytest

from curation.recipe import load_recipe
from tests.conftest import shared


@pytest.mark.real
def test_every_filter_measures_and_every_network_works():
    command = [sys.executable, "-m", "benchmarks.filters", shared("clips/dev/talk_vr_01.mp4")]
    run = subprocess.run([*command, "--random", "--seconds", "1"], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr[-2000:]
    rows = (line.split("│")[1:-1] for line in run.stdout.splitlines() if line.startswith("│"))
    tflop = {cells[0].strip(): float(cells[4].strip() or 0) for cells in rows}
    assert {f.name() for f in load_recipe("paper").build()} <= tflop.keys()
    networks = {"vitpose", "active_speaker", "subtitles", "aesthetic", "flow", "clarity"}  # too short for syncnet
    assert networks == {name for name, work in tflop.items() if work} - {"all"}
    assert "the chain without the cascade" in run.stdout

"""The embedded recipe on real talkers and their labelled variants, which lie beside the checkout."""

import csv
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.judging import CAUGHT_BY, judge, read_sources
from tests.conftest import SHARED
from tests.curation.test_run import s2v

TALKERS = ["talk_hdtf_01", "talk_hdtf_02", "talk_vr_01", "talk_vr_02", "talk_vr_04", "talk_vr_05"]
OTHERS = ["beads_dover_01", "dog_sam_01", "drum_vlv_01", "smpte_mp_01", "wall_dj_11"]


@pytest.mark.real
def test_talkers_are_kept_and_others_dropped(real_clips: Path, tmp_path: Path):
    wanted = [str(next(real_clips.glob(f"{name}.*"))) for name in TALKERS + OTHERS]
    s2v("curate", *wanted, "--out", tmp_path / "dataset")
    sources = read_sources(str(tmp_path / "dataset"))
    kept = {Path(name).stem for name, source in sources.items() if source.kept}
    assert kept == set(TALKERS)


@pytest.mark.real
def test_labelled_variants_are_judged_as_labelled(real_clips: Path, tmp_path: Path):
    tool = SHARED / "tools" / "perturb.py"
    if not tool.is_file() or not shutil.which("ffmpeg"):
        pytest.skip("needs ../shared/tools/perturb.py and ffmpeg")
    variants = tmp_path / "variants"
    command = [
        sys.executable,
        tool,
        "--root",
        real_clips.parent,
        "--out",
        variants,
        "--split",
        "dev",
        "--max-seconds",
        "5",
    ]
    subprocess.run([*command, "--bases", "talk_vr_05"], check=True, capture_output=True)
    s2v("curate", variants / "dev", "--out", tmp_path / "dataset")
    with open(variants / "labels.csv", newline="") as f:
        classes = judge(list(csv.DictReader(f)), read_sources(str(tmp_path / "dataset")))
    caught = [c.right == c.total for c in classes.values() if not c.keep and c.failing in CAUGHT_BY]
    clean = [c.right == c.total for c in classes.values() if c.keep]
    assert sum(caught) / len(caught) >= 0.9
    assert sum(clean) / len(clean) >= 0.9

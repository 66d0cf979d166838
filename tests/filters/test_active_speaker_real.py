"""Light-ASD's own weights on real talkers and their labelled variants, which lie beside the checkout."""

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="Light-ASD needs torch")

from benchmarks.active_speaker import decoded, talking
from curation.policy import load_policy
from filters import weights
from filters.active_speaker import WEIGHTS, ActiveSpeaker
from filters.pose import Pose
from tests.conftest import SHARED, shared

NOBODY_SPEAKS = ["voiceover", "freeze", "audio_mute", "audio_music"]
CLEAN = ["control", "audio_noisy_10db", "audio_8k_mono", "vfr", "letterbox", "fps120"]


@pytest.fixture
def chain(monkeypatch: pytest.MonkeyPatch) -> tuple[Pose, ActiveSpeaker]:
    path = shared("golden/light_asd/pretrain_AVA_CVPR.model")
    pose, speaker = Pose(), ActiveSpeaker()
    pose.setup()
    monkeypatch.setattr(weights, "path", {WEIGHTS: path}.__getitem__)
    speaker.setup()
    return pose, speaker


@pytest.fixture
def variants(real_clips: Path, tmp_path: Path) -> Path:
    """Clips of 5 s of four talkers, each with one thing done to it: <talker>__<what>.<ending>"""
    tool = SHARED / "tools" / "perturb.py"
    if not tool.is_file() or not shutil.which("ffmpeg"):
        pytest.skip("needs ../shared/tools/perturb.py and ffmpeg")
    which = ["--split", "dev", "--only", ",".join(NOBODY_SPEAKS + CLEAN), "--max-seconds", "5"]
    command = [sys.executable, str(tool), "--root", str(real_clips.parent), "--out", str(tmp_path), *which]
    subprocess.run(command, check=True, capture_output=True)
    return tmp_path / "dev"


def made(folder: Path, names: list[str]) -> list[Path]:
    found = [path for name in names for path in sorted(folder.glob(f"*__{name}.*"))]
    assert len(found) == 4 * len(names)
    return found


@pytest.mark.real
def test_talkers_are_kept_and_clips_without_a_speaker_dropped(chain, variants, real_clips):
    pose, speaker = chain
    policy = load_policy("paper")

    def kept(path: Path) -> bool:
        clip = decoded(path)
        pose.measure(clip)
        return not policy.stops(speaker.name(), speaker.measure(clip))

    clean = [kept(path) for path in made(variants, CLEAN) + talking(real_clips.parent)]
    faulty = [kept(path) for path in made(variants, NOBODY_SPEAKS)]
    assert np.mean(clean) >= 0.9
    assert np.mean(faulty) <= 0.1

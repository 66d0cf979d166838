"""A full disk stops the run with a sentence; what was finished stays, and the next run goes on."""

import os
import subprocess
from pathlib import Path

import pytest
import ray

from curation.layout import SCORES, read
from dataset.stage import start_ray
from tests.curation.test_run import Workshop, s2v, write_good
from tests.curation.without_ray import without_ray


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 200 kB, which takes root to mount."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if os.geteuid() or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", folder]).returncode:
        pytest.skip("needs the right to mount a small file system")
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_a_full_disk_loses_nothing(small_disk: Path, tmp_path):
    start_ray()
    shop = Workshop(tmp_path)
    write_good(shop)
    dataset = small_disk / "dataset"
    arguments = ("curate", shop.videos, "--out", dataset, "--recipe", shop.recipe_file)
    filler = small_disk / "filler"
    filler.write_bytes(bytes(150 * 1024))
    printed = s2v(*arguments, code=1)
    assert "No space left on device" in printed
    assert "run the same command again" in printed
    assert "Traceback" not in printed
    filler.unlink()
    subprocess.run(["mount", "-o", "remount,size=20m", small_disk], check=True)
    with without_ray():
        s2v(*arguments)
    assert read(str(dataset), SCORES).num_rows == 4
    ray.shutdown()

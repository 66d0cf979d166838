"""Shared by all tests. Real clips lie beside the checkout in ../shared; tests that need them skip without."""

import os
from pathlib import Path

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")  # tests run side by side; small tensors gain nothing from threads

SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(scope="session")
def real_clips() -> Path:
    folder = SHARED / "clips" / "dev"
    if not folder.is_dir():
        pytest.skip("needs real clips in ../shared/clips/dev beside the checkout")
    return folder

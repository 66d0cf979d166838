"""Shared by all tests. Real clips lie beside the checkout in ../shared; tests that need them skip without."""

from pathlib import Path

import pytest

SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(scope="session")
def real_clips() -> Path:
    folder = SHARED / "clips" / "dev"
    if not folder.is_dir():
        pytest.skip("needs real clips in ../shared/clips/dev beside the checkout")
    return folder

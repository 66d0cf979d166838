"""Shared by all tests. Real clips lie beside the checkout in ../shared; tests that need them skip without."""

import os
import sys
from pathlib import Path

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")  # tests run side by side; small tensors gain nothing from threads

SHARED = Path(__file__).resolve().parents[2] / "shared"
LONGEST = (  # files that begin first, so that no process of `make test` waits for another's long one at the end
    "generation/test_generate",
    "trainer/test_run",
    "trainer/test_parity",
    "cluster/test_ray_cluster",
    "curation/test_run",
    "curation/test_caption",
    "curation/test_kill",
    "trainer/test_stages_in_sequence",
    "cluster/test_metrics",
    "model/test_lip_sync",
    "trainer/test_encode",
    "cluster/test_local",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    def place(item: pytest.Item) -> int:
        name = item.path.relative_to(Path(__file__).parent).with_suffix("").as_posix()
        return LONGEST.index(name) if name in LONGEST else len(LONGEST)

    items.sort(key=place)


@pytest.fixture(autouse=True)
def same_draws_every_run() -> None:
    """A test that draws from torch's own generator draws the same numbers on every run, in any order of tests."""
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(0)


def shared(place: str) -> Path:
    """A file or folder under ../shared; the test is skipped where it isn't there."""
    found = SHARED / place
    if not found.exists():
        pytest.skip(f"needs ../shared/{place} beside the checkout")
    return found


@pytest.fixture(scope="session")
def real_clips() -> Path:
    return shared("clips/dev")


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A complete random checkpoint in the official layout. Not to be changed: copy it first."""
    from tests.tiny_checkpoint import write_tiny_checkpoint  # torch, which most tests do without

    return write_tiny_checkpoint(tmp_path_factory.mktemp("tiny"))

from pathlib import Path

import pytest

from tests.tiny_checkpoint import write_tiny_checkpoint


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A complete checkpoint in the official layout. Not to be changed: copy it first."""
    return write_tiny_checkpoint(tmp_path_factory.mktemp("tiny"))

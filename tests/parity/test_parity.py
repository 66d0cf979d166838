"""The network, its parts, the sampler and the clip loop against vectors of the official code."""

import importlib.util
import sys

import pytest

from tests.conftest import shared
from tests.parity import s2v_adapter

GROUPS = ("forward", "grad", "audio", "framepack", "rope", "bucket", "interp", "size", "sched", "loop")


@pytest.fixture(scope="module")
def rows():
    tool, golden = shared("tools/s2v_parity.py"), shared("golden/s2v")
    spec = importlib.util.spec_from_file_location("s2v_parity", tool)
    assert spec
    assert spec.loader
    harness = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = harness
    spec.loader.exec_module(harness)
    return harness.run(s2v_adapter, str(golden))[0].rows


@pytest.mark.parametrize("group", GROUPS)
def test_group_is_within_its_tolerance(rows, group):
    of_group = [row for row in rows if row[1] == group]
    assert of_group
    assert [row for row in of_group if not row[0]] == []

"""The stages one after the other, and what they leave for those who look on."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from curation import stages
from curation.pace import pace
from dataset.errors import RunError
from tests.curation.test_run import Workshop, write_good
from tests.curation.without_ray import without_ray


def one_and_no_more(make: Callable[[], Any], tasks: Sequence[Any], *_: object) -> Iterator[dict[str, int]]:
    yield make()(tasks[0])
    raise RunError("the power is gone")


def test_how_far_ingest_is_can_be_told_when_sources_are_added(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shop = Workshop(tmp_path)
    write_good(shop, 2)
    (shop.videos / "page.mp4").write_text("<html>")
    with without_ray():
        shop.curate()
        write_good(shop, 4)
        monkeypatch.setattr(stages, "run_tasks", one_and_no_more)
        assert "the power is gone" in shop.curate(code=1)
    found = pace(str(shop.dataset))
    assert found
    assert (found.done, found.failures) == ("ingest 3 of 5 sources (80%)", "1 failed")
    assert found.left

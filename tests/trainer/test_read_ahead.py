"""Reading in a child process: what a clip does there costs that clip, and answers stay with their requests."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from dataset.errors import RunError
from dataset.isolate import Child
from trainer import read_ahead as module
from trainer.read_ahead import read_ahead
from trainer.reading import Unreadable
from trainer.sample import Clip, Pixels, Request, Shape, Window


def read_some(request: Request, seed: int) -> Pixels:
    """Does what the clip's name says. Its shard is a log of what was read."""
    name, log = request.clip.clip_id, Path(request.clip.shard)
    before = log.read_text().split() if log.exists() else []
    log.write_text(" ".join([*before, name]))
    if name == "bad":
        raise Unreadable(request.clip, "no frame", "curate it again")
    if name == "full":
        raise RunError("/tmp can't take a clip")
    if name == "crash" or (name == "stumble" and name not in before):
        os.kill(os.getpid(), signal.SIGSEGV)
    if name == "hang":
        time.sleep(1000)
    frames = np.zeros((8, 512, 512, 3), np.uint8)  # more than a socket takes
    return Pixels(request, Window(0, 8, 0, 0.0), frames, frames[0], None, np.zeros(0, np.float32), str(seed))


def hostile_reader(seed: int) -> Callable:
    module.read_pixels = read_some
    return module.reader(seed)


@pytest.fixture(scope="module")
def child() -> Iterator[Child]:
    """One for all tests: its start takes seconds."""
    child = Child(f"{__name__}:hostile_reader", 7)
    yield child
    child.stop()


@pytest.fixture
def requests(tmp_path: Path) -> Callable[[str], list[Request]]:
    def make(names: str) -> list[Request]:
        clips = [Clip(name, "speech", str(tmp_path / "log"), 0, 2.0, 128, 64) for name in names.split()]
        return [Request(clip, Shape(8, 0, 512, 512), 0) for clip in clips]

    return make


def answers(request: Request, found: Pixels | Unreadable) -> bool:
    return isinstance(found, Pixels) and found.request == request and found.caption == "7"


def test_one_sample_is_read_ahead_and_no_more(child, requests, tmp_path):
    asked = requests("a b c d")
    reads = read_ahead(child, asked)
    for n in range(3):
        assert answers(*next(reads))
        assert child.pipe.poll(60)  # it has the next one in its hand
        assert (tmp_path / "log").read_text() == "a b c d"[: 2 * n + 3]
    assert answers(*next(reads))
    assert next(reads, None) is None


def test_a_crash_costs_one_sample_and_only_the_second_time(child, requests, tmp_path):
    asked = requests("a crash b bad stumble c")
    reads = list(read_ahead(child, asked))
    assert [request for request, _ in reads] == asked
    assert [answers(*read) for read in reads] == [True, False, True, False, True, True]
    assert [reads[n][1].error for n in (1, 3)] == ["reading it ended its process twice", "no frame"]
    assert (tmp_path / "log").read_text() == "a crash crash b bad stumble stumble c"


def test_a_hang_costs_one_sample(child, requests, tmp_path, monkeypatch):
    assert all(answers(*read) for read in read_ahead(child, requests("a")))  # so that it has started
    process = child.process
    reads = read_ahead(child, requests("hang b"))
    monkeypatch.setattr(module, "PATIENCE", 1)
    _, late = next(reads)
    assert late.error == "reading it took longer than 1 s"
    assert process.poll() == -signal.SIGKILL
    monkeypatch.undo()
    assert answers(*next(reads))
    assert (tmp_path / "log").read_text() == "a hang b"


def test_what_was_read_ahead_for_nothing_is_not_taken_for_an_answer(child, requests):
    reads = read_ahead(child, requests("a b"))
    assert answers(*next(reads))
    process = child.process
    reads.close()
    assert process.poll() == -signal.SIGKILL
    (read,) = read_ahead(child, requests("c"))
    assert answers(*read)


def test_a_full_disk_is_no_clips_fault(child, requests):
    with pytest.raises(RunError, match="/tmp can't take a clip"):
        list(read_ahead(child, requests("full a")))
    (read,) = read_ahead(child, requests("b"))
    assert answers(*read)

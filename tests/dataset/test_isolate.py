"""Hostile work is done in a child: whatever it does there, the worker goes on."""

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from dataset.isolate import Child, ChildDied, ChildHung
from dataset.media import MediaError

LIMITS = {"first": 20.0, "later": 20.0}


def handler(prefix: str):
    def handle(request: str) -> Iterator[str]:
        yield f"{prefix} {os.getpid()}"
        if request == "segfault":
            ctypes.string_at(0)
        if request == "hang":
            time.sleep(3600)
        if request == "refuse":
            raise MediaError("broken", "mend it")
        if request == "unplug":
            raise ConnectionResetError("of a server")
        if request == "burst":
            yield "x" * (8 << 20)  # more than the socket takes
        yield f"{prefix} {request}"

    return handle


@pytest.fixture
def child():
    child = Child(f"{__name__}:handler", "got")
    yield child
    child.stop()


def test_messages_come_in_order(child):
    assert list(child.ask("a", **LIMITS))[1] == "got a"
    assert list(child.ask("b", **LIMITS))[1] == "got b"


def test_a_crash_is_an_exception_and_the_next_request_works(child):
    messages = child.ask("segfault", **LIMITS)
    first = next(messages)
    with pytest.raises(ChildDied, match="SIGSEGV"):
        next(messages)
    after = list(child.ask("fine", **LIMITS))
    assert after[1] == "got fine"
    assert after[0] != first  # another process


def test_a_child_that_is_killed_in_the_middle_of_a_message_has_died(child):
    messages = child.ask("burst", **LIMITS)
    next(messages)
    assert child.pipe.poll(20)
    time.sleep(0.1)
    os.kill(child.process.pid, signal.SIGKILL)
    with pytest.raises(ChildDied, match="SIGKILL"):
        next(messages)
    assert list(child.ask("fine", **LIMITS))[1] == "got fine"


def test_a_hang_is_ended_at_the_limit(child):
    with pytest.raises(ChildHung):
        list(child.ask("hang", first=20, later=0.3))
    assert list(child.ask("fine", **LIMITS))[1] == "got fine"


def test_an_answer_that_is_not_heard_out_does_not_spoil_the_next(child):
    next(child.ask("a", **LIMITS))
    assert list(child.ask("b", **LIMITS))[1] == "got b"


def test_errors_travel_with_their_remedy(child):
    with pytest.raises(MediaError, match="broken") as caught:
        list(child.ask("refuse", **LIMITS))
    assert caught.value.remedy == "mend it"


def test_the_loss_of_somebody_elses_connection_is_not_the_childs_death(child):
    with pytest.raises(ConnectionResetError, match="of a server"):
        list(child.ask("unplug", **LIMITS))


def test_a_hanging_child_does_not_outlive_its_worker():
    program = (
        "import sys; from dataset.isolate import Child\n"
        f"c = Child('{__name__}:handler', 'got')\n"
        "m = c.ask('hang', first=60, later=60); print(next(m).split()[1], flush=True); next(m)"
    )
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    worker = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, env=env)
    assert worker.stdout
    pid = int(worker.stdout.readline())
    worker.send_signal(signal.SIGKILL)
    worker.wait()
    for _ in range(50):
        if not alive(pid):
            return
        time.sleep(0.1)
    os.kill(pid, signal.SIGKILL)
    pytest.fail("the child outlived its worker")


def alive(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as f:
            return f.read().split(")")[1].split()[0] != "Z"
    except FileNotFoundError:
        return False

"""Jobs on this machine: real processes, of which some end badly."""

import io
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from rich.console import Console

import cli
from cluster import follow, job_page, records
from cluster.job import Job, State
from cluster.local import LocalJobs, identity
from cluster.settings import Cluster
from dataset.errors import RunError
from tests.videos import clicks, write_video

SAVES_WHEN_ASKED = """
import signal, sys, time
def stop(*_):
    print("saved", flush=True)
    sys.exit(0)
signal.signal(signal.SIGTERM, stop)
print("working", flush=True)
time.sleep(600)
"""


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("S2V_STATE", str(tmp_path / "state"))
    monkeypatch.delenv("S2V_CLUSTER", raising=False)
    return tmp_path / "state"


@pytest.fixture
def local() -> LocalJobs:
    return LocalJobs(Cluster())


def until(true: Callable[[], bool], seconds: float = 180) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it took too long"
        time.sleep(0.05)


def program(monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    """Jobs run this Python instead of s2v."""
    monkeypatch.setattr("cluster.local.program", lambda: (sys.executable, "-c", code))


def job(name: str = "curate-a") -> Job:
    return Job("curate", name, ("curate", "videos", "--out", "data"))


def state_of(local: LocalJobs, name: str = "curate-a") -> State:
    return local.condition(name).state


def s2v(*words: str, code: int = 0) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main([*words])
    assert (ended.value.code or 0) == code


def test_curate_is_handed_in_seen_running_and_ended(
    tmp_path: Path, local: LocalJobs, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "160")
    Path("videos").mkdir()
    for i in range(2):
        write_video(Path(f"videos/{i}.mp4"), 2 + i, sound=clicks(2 + i))
    Path("videos/page.mp4").write_text("<html>")
    Path("mine.yaml").write_text(
        yaml.safe_dump({"name": "mine", "filters": ["header"], "policy": f"{tmp_path}/p.yaml"})
    )
    rule = {"score": "header.duration", "min": 2.5, "source": "test"}
    Path("p.yaml").write_text(yaml.safe_dump({"name": "mine", "rules": [rule]}))
    words = ["submit", "curate", "videos", "--out", "data", "--recipe", "mine.yaml", "--to", "local", "--name", "a-job"]

    s2v(*words, "--print")
    printed = capsys.readouterr().out
    assert printed.endswith(f"curate {tmp_path}/videos --out {tmp_path}/data --recipe {tmp_path}/mine.yaml\n")
    assert not Path("data").exists()

    s2v(*words)
    assert state_of(local, "a-job") is State.RUNNING
    s2v(*words, code=1)
    assert "runs here already" in capsys.readouterr().err
    until(lambda: local.condition("a-job").ended)
    assert state_of(local, "a-job") is State.SUCCEEDED, local.logs("a-job", 50)

    s2v("jobs")
    listed = capsys.readouterr().out
    assert "succeeded" in listed
    assert "1 clips packed" in listed
    s2v("jobs", "data", "--logs", "3")  # by the dataset
    shown = capsys.readouterr().out
    assert "a-job  succeeded" in shown
    assert "dropped by header" in shown
    assert "1 failures" in shown
    assert "Report:" in shown
    assert f"s2v submit curate {tmp_path}/videos --out {tmp_path}/data" in shown


def test_it_is_asked_to_end_and_may_save_first(local: LocalJobs, monkeypatch: pytest.MonkeyPatch) -> None:
    program(monkeypatch, SAVES_WHEN_ASKED)
    local.submit(job())
    until(lambda: "working" in local.logs("curate-a", 5))
    local.stop("curate-a")
    until(lambda: local.condition("curate-a").ended)
    assert state_of(local) is State.STOPPED
    assert local.logs("curate-a", 5) == "working\nsaved"
    local.submit(job())  # and again, of the same name
    assert state_of(local) is State.RUNNING
    until(lambda: "working" in local.logs("curate-a", 5))
    local.stop("curate-a")
    until(lambda: local.condition("curate-a").ended)


def test_one_that_was_killed_has_failed(local: LocalJobs, monkeypatch: pytest.MonkeyPatch) -> None:
    program(monkeypatch, "import os, time; print(os.getpid(), flush=True); time.sleep(600)")
    local.submit(job())
    until(lambda: bool(local.logs("curate-a", 1)))
    os.kill(int(local.logs("curate-a", 1)), signal.SIGKILL)
    until(lambda: local.condition("curate-a").ended)
    assert state_of(local) is State.FAILED
    assert "memory" in local.condition("curate-a").detail


def test_one_whose_keeper_was_killed_has_failed_and_is_asked_to_end(
    local: LocalJobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    program(monkeypatch, SAVES_WHEN_ASKED)
    local.submit(job())
    until(lambda: "working" in local.logs("curate-a", 5))
    keeper = int((local.folder("curate-a") / "process").read_text().split()[0])
    os.kill(keeper, signal.SIGKILL)
    until(lambda: local.condition("curate-a").ended)
    assert state_of(local) is State.FAILED
    until(lambda: local.logs("curate-a", 5) == "working\nsaved")


def test_a_process_that_got_its_number_is_not_taken_for_it(local: LocalJobs, monkeypatch: pytest.MonkeyPatch) -> None:
    program(monkeypatch, "pass")
    local.submit(job())
    until(lambda: local.condition("curate-a").ended)
    folder = local.folder("curate-a")
    (folder / "code").unlink()
    pid, start, boot = identity(os.getpid()).split()
    (folder / "process").write_text(f"{pid} {int(start) - 1} {boot}")
    assert state_of(local) is State.FAILED
    assert "restarted" in local.condition("curate-a").detail
    (folder / "process").write_text(f"{pid} {start} {boot}")
    assert state_of(local) is State.RUNNING


def test_how_it_failed_is_told(local: LocalJobs, monkeypatch: pytest.MonkeyPatch) -> None:
    program(monkeypatch, "import sys; sys.exit('Error: no space left')")
    local.submit(job())
    until(lambda: local.condition("curate-a").ended)
    assert local.condition("curate-a").detail == "exit code 1; its last words: Error: no space left"
    monkeypatch.setattr("cluster.local.program", lambda: ("/no/such/program",))
    local.submit(job())
    until(lambda: local.condition("curate-a").ended)
    assert "exit code 127" in local.condition("curate-a").detail
    assert state_of(local, "never-was") is State.GONE


def test_the_log_is_followed_to_the_end(monkeypatch: pytest.MonkeyPatch, local: LocalJobs) -> None:
    monkeypatch.setattr(follow, "PAUSE", 0.05)
    program(monkeypatch, "import time\nfor i in range(40): print('line', i, flush=True); time.sleep(0.02)\n1/0")
    local.submit(job())
    wanted = {"kind": "curate", "to": "local", "job_id": "curate-a", "home": "", "argv": ("curate",)}
    when = "2026-01-01T00:00:00Z"
    records.save(records.Record.model_validate({"name": "curate-a", "cluster": {}, "submitted": when} | wanted))
    printed = Console(file=io.StringIO(), width=100)
    with pytest.raises(RunError, match="curate-a failed: exit code 1; its last words: ZeroDivisionError"):
        job_page.show_job("curate-a", printed, 0, follow=True)
    text = printed.file.getvalue()  # type: ignore[attr-defined]
    assert "line 39" in text
    assert text.count("line 30\n") <= 1


def test_new_lines_of_a_log() -> None:
    assert follow.fresh([], ["a"]) == ["a"]
    assert follow.fresh(["a", "b"], ["a", "b"]) == []
    assert follow.fresh(["a", "b", "c"], ["b", "c", "d"]) == ["d"]  # its beginning isn't read any more
    assert follow.fresh(["a", "b", "c"], ["a", "b", "cd", "e"]) == ["cd", "e"]

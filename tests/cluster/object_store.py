"""An S3 server on this machine (moto's) that fails as real ones do, by the draws of a seed."""

import io
import logging
import random
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import fsspec
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
from werkzeug.serving import make_server

FAULTS = ("error", "slow", "cut off", "lost")
STATUS = {"InternalError": 500, "SlowDown": 503, "AccessDenied": 403}  # others: 400
ERROR = b"<?xml version='1.0'?><Error><Code>%s</Code><Message>drawn</Message></Error>"


@dataclass(frozen=True)
class Storm:
    """Shares of requests. error: 500 or 503. slow: a few hundred ms late. cut_off: the request is carried out, and its
    answer never comes. lost: of puts, those that are answered with 200 and not carried out."""

    error: float = 0.0
    slow: float = 0.0
    cut_off: float = 0.0
    lost: float = 0.0

    def draw(self, dice: random.Random, put: bool) -> str:
        shares = (self.error, self.slow, self.cut_off, self.lost if put else 0.0)
        return dice.choices((*FAULTS, ""), (*shares, 1 - sum(shares)))[0]


class ObjectStore:
    """The server: its weather may change at any time. happened: how often it did what."""

    def __init__(self) -> None:
        self.storm, self.dice = Storm(), random.Random(0)
        self.refused: tuple[str, str] | None = None  # the code of an error, and a part of the paths that get it
        self.happened: Counter[str] = Counter()
        self.lock = threading.Lock()
        self.moto = DomainDispatcherApplication(create_backend_app)
        logging.getLogger("werkzeug").setLevel(logging.ERROR)
        self.server = make_server("127.0.0.1", 0, self, threaded=True, request_handler=Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()

    @contextmanager
    def weather(self, storm: Storm, seed: int) -> Iterator[Counter[str]]:
        self.storm, self.dice = storm, random.Random(seed)
        self.happened.clear()
        yield self.happened
        self.storm = Storm()

    def __call__(self, request: dict, start: Callable) -> Iterable[bytes]:
        put = request["REQUEST_METHOD"] == "PUT" and "uploads" not in request["QUERY_STRING"]
        with self.lock:
            fault = self.storm.draw(self.dice, put)
            self.happened[fault] += 1
            busy = self.dice.choice(("InternalError", "SlowDown"))
        if self.refused and self.refused[1] in request["PATH_INFO"]:
            return refuse(request, start, self.refused[0])
        if fault == "error":
            return refuse(request, start, busy)
        if fault == "lost":
            drain(request)
            start("200 OK", [("ETag", '"0"')])
            return [b""]
        if fault == "slow":
            time.sleep(0.3)
        if fault == "cut off":
            list(self.moto(request, lambda *_: io.BytesIO().write))
            request["werkzeug.socket"].shutdown(socket.SHUT_RDWR)
            start("200 OK", [])
            return [b""]
        return self.moto(request, start)


def refuse(request: dict, start: Callable, code: str) -> Iterable[bytes]:
    drain(request)
    start(f"{STATUS.get(code, 400)} drawn", [("Content-Type", "application/xml")])
    return [b"" if request["REQUEST_METHOD"] == "HEAD" else ERROR % code.encode()]


def drain(request: dict) -> None:
    """A connection that is closed over unread bytes is reset, and the answer with it."""
    request["wsgi.input"].read(int(request.get("CONTENT_LENGTH") or 0))


class Handler(MotoRequestHandler):
    def log(self, *_: object) -> None:
        """Of thousands of requests, nothing."""


def objects(place: str) -> dict[str, bytes]:
    """All objects below an address, by the rest of their names."""
    fs, root = fsspec.core.url_to_fs(place)
    fs.invalidate_cache()
    return {name.removeprefix(f"{root}/"): fs.cat_file(name) for name in fs.find(root)}

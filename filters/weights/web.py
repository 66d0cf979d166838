"""Files fetched over HTTP: resumable, checked, put in place whole or not at all."""

import http.client
import os
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

from filters.weights.entry import WHOLE, File, Unavailable
from filters.weights.progress import progress
from filters.weights.store import remember, sha256_of

TRIES = 3  # in a row without a byte more
PAUSE = 1.0  # s between tries
TIMEOUT = 60  # s without an answer
BLOCK = 1 << 20
BUSY = (408, 429, 500, 502, 503, 504)  # a later try may succeed
HOST = "https://huggingface.co"


@dataclass(frozen=True)
class Https:
    """A file at its own address."""

    url: str

    advice = ""

    def __str__(self) -> str:
        return self.url

    def fetch(self, wanted: File, into: Path) -> None:
        download(wanted, into, self.url)


@dataclass(frozen=True)
class Hub:
    """Files of a repository of the Hugging Face Hub, or of what HF_ENDPOINT names instead."""

    repo: str
    revision: str = "main"

    advice = "HF_ENDPOINT and HF_TOKEN are honoured."

    def __str__(self) -> str:
        return f"{HOST}/{self.repo}/tree/{self.revision}"

    def fetch(self, wanted: File, into: Path) -> None:
        host = (os.environ.get("HF_ENDPOINT") or HOST).rstrip("/")
        url = f"{host}/{self.repo}/resolve/{self.revision}/{quote(wanted.basename)}"
        download(wanted, into, url, os.environ.get("HF_TOKEN"))


@dataclass(frozen=True)
class Mirror:
    """A server that has every file under its own name, in place of all official sources. A copy of a cache will do."""

    base: str

    advice = ""

    def __str__(self) -> str:
        return self.base

    def fetch(self, wanted: File, into: Path) -> None:
        download(wanted, into, f"{self.base.rstrip('/')}/{quote(wanted.name)}")


def download(wanted: File, into: Path, url: str, token: str | None = None) -> None:
    """Fetch a file to `into / wanted.name`. token: for the host of `url` alone.

    What was received stays in `.part` when the connection ends early: the next call asks for the rest. Raises
    `Unavailable`, and leaves nothing, where the content isn't what `wanted` says.
    """
    if urlsplit(url).scheme not in ("http", "https"):
        raise Unavailable(f"{url} is no http:// or https:// address")
    part = Part(into / f"{wanted.name}.part")
    part.path.parent.mkdir(parents=True, exist_ok=True)
    with progress(wanted.name, wanted.size) as advance:
        persist(lambda: receive(request(url, token), part, wanted, advance), url, part)
    found = sha256_of(part.path)
    if not found.startswith(wanted.sha256):
        part.drop()
        raise Unavailable(
            f"{url} holds another file than the one we know (sha256 {found}, expected {wanted.sha256}); it was not used"
        )
    os.replace(part.path, into / wanted.name)
    part.drop()
    remember(into / wanted.name, found)


@dataclass(frozen=True)
class Part:
    """What is there of an unfinished download, and beside it the tag of the version that it is a part of."""

    path: Path

    @property
    def size(self) -> int:
        return self.path.stat().st_size if self.path.exists() else 0

    @property
    def tag(self) -> Path:
        return self.path.with_name(f"{self.path.name}.etag")

    def drop(self) -> None:
        self.path.unlink(missing_ok=True)
        self.tag.unlink(missing_ok=True)


def persist(attempt: Callable[[], None], url: str, part: Part) -> None:
    """Try until it succeeds. Gives up on answers that will not change, and after some tries that brought nothing."""
    left = TRIES
    while True:
        before = part.size
        try:
            return attempt()
        except urllib.error.HTTPError as e:
            why, again = f"HTTP {e.code} {e.reason}", e.code in BUSY
            if e.code == 416 and part.size:  # what we hold reaches beyond the file that is there now
                part.drop()
                again = True
        except (urllib.error.URLError, http.client.HTTPException, TimeoutError, ConnectionError, ssl.SSLError) as e:
            why, again = str(getattr(e, "reason", "") or e or type(e).__name__), True
        left = TRIES if part.size > before else left - 1
        if not again or not left:
            raise Unavailable(
                f"{urlsplit(url).hostname}: {why}" + (f"; {part.size / 1e6:.1f} MB are kept" if part.size else "")
            )
        time.sleep(PAUSE)


def receive(request: urllib.request.Request, part: Part, wanted: File, advance: Callable[[int], None]) -> None:
    """One request for what is missing."""
    if not part.tag.exists() and len(wanted.sha256) < WHOLE:
        part.drop()  # nothing would tell whether the rest belongs to the same version
    have, size = part.size, wanted.size
    if size is not None and have == size:
        return
    if have:
        request.add_header("Range", f"bytes={have}-")
        if part.tag.exists():
            request.add_header("If-Range", part.tag.read_text())
    with urllib.request.build_opener(CarefulRedirects).open(request, timeout=TIMEOUT) as answer:
        if answer.headers.get_content_type() == "text/html":  # of a login or a proxy, say
            raise Unavailable(f"{request.full_url} answered with a web page")
        if answer.status != 206:  # the server knows no ranges, or has another version now
            have = 0
            part.drop()
            if (tag := answer.headers.get("ETag", "")) and not tag.startswith("W/"):
                part.tag.write_text(tag)
        elif not answer.headers.get("Content-Range", "").startswith(f"bytes {have}-"):
            raise http.client.HTTPException(f"asked for the bytes from {have} on, got others")
        rest = answer.headers.get("Content-Length")
        total = have + int(rest) if rest else size
        with open(part.path, "ab") as file:
            while block := answer.read(BLOCK):
                file.write(block)
                have += len(block)
                advance(have)
                if size is not None and have > size:
                    part.drop()
                    raise Unavailable(f"{request.full_url} is longer than the {size} bytes we know; it was not used")
    if total is not None and have < total:
        raise ConnectionError(f"the connection ended after {have} of {total} bytes")


def request(url: str, token: str | None) -> urllib.request.Request:
    made = urllib.request.Request(url, headers={"User-Agent": "s2v"})
    if token:
        made.add_unredirected_header("Authorization", f"Bearer {token}")
    return made


class CarefulRedirects(urllib.request.HTTPRedirectHandler):
    """Leads from https to https alone. Takes the token along when a host sends us on to itself, and to nobody else."""

    def redirect_request(self, req: Any, fp: Any, code: Any, msg: Any, headers: Any, newurl: str) -> Any:
        old, new = urlsplit(req.full_url), urlsplit(newurl)
        if new.scheme not in ("https", old.scheme):
            raise Unavailable(f"{old.hostname} sends us on to {new.scheme}://{new.hostname}, which was not followed")
        sent_on = super().redirect_request(req, fp, code, msg, headers, newurl)
        token = req.unredirected_hdrs.get("Authorization")
        if sent_on and token and old[:2] == new[:2]:
            sent_on.add_unredirected_header("Authorization", token)
        return sent_on

"""Ask servers for captions: one clip in, a caption that holds the form out, or the reason why there is none.

Whose fault a failure is decides what follows. A server that is gone costs the clip nothing: it waits, or goes to
another server. When a healthy server fails twice on the same clip, it is the clip's fault; so it is when servers go
down three times under it, the last time with no other request on it.
"""

import asyncio
import json
import os
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import aiohttp
from pydantic import SecretStr, ValidationError

from captioning import prompt
from captioning.frames import Frames
from captioning.lint import Facts, Flag, lint
from captioning.schema import Caption, tidy
from captioning.servers import Pool, Server
from captioning.settings import Captioning
from dataset.errors import RunError

TRIES = 3  # answers that may be cut or out of form before the clip is given up
FAULTS = 2  # failures of a healthy server on a clip
LOSSES = 3  # servers that go down under a clip
SETTLE = 1.0  # seconds after which a dying server has stopped saying that it is well
BUSY = (429, 503)
TIMED_OUT = 408
WRONG_SETTINGS = (401, 403, 404)


Key = SecretStr | None


def key_from_environment() -> Key:
    """What the servers want to hear: the VLLM_API_KEY that they were started with."""
    key = os.environ.get("VLLM_API_KEY", "").strip()
    return SecretStr(key) if key else None


class Refused(Exception):
    """This clip gets no caption. transient: another run may have more luck."""

    def __init__(self, error: str, remedy: str, *, transient: bool = False):
        super().__init__(error)
        self.remedy = remedy
        self.transient = transient


@dataclass(frozen=True)
class Reply:
    """What a server sent: text, why it ended there, and tokens."""

    text: str
    finish: str
    prompt_tokens: int
    completion_tokens: int


@dataclass(frozen=True)
class Captioned:
    """A caption, what our lint still objects to, and what it cost."""

    caption: Caption
    flags: Sequence[Flag]
    tries: int  # answers that were asked for
    prompt_tokens: int  # of all tries
    completion_tokens: int
    seconds: float


class Captioner:
    """Captions clips, many at a time. Use it in one event loop, inside `open_captioner`."""

    def __init__(self, settings: Captioning, model: str, limit: int, session: aiohttp.ClientSession):
        self.settings = settings
        self.model = model
        self.session = session
        self.pool = Pool(settings.servers, limit, self.healthy, settings.patience)

    async def caption(self, frames: Frames, facts: Facts) -> Captioned:
        """A caption of a clip. One that our lint objects to is sent back once, with the reasons.

        Raises Refused, or RunError when no clip can be captioned.
        """
        started, chat = time.monotonic(), prompt.messages(frames)
        caption, replies = await self.answer(chat, frames)
        flags = lint(caption, facts)
        if flags:
            try:
                second, more = await self.answer(prompt.second_try(chat, replies[-1].text, flags), frames)
            except Refused:
                second, more = caption, []
            replies += more
            left = lint(second, facts)
            if len(left) < len(flags):
                caption, flags = second, left
        tokens = sum(r.prompt_tokens for r in replies), sum(r.completion_tokens for r in replies)
        return Captioned(caption, flags, len(replies), *tokens, time.monotonic() - started)

    async def answer(self, chat: list[dict[str, Any]], frames: Frames) -> tuple[Caption, list[Reply]]:
        """The first answer that is whole and in form, and all that were asked for.

        The first try is the likeliest answer, the others are drawn: what runs in circles would do so again.
        """
        replies: list[Reply] = []
        for number in range(TRIES):
            replies.append(await self.ask(self.request(chat, frames, number)))
            wrong = f"was cut after {replies[-1].completion_tokens} tokens"
            if replies[-1].finish == "stop":
                try:
                    return Caption.model_validate_json(replies[-1].text), replies
                except ValidationError as e:
                    wrong = f"is not in form: {brief(str(e.errors(include_url=False, include_input=False)[0]['msg']))}"
        remedy = "look at the clip; raise `max_tokens`, or check that the server runs with the backend guidance"
        raise Refused(f"no whole caption in {TRIES} tries: the last one {wrong}", remedy)

    def request(self, chat: list[dict[str, Any]], frames: Frames, number: int) -> dict[str, Any]:
        return {
            "model": self.model,
            "messages": chat,
            "max_tokens": self.settings.max_tokens,
            "temperature": 0.7 if number else 0.0,
            "seed": number,
            "response_format": {
                "type": "json_schema",
                "json_schema": {"name": "caption", "schema": prompt.schema(), "strict": True},
            },
            "media_io_kwargs": {"video": frames.timing()},
        }

    async def ask(self, body: dict[str, Any]) -> Reply:
        """The reply to one request, from whichever server can give it."""
        data = encode(body)
        count: Counter[str] = Counter()
        patient = time.monotonic() + self.settings.patience
        while True:
            async with self.pool.slot(alone=count["lost"] >= LOSSES - 1) as server:
                status, text = await self.post(server, data)
                if status == 200 and (reply := parse(text)):
                    return reply
                if status in WRONG_SETTINGS or (status == 400 and "media_io_kwargs" in text):
                    raise RunError(
                        f"{server.url} refuses: {status} {brief(text)}. Check --model, VLLM_API_KEY and its flags."
                    )
                if 400 <= status < 500 and status not in (TIMED_OUT, *BUSY):
                    raise Refused(f"the server refuses it: {status} {brief(text)}", remedy_of(text))
                await asyncio.sleep(SETTLE)
                well = await self.healthy(server.url) and "EngineCore" not in text
                if not well:
                    self.pool.down(server)
            why = "lost" if not (well and status) else "busy" if status in BUSY else "failed"
            count[why] += 1
            if count["lost"] >= LOSSES:
                error = f"{LOSSES} servers went down under it, the last one with nothing else to do"
                raise Refused(error, "look at the clip, and at the log of the server", transient=True)
            if count["failed"] >= FAULTS:
                error = f"a healthy server failed on it {FAULTS} times: {status} {brief(text)}"
                raise Refused(error, "look at the clip, and at the log of the server", transient=status == TIMED_OUT)
            if why == "busy":
                if time.monotonic() > patient:
                    raise Refused(f"the servers were too busy: {status}", "lower --concurrency", transient=True)
                await asyncio.sleep(random.uniform(0.5, 1.0) * min(30, 2 ** count["busy"]))

    async def post(self, server: Server, data: bytes) -> tuple[int, str]:
        """Status and text of an answer; TIMED_OUT for a late one; status 0 and the error where the connection broke."""
        try:
            async with self.session.post(f"{server.url}/v1/chat/completions", data=data) as answer:
                return answer.status, await answer.text(errors="replace")
        except TimeoutError:
            return TIMED_OUT, f"no answer within {self.settings.timeout:.0f} s"
        except (aiohttp.ClientError, OSError) as e:
            return 0, f"{type(e).__name__}: {e}" if str(e) else type(e).__name__

    async def healthy(self, url: str) -> bool:
        try:
            async with self.session.get(f"{url}/health", timeout=aiohttp.ClientTimeout(total=10)) as answer:
                return answer.status == 200
        except (aiohttp.ClientError, TimeoutError, OSError):
            return False


@asynccontextmanager
async def open_captioner(settings: Captioning, model: str, limit: int, key: Key) -> AsyncIterator[Captioner]:
    """limit: requests in flight on each server."""
    async with open_session(settings.timeout, key) as session:
        yield Captioner(settings, model, limit, session)


def open_session(timeout: float, key: Key) -> aiohttp.ClientSession:
    """Each request has a connection of its own: vLLM drops kept ones after an error, and the next request fails."""
    headers = {"Content-Type": "application/json"}
    if key:
        headers["Authorization"] = f"Bearer {key.get_secret_value()}"
    connector = aiohttp.TCPConnector(limit=0, force_close=True)
    return aiohttp.ClientSession(
        connector=connector, headers=headers, timeout=aiohttp.ClientTimeout(total=timeout, sock_connect=10)
    )


def encode(body: dict[str, Any]) -> bytes:
    return json.dumps(body).encode()


# ---------------------------------------------------------------- what servers say


def parse(text: str) -> Reply | None:
    """None: not an answer of the protocol, such as the page of a proxy, or one that the server gave up."""
    try:
        data = json.loads(text)
        choice, usage = data["choices"][0], data["usage"]
        reply = Reply(
            choice["message"]["content"] or "",
            choice["finish_reason"],
            int(usage["prompt_tokens"]),
            int(usage["completion_tokens"]),
        )
    except (ValueError, LookupError, TypeError, ArithmeticError, RecursionError):
        return None
    sane = 0 <= reply.prompt_tokens < 1 << 32 and 0 <= reply.completion_tokens < 1 << 32
    return reply if sane and reply.finish in ("stop", "length") else None


def brief(text: str) -> str:
    """A server's message on one line, short: vLLM prints whole pictures into some."""
    try:
        data = json.loads(text)
        error = data.get("error", data)
        text = error.get("message", text) if isinstance(error, dict) else str(error)
    except (ValueError, AttributeError, RecursionError):
        pass
    text = tidy(str(text))
    return text if len(text) <= 200 else f"{text[:200]} ..."


def remedy_of(text: str) -> str:
    if "context length" in text or "max_model_len" in text or "longer than" in text:
        return "show fewer or smaller pictures (`captioning.sight`), or start the server with a larger --max-model-len"
    return "look at the clip, and at the log of the server"

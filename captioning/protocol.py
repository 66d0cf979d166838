"""What is said to a vLLM server and what it says: the OpenAI protocol, as far as captions need it."""

import json
import os
from dataclasses import dataclass
from typing import Any

import aiohttp
from pydantic import SecretStr

from captioning import prompt
from captioning.frames import Frames
from captioning.schema import tidy
from captioning.settings import Captioning

TOO_MANY = 429
BUSY = (TOO_MANY, 503)
TIMED_OUT = 408
BROKEN, UNREACHED = 0, -1  # in place of a status: the connection broke, or there was none
WRONG_SETTINGS = (401, 403, 404)

Key = SecretStr | None


def key_from_environment() -> Key:
    """What the servers want to hear: the VLLM_API_KEY that they were started with."""
    key = os.environ.get("VLLM_API_KEY", "").strip()
    return SecretStr(key) if key else None


def open_session(timeout: float, key: Key) -> aiohttp.ClientSession:
    """Each request has a connection of its own: vLLM drops kept ones after an error, and the next request fails."""
    headers = {"Content-Type": "application/json"}
    if key:
        headers["Authorization"] = f"Bearer {key.get_secret_value()}"
    connector = aiohttp.TCPConnector(limit=0, force_close=True)
    return aiohttp.ClientSession(
        connector=connector, headers=headers, timeout=aiohttp.ClientTimeout(total=timeout, sock_connect=10)
    )


# ---------------------------------------------------------------- what is asked


def request(
    settings: Captioning, model: str, chat: list[dict[str, Any]], frames: Frames, number: int = 0
) -> dict[str, Any]:
    """The body of a try for a caption, the first being number 0: the likeliest answer. The others are drawn."""
    return {
        "model": model,
        "messages": chat,
        "max_tokens": settings.max_tokens,
        "temperature": 0.7 if number else 0.0,
        "seed": number,
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "caption", "schema": prompt.schema(), "strict": True},
        },
        "media_io_kwargs": {"video": frames.timing()},
    }


def encode(body: dict[str, Any]) -> bytes:
    return json.dumps(body).encode()


async def post(session: aiohttp.ClientSession, url: str, data: bytes) -> tuple[int, str]:
    """Status and text of an answer; TIMED_OUT, BROKEN or UNREACHED and what happened where there was none."""
    try:
        async with session.post(f"{url}/v1/chat/completions", data=data) as answer:
            return answer.status, await answer.text(errors="replace")
    except aiohttp.ConnectionTimeoutError as e:
        return UNREACHED, str(e)
    except TimeoutError:
        return TIMED_OUT, f"no answer within {session.timeout.total:.0f} s"
    except aiohttp.ClientConnectorError as e:
        return UNREACHED, str(e)
    except (aiohttp.ClientError, OSError) as e:
        return BROKEN, f"{type(e).__name__}: {e}" if str(e) else type(e).__name__


async def healthy(session: aiohttp.ClientSession, url: str) -> bool:
    try:
        async with session.get(f"{url}/health", timeout=aiohttp.ClientTimeout(total=10)) as answer:
            return answer.status == 200
    except (aiohttp.ClientError, TimeoutError, OSError):
        return False


# ---------------------------------------------------------------- what servers say


@dataclass(frozen=True)
class Reply:
    """What a server sent: text, why it ended there, and tokens."""

    text: str
    finish: str
    prompt_tokens: int
    completion_tokens: int


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


def refuses_settings(status: int, text: str) -> bool:
    """Is it the server's flags or ours that are wrong, and not the clip?"""
    return status in WRONG_SETTINGS or (status == 400 and "media_io_kwargs" in text)


def refuses(status: int) -> bool:
    """Will it say the same again?"""
    return 400 <= status < 500 and status not in (TIMED_OUT, *BUSY)


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

"""Before a run: are the servers there, do they serve the model, and do they take what we send?"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

import aiohttp
import numpy as np

from captioning import prompt
from captioning.client import BUSY, TIMED_OUT, Captioner, Key, brief, encode, open_session
from captioning.frames import CELL, Frames, jpeg
from captioning.servers import Server
from captioning.settings import Captioning
from dataset.errors import RunError, UsageError

START = "Start one with `s2v caption serve`, or see what it would run with `s2v caption serve --print`."


@dataclass(frozen=True)
class Ready:
    """The model to ask for, and the servers that are down for now."""

    model: str
    down: Sequence[str]


def preflight(settings: Captioning, key: Key) -> Ready:
    """Raises UsageError for servers that would refuse every clip, and RunError when none is there."""
    return asyncio.run(check(settings, key))


async def check(settings: Captioning, key: Key) -> Ready:
    async with open_session(60, key) as session:
        served = await asyncio.gather(*(models(session, url) for url in settings.servers))
        up = {url: names for url, names in zip(settings.servers, served, strict=True) if names is not None}
        if not up:
            raise RunError(f"No caption server answers at {' or '.join(settings.servers)}. {START}")
        model = settings.model or sole_model(up)
        for url, names in up.items():
            if model not in names:
                raise UsageError(f"{url} serves {', '.join(names) or 'no model'}, not {model}: see --model.")
        client = Captioner(settings, model, 1, session)
        await asyncio.gather(*(trial(client, url) for url in up))
        return Ready(model, [url for url in settings.servers if url not in up])


async def models(session: aiohttp.ClientSession, url: str) -> list[str] | None:
    """Names of what a server serves; None: it doesn't answer."""
    try:
        async with session.get(f"{url}/v1/models") as answer:
            if answer.status in (401, 403):
                raise UsageError(f"{url} wants a key: set VLLM_API_KEY to the one that it was started with.")
            if answer.status >= 500:
                return None  # a proxy whose server is down
            return [entry["id"] for entry in (await answer.json(content_type=None))["data"]]
    except (aiohttp.ClientError, TimeoutError, OSError):
        return None
    except (ValueError, LookupError, TypeError):
        raise UsageError(f"{url} is no server of the OpenAI protocol. {START}") from None


def sole_model(up: dict[str, list[str]]) -> str:
    names = sorted(set().union(*up.values()))
    if len(names) == 1:
        return names[0]
    raise UsageError(f"The servers serve {', '.join(names) or 'no model'}: choose one with --model.")


async def trial(client: Captioner, url: str) -> None:
    """One token of a caption of grey pictures: a server with the wrong flags refuses it as it would refuse all."""
    side, count = 4 * CELL, client.settings.sight.most
    grey = jpeg(np.full((side, side, 3), 128, np.uint8))
    frames = Frames((grey,) * count, 2.0, count / 2, side, side)
    body = client.request(prompt.messages(frames), frames, 0) | {"max_tokens": 1}
    status, text = await client.post(Server(url), encode(body))
    if 400 <= status < 500 and status not in (TIMED_OUT, *BUSY):
        raise UsageError(f"{url} refuses what every clip would send: {status} {brief(text)}. {START}")

"""Before a run: are the servers there, do they serve the model, and do they take what we send?"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from captioning.fitness import fit, models
from captioning.protocol import Key, open_session
from captioning.servers import Unfit
from captioning.settings import Captioning
from dataset.errors import RunError, UsageError

T = TypeVar("T")
START = "Start one with `s2v caption serve`, or see what it would run with `s2v caption serve --print`."


@dataclass(frozen=True)
class Ready:
    """The model to ask for, and the servers that are down for now."""

    model: str
    down: Sequence[str] = ()


def preflight(settings: Captioning, key: Key) -> Ready:
    """Raises UsageError for servers that would refuse clips, and RunError when none is there."""
    return asyncio.run(check(settings, key))


async def check(settings: Captioning, key: Key) -> Ready:
    async with open_session(120, key) as session:
        served = await each(settings.servers, lambda url: models(session, url))
        up = {url: names for url, names in served.items() if names is not None}
        model = settings.model or (sole_model(up) if up else "")
        fits = await each(list(up), lambda url: fit(session, settings, model, url))
    if not any(fits.values()):
        raise RunError(f"No caption server answers at {' or '.join(settings.servers)}. {START}")
    return Ready(model, [url for url in settings.servers if not fits.get(url)])


async def each(urls: Sequence[str], ask: Callable[[str], Awaitable[T]]) -> dict[str, T]:
    """What all say, asked at once. Raises UsageError for the first that is unfit."""
    found = {}
    for url, said in zip(urls, await asyncio.gather(*map(ask, urls), return_exceptions=True), strict=True):
        if isinstance(said, Unfit):
            raise UsageError(f"{url} {said}. {START}")
        if isinstance(said, BaseException):
            raise said
        found[url] = said
    return found


def sole_model(up: dict[str, dict[str, int | None]]) -> str:
    names = sorted({name for served in up.values() for name in served})
    if len(names) == 1:
        return names[0]
    raise UsageError(f"The servers serve {', '.join(names) or 'no model'}: choose one with --model.")

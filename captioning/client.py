"""Ask servers for captions: one clip in, a caption that holds the form out, or the reason why there is none.

Whose fault a failure is decides what follows. A server that is gone costs the clip nothing: it waits, or goes to
another server. When a healthy server fails twice on the same clip, it is the clip's fault. Where servers went down
twice under a clip, it may be the clip or any other that they worked on: it is a suspect, to be asked again with nothing
beside it, when all others are done.
"""

import asyncio
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import aiohttp
from pydantic import ValidationError

from captioning import prompt, protocol
from captioning.fitness import fit
from captioning.frames import Frames
from captioning.lint import Facts, Flag, lint
from captioning.preflight import Ready
from captioning.protocol import (
    BROKEN,
    BUSY,
    TIMED_OUT,
    TOO_MANY,
    UNREACHED,
    Key,
    Reply,
    brief,
    encode,
    open_session,
    parse,
    refuses,
)
from captioning.schema import Caption
from captioning.servers import Pool
from captioning.settings import Captioning

TRIES = 3  # answers that may be cut or out of form before the clip is given up
FAULTS = 2  # failures of a healthy server on a clip
UNFIT = 4  # servers that were found fit, and refuse a clip as if they weren't
LOSSES = 2  # servers that go down under a clip before it is a suspect, and then before it is to blame
SETTLE = 1.0  # seconds after which a dying server has stopped saying that it is well
LOOK = "look at the clip, and at the log of the server"


class Refused(Exception):
    """This clip gets no caption. transient: another run may have more luck."""

    def __init__(self, error: str, remedy: str, *, transient: bool = False):
        super().__init__(error)
        self.remedy = remedy
        self.transient = transient


class Suspect(Exception):
    """This clip may be what ends servers: it must be asked about alone."""


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
    """Captions clips, many at a time. Use it in one event loop, inside `open_captioner`.

    alone: its requests, one for each server, are the only ones there are. Then servers that go down under a clip are
    the clip's doing.
    """

    def __init__(
        self, settings: Captioning, ready: Ready, limit: int, session: aiohttp.ClientSession, *, alone: bool = False
    ):
        self.settings = settings
        self.model = ready.model
        self.session = session
        self.alone = alone
        fits = partial(fit, session, settings, ready.model)
        self.pool = Pool(settings.servers, ready.down, 1 if alone else limit, fits, settings.patience)

    async def caption(self, frames: Frames, facts: Facts) -> Captioned:
        """A caption of a clip. One that our lint objects to is sent back once, with the reasons.

        Raises Refused, Suspect, or RunError when no clip can be captioned.
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

        Later ones are drawn: what runs in circles would do so again.
        """
        replies: list[Reply] = []
        for number in range(TRIES):
            replies.append(await self.ask(protocol.request(self.settings, self.model, chat, frames, number)))
            wrong = f"was cut after {replies[-1].completion_tokens} tokens"
            if replies[-1].finish == "stop":
                try:
                    return Caption.model_validate_json(replies[-1].text), replies
                except ValidationError as e:
                    wrong = f"is not in form: {brief(str(e.errors(include_url=False, include_input=False)[0]['msg']))}"
        remedy = "look at the clip; raise `max_tokens`, or check that the server runs with the backend guidance"
        raise Refused(f"no whole caption in {TRIES} tries: the last one {wrong}", remedy)

    async def ask(self, body: dict[str, Any]) -> Reply:
        """The reply to one request, from whichever server can give it."""
        data = encode(body)
        count: Counter[str] = Counter()
        patient = time.monotonic() + self.settings.patience
        while True:
            async with self.pool.slot() as server:
                status, text = await protocol.post(self.session, server.url, data)
                if status == 200 and (reply := parse(text)):
                    return reply
                why = "failed"
                if status == UNREACHED:
                    self.pool.down(server)  # it was so before this clip
                    continue
                if protocol.refuses_settings(status, text):
                    self.pool.down(server)  # its watch finds out whether it is the server
                    why = "unfit"
                elif refuses(status):
                    raise Refused(f"the server refuses it: {status} {brief(text)}", remedy_of(text))
                elif status == TOO_MANY:
                    why = "busy"
                else:
                    await asyncio.sleep(SETTLE)
                    well = await protocol.healthy(self.session, server.url) and "EngineCore" not in text
                    if not well:
                        self.pool.down(server)
                    lost = not well or (status == BROKEN and not self.alone)
                    why = "lost" if lost else "busy" if status in BUSY else "failed"
            count[why] += 1
            if count["lost"] >= LOSSES:
                if self.alone:
                    raise Refused("servers went down under it twice that had nothing else to do", LOOK)
                raise Suspect
            if count["unfit"] >= UNFIT:
                raise Refused(f"{UNFIT} servers refuse it: {status} {brief(text)}", LOOK, transient=True)
            if count["failed"] >= FAULTS:
                error = f"a healthy server failed on it {FAULTS} times: {status} {brief(text)}"
                raise Refused(error, LOOK, transient=status == TIMED_OUT)
            if why == "busy":
                if time.monotonic() > patient:
                    raise Refused(f"the servers were too busy: {status}", "lower --concurrency", transient=True)
                await asyncio.sleep(random.uniform(0.5, 1.0) * min(30, 2 ** count["busy"]))


@asynccontextmanager
async def open_captioner(
    settings: Captioning, ready: Ready, limit: int, key: Key, *, alone: bool = False
) -> AsyncIterator[Captioner]:
    """limit: requests in flight on each server."""
    async with open_session(settings.timeout, key) as session:
        yield Captioner(settings, ready, limit, session, alone=alone)


def remedy_of(text: str) -> str:
    if "context length" in text or "max_model_len" in text or "longer than" in text:
        return "show fewer or smaller pictures (`captioning.sight`), or start the server with a larger --max-model-len"
    return LOOK

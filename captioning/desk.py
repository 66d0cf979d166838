"""The captioner for code that isn't async: hand in a clip, get a future. Holds you back when enough is waiting."""

import asyncio
from concurrent.futures import Future
from contextlib import AsyncExitStack
from math import ceil
from threading import Semaphore, Thread

from captioning.client import Captioned, Captioner, open_captioner
from captioning.frames import Frames
from captioning.lint import Facts
from captioning.preflight import Ready
from captioning.protocol import Key
from captioning.settings import Captioning
from dataset.errors import RunError

AHEAD = 0.5  # of its slots: clips that are read before there is room for them, since answers come in waves


class Desk:
    """One event loop in a thread of its own. Any thread may submit.

    limit: requests in flight on each server. alone: see `Captioner`.
    """

    def __init__(self, settings: Captioning, ready: Ready, limit: int, key: Key, *, alone: bool = False):
        self.loop = asyncio.new_event_loop()
        Thread(target=self.loop.run_forever, daemon=True).start()
        self.room = Semaphore(ceil((1 + AHEAD) * limit * len(settings.servers)))
        self.stack = AsyncExitStack()
        self.error: BaseException | None = None
        opened = self.stack.enter_async_context(open_captioner(settings, ready, limit, key, alone=alone))
        self.captioner: Captioner = asyncio.run_coroutine_threadsafe(opened, self.loop).result()

    def submit(self, frames: Frames, facts: Facts) -> Future[Captioned]:
        """Waits for room. Raises the RunError that has ended an earlier clip, since it would end this one, too."""
        self.room.acquire()
        if self.error:
            self.room.release()
            raise self.error
        future = asyncio.run_coroutine_threadsafe(self.captioner.caption(frames, facts), self.loop)
        future.add_done_callback(self.done)
        return future

    def done(self, future: Future[Captioned]) -> None:
        if not future.cancelled() and isinstance(future.exception(), RunError):
            self.error = future.exception()
        self.room.release()

    def close(self) -> None:
        asyncio.run_coroutine_threadsafe(self.stack.aclose(), self.loop).result()
        self.loop.call_soon_threadsafe(self.loop.stop)

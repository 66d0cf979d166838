"""The caption servers of one worker: who is up, who has room, and who gets the next request."""

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

from dataset.errors import RunError

PROBE = 2.0  # seconds between two looks at a server that is down


class NoServer(RunError):
    """No server has answered for as long as the settings allow, or all that do were unfit."""


class Unfit(Exception):
    """A server that answers, but would refuse clips. The message goes on after its address."""


@dataclass
class Server:
    url: str
    up: bool
    busy: int = 0  # requests in flight
    unfit: str = ""  # why it isn't up although it answers


class Pool:
    """Hands out slots of servers. Made and used in one event loop.

    down: those that don't get anything until they are found fit. limit: requests in flight on one server. fit: is a
    server there and fit? (raises Unfit). patience: seconds to wait when no server is up.
    """

    def __init__(
        self,
        urls: Sequence[str],
        down: Collection[str],
        limit: int,
        fit: Callable[[str], Awaitable[bool]],
        patience: float,
    ) -> None:
        self.servers = [Server(url, up=True) for url in urls]
        self.limit = limit
        self.fit = fit
        self.patience = patience
        self.changed = asyncio.Condition()
        self.watchers: set[asyncio.Task] = set()
        for server in self.servers:
            if server.url in down:
                self.down(server)

    @asynccontextmanager
    async def slot(self) -> AsyncIterator[Server]:
        """A slot of the least busy server. Raises NoServer when none came up in time."""
        async with self.changed:
            while (server := self.choose()) is None:
                await self.wait()
            server.busy += 1
        try:
            yield server
        finally:
            async with self.changed:
                server.busy -= 1
                self.changed.notify_all()

    def choose(self) -> Server | None:
        free = [s for s in self.servers if s.up and s.busy < self.limit]
        least = min((s.busy for s in free), default=0)
        return random.choice([s for s in free if s.busy == least]) if free else None

    async def wait(self) -> None:
        """Until a slot is given back or a server comes up."""
        if any(s.up for s in self.servers):
            await self.changed.wait()
            return
        try:
            await asyncio.wait_for(self.changed.wait_for(lambda: any(s.up for s in self.servers)), self.patience)
        except TimeoutError:
            unfit = all(s.unfit for s in self.servers)
            why = "is fit for this run" if unfit else f"has answered for {self.patience:.0f} s"
            raise NoServer(self.told(why)) from None

    def told(self, why: str) -> str:
        return f"No caption server {why}: {'; '.join(f'{s.url} {s.unfit}'.strip() for s in self.servers)}."

    def down(self, server: Server) -> None:
        """Give it nothing more until it is well again."""
        if server.up:
            server.up = False
            watcher = asyncio.create_task(self.watch(server))
            self.watchers.add(watcher)
            watcher.add_done_callback(self.watchers.discard)

    async def watch(self, server: Server) -> None:
        """A server may come back with another model or other flags: it must pass what all passed before the run."""
        while not server.up:
            try:
                up, unfit = await self.fit(server.url), ""
            except Unfit as e:
                up, unfit = False, str(e)
            async with self.changed:
                server.up, server.unfit = up, unfit
                self.changed.notify_all()
            if not up:
                await asyncio.sleep(PROBE)

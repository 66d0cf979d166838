"""The caption servers of one worker: who is up, who has room, and who gets the next request."""

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

from dataset.errors import RunError

PROBE = 1.0  # seconds between two looks at a server that is down


class NoServer(RunError):
    """No server has answered for as long as the settings allow."""


@dataclass
class Server:
    url: str
    busy: int = 0  # requests in flight
    up: bool = True
    alone: bool = False  # has a request that must not share it


class Pool:
    """Hands out slots of servers. One event loop uses it.

    limit: requests in flight on one server. healthy: asks a server whether it is well. patience: seconds to wait when
    no server is up.
    """

    def __init__(
        self, urls: Sequence[str], limit: int, healthy: Callable[[str], Awaitable[bool]], patience: float
    ) -> None:
        self.servers = [Server(url) for url in urls]
        self.limit = limit
        self.healthy = healthy
        self.patience = patience
        self.lone = 0  # requests that wait for a server of their own
        self.changed = asyncio.Condition()
        self.watchers: set[asyncio.Task] = set()

    @asynccontextmanager
    async def slot(self, *, alone: bool = False) -> AsyncIterator[Server]:
        """A slot of the least busy server. alone: of one that does nothing else meanwhile.

        Raises NoServer when none came up in time.
        """
        server = await self.enter(alone=alone)
        try:
            yield server
        finally:
            async with self.changed:
                server.busy -= 1
                server.alone = False
                self.changed.notify_all()

    async def enter(self, *, alone: bool) -> Server:
        async with self.changed:
            self.lone += alone
            try:
                while (server := self.choose(alone=alone)) is None:
                    await self.wait()
            finally:
                self.lone -= alone
            server.busy += 1
            server.alone = alone
            return server

    def choose(self, *, alone: bool) -> Server | None:
        if self.lone and not alone:
            return None  # or the servers would never be idle
        room = 1 if alone else self.limit
        free = [s for s in self.servers if s.up and not s.alone and s.busy < room]
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
            urls = ", ".join(s.url for s in self.servers)
            raise NoServer(f"No caption server has answered for {self.patience:.0f} s: {urls}.") from None

    def down(self, server: Server) -> None:
        """Give it nothing more until it is well again."""
        if server.up:
            server.up = False
            watcher = asyncio.create_task(self.watch(server))
            self.watchers.add(watcher)
            watcher.add_done_callback(self.watchers.discard)

    async def watch(self, server: Server) -> None:
        while not await self.healthy(server.url):
            await asyncio.sleep(PROBE)
        async with self.changed:
            server.up = True
            self.changed.notify_all()

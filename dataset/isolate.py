"""Run hostile work in a child process: a crash or a hang costs the child, never the worker that holds the results.

The worker talks to one child over a socket: it sends a request and receives a stream of messages. When the child dies
or a message is late, the worker gets an exception, and the next request starts a fresh child.
"""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection
from typing import Any

DONE = "done"  # last message of a request


class ChildDied(Exception):
    """The child process ended in the middle of a request."""

    @property
    def from_outside(self) -> bool:
        """SIGKILL comes from an operator, or from memory running out, so it may go better next time."""
        return "SIGKILL" in str(self)


class ChildHung(Exception):
    """No message arrived within the limit; the child was killed."""


class Child:
    """One child process that runs `handler`, given as 'module:function'.

    handler(*setup) is called once in the child and returns a function from a request to an iterator of messages.
    """

    def __init__(self, handler: str, *setup: Any):
        self.handler = handler
        self.setup = setup
        self.process: subprocess.Popen | None = None
        self.pipe: Any = None

    def ask(self, request: Any, *, first: float, later: float) -> Iterator[Any]:
        """Yield the child's messages; `first` and `later` are the seconds that the first and the others may take."""
        limit = first
        try:
            self._send(request)
            while True:
                message = self._receive(limit)
                if isinstance(message, str) and message == DONE:
                    return
                if isinstance(message, BaseException):
                    raise message
                limit = later
                yield message
        except GeneratorExit:
            self.stop()  # the rest of its answer would be taken for the next request's
            raise

    def answer(self, request: Any, *, first: float, later: float) -> Any:
        """The last message. A request that ends its child is tried once more."""
        try:
            *_, last = self.ask(request, first=first, later=later)
        except ChildDied:
            *_, last = self.ask(request, first=first, later=later)
        return last

    def _send(self, request: Any) -> None:
        try:
            self._start()
            self.pipe.send(request)
        except ConnectionError as e:
            raise ChildDied(self._obituary()) from e

    def _receive(self, limit: float) -> Any:
        if not self.pipe.poll(limit):
            self.stop()
            raise ChildHung
        try:
            return self.pipe.recv()
        except (EOFError, OSError) as e:  # OSError: it ended in the middle of a message
            raise ChildDied(self._obituary()) from e

    def _start(self) -> None:
        if self.process and self.process.poll() is None:
            return
        ours, theirs = socket.socketpair()
        env = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
        command = [sys.executable, "-m", "dataset.isolate", str(theirs.fileno()), str(os.getpid())]
        self.process = subprocess.Popen(command, pass_fds=[theirs.fileno()], env=env, stdin=subprocess.DEVNULL)
        theirs.close()
        self.pipe = Connection(ours.detach())
        self.pipe.send((self.handler, self.setup))

    def _obituary(self) -> str:
        assert self.process
        code = self.process.wait(timeout=30)
        self.stop()
        return f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"

    def stop(self) -> None:
        """Kill the child, if there is one."""
        if self.process:
            self.process.kill()
            self.process.wait()
            self.pipe.close()
            self.process = None


# ---------------------------------------------------------------- the child's side


def follow_parent(parent: int) -> None:
    """End this process when its parent is gone, even in the middle of a decoder that never returns."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)


def serve(pipe: Any) -> None:
    """Answer requests until the parent closes the pipe."""
    name, setup = pipe.recv()
    module, function = name.split(":")
    __import__(module)
    handle = getattr(sys.modules[module], function)(*setup)
    while True:
        try:
            request = pipe.recv()
        except EOFError:
            return
        try:
            for message in handle(request):
                pipe.send(message)
            pipe.send(DONE)
        except BrokenPipeError:
            return
        except Exception as e:
            e.__traceback__ = None
            pipe.send(e)


if __name__ == "__main__":
    threading.Thread(target=follow_parent, args=(int(sys.argv[2]),), daemon=True).start()
    serve(Connection(int(sys.argv[1])))

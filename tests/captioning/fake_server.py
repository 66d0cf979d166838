"""A stand-in for a vLLM server, for tests and benchmarks: its protocol, its queue, its errors and its deaths."""

import asyncio
import binascii
import hashlib
import json
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np
from aiohttp import web

from captioning.examples import SPEAKER


@dataclass
class Request:
    """A request that was let in, and what became of it. Times are of time.monotonic()."""

    body: dict[str, Any]  # without the video's data
    frames: list[bytes]  # JPEGs
    clip: str  # hash of the frames
    tokens: int  # of the prompt
    text: str  # what the last message of the user says
    tries: int  # answers that the model gave before
    timing: dict[str, Any]  # media_io_kwargs.video
    temperature: float | None
    seed: int | None
    number: int = 0  # how manieth request with this first frame, from 1
    arrived: float = field(default_factory=time.monotonic)
    began: float | None = None  # got a slot
    ended: float | None = None
    status: int | None = None  # None: not answered


@dataclass(frozen=True)
class Response:
    """What to answer: a completion that says `text`; from status 400 on vLLM's error with it; or `body` as it is."""

    status: int = 200
    text: str | None = ""
    finish_reason: str = "stop"
    body: str | dict[str, Any] | None = None  # a str is a page of HTML, as proxies send
    headers: dict[str, str] = field(default_factory=dict)
    delay: float = 0  # seconds in the slot, on top of the latency
    drop: bool = False  # close the connection without an answer


ENGINE_DIED = Response(500, "EngineCore encountered an issue. See stack trace (above) for the root cause.")


class Refused(Exception):
    """(status, text): the request isn't let in."""


def default_answer(clip: str) -> str:
    """A caption whose place tells which frames it is of."""
    background = SPEAKER.background.model_copy(update={"place": f"a room with the number {clip}"})
    return SPEAKER.model_copy(update={"background": background}).model_dump_json()


def in_its_thread(method: Callable) -> Callable[..., None]:
    """Lets any thread call an async method of the server. It waits; within `answer`, it happens right afterwards."""

    def run(server: "FakeServer") -> None:
        running = asyncio.run_coroutine_threadsafe(method(server), server.loop)
        if threading.current_thread() is not server.thread:
            running.result(timeout=10)

    return run


@dataclass
class FakeServer:
    """Serves inside `with`, in a thread of its own, where `answer` and `latency` are called: they must not wait."""

    slots: int = 16
    latency: Callable[[Request], float] = lambda request: 0  # seconds in the slot
    answer: Callable[[Request], str | Response] = lambda request: default_answer(request.clip)
    model: str = "fake"
    max_model_len: int = 32768
    api_key: str | None = None
    trust: bool = True  # vLLM's --trust-request-mm-kwargs

    def __post_init__(self) -> None:
        self.requests: list[Request] = []
        self.refused: list[int] = []  # statuses of requests under /v1 that were not let in
        self.peak = self.most_waiting = 0  # requests at once, in slots and in the queue
        self.engine_dead = False
        self.listener: asyncio.Server | None = None
        self.working: set[asyncio.Task[Response]] = set()  # in slots and in the queue
        self.free = asyncio.Semaphore(self.slots)
        self.seen: Counter[bytes] = Counter()
        # Bound as long as we live: while we are dead, nobody else gets the port, no client as its own end either.
        self.place = socket.socket()
        self.place.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        self.place.bind(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.place.getsockname()[1]}"

    def __enter__(self) -> "FakeServer":
        self.runner = asyncio.Runner(loop_factory=asyncio.new_event_loop)
        self.loop = self.runner.get_loop()
        self.http = web.Server(self._serve, handler_cancellation=True, access_log=None, loop=self.loop)
        self.thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self.thread.start()
        self.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.kill()
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join()
        self.runner.close()
        self.place.close()

    @in_its_thread
    async def start(self) -> None:
        """Listen, on the same port as ever, with a healthy engine."""
        self.engine_dead = False
        if self.listener is None:
            where = self.place.getsockname()
            self.listener = await self.loop.create_server(self.http, *where, reuse_port=True, backlog=1024)

    def restart_after(self, seconds: float) -> None:
        """Return at once, and `start` later."""
        self.loop.call_soon_threadsafe(self.loop.call_later, seconds, self.start)

    @in_its_thread
    async def kill(self) -> None:
        """As SIGKILL does: all connections break without an answer, and new ones are refused."""
        if self.listener is not None:
            self.listener.close()
        self.listener = None
        for transport in [connection.transport for connection in self.http.connections if connection.transport]:
            transport.abort()

    @in_its_thread
    async def stop_engine(self) -> None:
        """As when only the engine dies: 500 for all that is in flight or comes; /health says 503."""
        self.engine_dead = True
        for task in self.working:
            task.cancel()

    def busy_share(self, start: float, end: float) -> float:
        """Share of the slots' time that was used between two moments of time.monotonic()."""
        spans = [(r.began, r.ended or end) for r in list(self.requests) if r.began is not None]
        return sum(max(0.0, min(b, end) - max(a, start)) for a, b in spans) / (self.slots * (end - start))

    async def _serve(self, http: web.BaseRequest) -> web.StreamResponse:
        body = await http.content.read()
        if self.listener is None:  # accepted in the moment of the kill
            return send(http, Response(drop=True))
        if http.path == "/health":
            return web.Response(status=503 if self.engine_dead else 200)
        if self.api_key and http.headers.get("Authorization") != f"Bearer {self.api_key}":
            self.refused.append(401)
            return send(http, Response(401, body={"error": "Unauthorized"}))
        try:
            if http.path == "/v1/models":
                return web.json_response({"data": [{"id": self.model, "max_model_len": self.max_model_len}]})
            if http.path != "/v1/chat/completions":
                raise Refused(404, "Not Found")
            request = self._let_in(json.loads(body))
        except Exception as e:  # a body of another form breaks anywhere
            refusal = Response(*e.args) if isinstance(e, Refused) else Response(400, repr(e))
            self.refused.append(refusal.status)
            return send(http, refusal)
        response = await self._answered(request)
        request.status = None if response.drop else response.status
        return send(http, response, request.tokens)

    def _let_in(self, body: dict[str, Any]) -> Request:
        if body["model"] != self.model:
            raise Refused(404, f"The model `{body['model']}` does not exist.")
        if "media_io_kwargs" in body and not self.trust:
            raise Refused(400, "Per-request media_io_kwargs are disabled. Set --trust-request-mm-kwargs to allow them.")
        request = parse(body)
        self.seen[request.frames[0]] += 1
        request.number = self.seen[request.frames[0]]
        self.requests.append(request)
        return request

    async def _answered(self, request: Request) -> Response:
        """Wait for the engine's answer, or for its death."""
        work = asyncio.create_task(self._work(request))
        self.working.add(work)
        self.peak = max(self.peak, min(len(self.working), self.slots))
        self.most_waiting = max(self.most_waiting, len(self.working) - self.slots)
        try:
            await asyncio.wait({work})
        finally:
            work.cancel()  # like vLLM, stop when the client has gone
            self.working.discard(work)
            request.ended = time.monotonic()
        return ENGINE_DIED if work.cancelled() else work.result()

    async def _work(self, request: Request) -> Response:
        if self.engine_dead:
            return ENGINE_DIED
        async with self.free:
            request.began = time.monotonic()
            said = self.answer(request)
            response = said if isinstance(said, Response) else Response(text=said)
            await asyncio.sleep(self.latency(request) + response.delay)
            return response


def parse(body: dict[str, Any]) -> Request:
    """Raises Refused, or what Python raises, when it doesn't hold one video as JPEGs."""
    asked = [turn["content"] for turn in body["messages"] if turn["role"] == "user"]
    asked = [[{"type": "text", "text": said}] if isinstance(said, str) else said for said in asked]
    (video,) = (part["video_url"] for said in asked for part in said if part["type"] == "video_url")
    kind, _, data = video["url"].partition(",")
    if kind != "data:video/jpeg;base64":
        raise Refused(400, "Could not open video stream")
    frames = [binascii.a2b_base64(frame, strict_mode=True) for frame in data.split(",")]
    height, width = cv2.imdecode(np.frombuffer(frames[0], np.uint8), cv2.IMREAD_COLOR).shape[:2]
    video["url"] = f"{kind},..."
    return Request(
        body=body,
        frames=frames,
        clip=hashlib.sha256(b"".join(frames)).hexdigest()[:12],
        tokens=100 + -(-len(frames) // 2) * (height // 28) * (width // 28),
        text="\n".join(part["text"] for part in asked[-1] if part["type"] == "text"),
        tries=sum(turn["role"] == "assistant" for turn in body["messages"]),
        timing=body.get("media_io_kwargs", {}).get("video", {}),
        temperature=body.get("temperature"),
        seed=body.get("seed"),
    )


def send(http: web.BaseRequest, said: Response, tokens: int = 0) -> web.Response:
    if said.drop:
        http.transport.abort()
    spent = len(said.text or "") // 4
    usage = {"prompt_tokens": tokens, "completion_tokens": spent, "total_tokens": tokens + spent}
    choice = {"index": 0, "message": {"role": "assistant", "content": said.text}, "finish_reason": said.finish_reason}
    kind = {400: "BadRequestError", 404: "NotFoundError"}.get(said.status, "InternalServerError")
    error = {"error": {"message": said.text, "type": kind, "param": None, "code": said.status}}
    body = error if said.status >= 400 else {"choices": [choice], "usage": usage}
    body = body if said.body is None else said.body
    text, kind = (body, "text/html") if isinstance(body, str) else (json.dumps(body), "application/json")
    return web.Response(status=said.status, text=text, content_type=kind, headers=said.headers)

"""The stand-in for a vLLM server behaves as tests of the captioner take for granted."""

import asyncio
import base64
import json
import time
from typing import Any

import aiohttp
import cv2
import numpy as np
import pytest

from captioning.schema import Caption
from tests.captioning.fake_server import FakeServer, Request, Response

BROKEN = (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError)


def jpegs(seed: int, count: int = 3) -> list[bytes]:
    pictures = np.random.default_rng(seed).integers(0, 255, (count, 56, 84, 3), np.uint8)
    return [cv2.imencode(".jpg", picture)[1].tobytes() for picture in pictures]


def question(frames: list[bytes], **changes: Any) -> dict[str, Any]:
    url = "data:video/jpeg;base64," + ",".join(base64.b64encode(frame).decode() for frame in frames)
    asked = [{"type": "video_url", "video_url": {"url": url}}, {"type": "text", "text": "Describe."}]
    messages = [{"role": "system", "content": "You look."}, {"role": "user", "content": asked}]
    timing = {"fps": 2.0, "frames_indices": [0, 1, 2], "total_num_frames": 3, "duration": 1.5}
    body = {"model": "fake", "messages": messages, "max_tokens": 99, "temperature": 0.5, "seed": 7}
    return {**body, "media_io_kwargs": {"video": timing}, **changes}


async def post(http: aiohttp.ClientSession, server: FakeServer, body: dict[str, Any]) -> tuple[int, str]:
    async with http.post(f"{server.url}/v1/chat/completions", json=body) as reply:
        return reply.status, await reply.text()


def ask(server: FakeServer, *bodies: dict[str, Any], headers: dict[str, str] | None = None) -> list[Any]:
    """All at once; for each, status and text or the exception."""

    async def run() -> list[Any]:
        async with aiohttp.ClientSession(headers=headers, connector=aiohttp.TCPConnector(limit=0)) as http:
            return await asyncio.gather(*(post(http, server, body) for body in bodies), return_exceptions=True)

    return asyncio.run(run())


def health(server: FakeServer) -> int:
    async def run() -> int:
        async with aiohttp.ClientSession() as http, http.get(f"{server.url}/health") as reply:
            return reply.status

    return asyncio.run(run())


def said(reply: tuple[int, str]) -> str:
    assert reply[0] == 200, reply
    return json.loads(reply[1])["choices"][0]["message"]["content"]


def test_the_same_frames_get_the_same_caption_and_others_another():
    with FakeServer() as server:
        first, again, other = ask(server, *(question(jpegs(seed)) for seed in (1, 1, 2)))
    assert said(first) == said(again) != said(other)
    Caption.model_validate_json(said(first))
    reply = json.loads(first[1])
    assert reply["choices"][0]["finish_reason"] == "stop"
    assert reply["usage"]["prompt_tokens"] == 100 + 2 * 2 * 3
    assert sorted(request.number for request in server.requests) == [1, 1, 2]
    assert {request.status for request in server.requests} == {200}


def test_a_request_is_read():
    first = question(jpegs(1))
    turns = [{"role": "assistant", "content": "{}"}, {"role": "user", "content": "Once more."}]
    with FakeServer() as server:
        ask(server, first)
        ask(server, {**first, "messages": first["messages"] + turns})
    one, two = server.requests
    assert (one.frames, one.text, one.tries) == (jpegs(1), "Describe.", 0)
    assert (two.frames, two.text, two.tries, two.number) == (jpegs(1), "Once more.", 1, 2)
    assert (one.temperature, one.seed, one.timing["duration"]) == (0.5, 7, 1.5)


def test_requests_beyond_the_slots_wait():
    with FakeServer(slots=2, latency=lambda request: 0.2) as server:
        start = time.monotonic()
        replies = ask(server, *(question(jpegs(seed)) for seed in range(6)))
        end = time.monotonic()
        share = server.busy_share(start, end)
    assert [reply[0] for reply in replies] == [200] * 6
    assert end - start >= 0.6
    assert (server.peak, server.most_waiting) == (2, 4)
    assert 0.59 / (end - start) < share <= 1
    assert server.busy_share(end, end + 1) == 0


async def in_flight(server: FakeServer, http: aiohttp.ClientSession, count: int) -> list[asyncio.Task[Any]]:
    """Ask for that many clips; returns when the server has got all requests."""
    asked = [asyncio.create_task(post(http, server, question(jpegs(seed)))) for seed in range(count)]
    before = len(server.requests)
    while len(server.requests) < before + count:
        await asyncio.sleep(0.01)
    return asked


def test_a_client_that_leaves_frees_its_place():
    async def leave() -> None:
        async with aiohttp.ClientSession() as http:
            for asked in await in_flight(server, http, 1):
                asked.cancel()

    with FakeServer(slots=1, latency=lambda request: 60 if request.number == 1 else 0) as server:
        asyncio.run(leave())
        assert said(*ask(server, question(jpegs(0))))
    assert [request.status for request in server.requests] == [None, 200]


def test_a_kill_breaks_what_is_in_flight_and_the_port_comes_back():
    async def kill() -> list[Any]:
        async with aiohttp.ClientSession() as http:
            asked = await in_flight(server, http, 4)
            server.kill()
            return await asyncio.wait_for(asyncio.gather(*asked, return_exceptions=True), 5)

    with FakeServer(slots=2) as server:
        url = server.url
        for _ in range(3):
            server.latency = lambda request: 60
            assert all(isinstance(reply, BROKEN) for reply in asyncio.run(kill()))
            with pytest.raises(aiohttp.ClientConnectorError):
                health(server)
            server.start()
            server.latency = lambda request: 0
            assert (server.url, health(server)) == (url, 200)
            assert said(*ask(server, question(jpegs(0))))
    assert [request.status for request in server.requests] == [None, None, None, None, 200] * 3


def test_an_answer_may_kill_its_server_for_a_while():
    def answer(request: Request) -> str:
        if request.number == 1:
            server.kill()
            server.restart_after(0.2)
        return "{}"

    with FakeServer(answer=answer) as server:
        (reply,) = ask(server, question(jpegs(1)))
        assert isinstance(reply, BROKEN)
        deadline = time.monotonic() + 10
        while not isinstance(reply, tuple) and time.monotonic() < deadline:
            (reply,) = ask(server, question(jpegs(1)))
    assert said(reply) == "{}"
    assert server.requests[1].arrived - server.requests[0].ended > 0.1


def test_a_dead_engine_answers_500_until_the_next_start():
    def answer(request: Request) -> Response:
        if request.number == 2:
            server.stop_engine()
        return Response(text="{}", delay=60 if request.number < 3 else 0)

    with FakeServer(answer=answer) as server:
        replies = ask(server, question(jpegs(1)), question(jpegs(1)))
        replies += ask(server, question(jpegs(2)))
        assert all(status == 500 and "EngineCore encountered an issue" in text for status, text in replies)
        assert health(server) == 503
        server.start()
        assert health(server) == 200
        assert said(*ask(server, question(jpegs(1)))) == "{}"
    assert [request.status for request in server.requests] == [500, 500, 500, 200]


def test_faults_on_demand():
    faults = [
        Response(500, "division by zero"),
        Response(429, "Too many", headers={"Retry-After": "1"}),
        Response(text='{"camera": ', finish_reason="length"),
        Response(502, body="<html>Bad gateway</html>"),
        Response(body={}),
        Response(drop=True),
    ]
    with FakeServer(answer=lambda request: faults[request.number - 1]) as server:
        replies = [ask(server, question(jpegs(1)))[0] for _ in faults]
    assert replies[0][0] == 500
    assert json.loads(replies[0][1])["error"]["message"] == "division by zero"
    assert replies[1][0] == 429
    assert json.loads(replies[2][1])["choices"][0]["finish_reason"] == "length"
    assert replies[3] == (502, "<html>Bad gateway</html>")
    assert replies[4] == (200, "{}")
    assert isinstance(replies[5], BROKEN)
    assert [request.status for request in server.requests] == [500, 429, 200, 502, 200, None]


def test_what_vllm_refuses_is_refused():
    video = question(jpegs(1))
    bad = json.loads(json.dumps(video).replace("base64,/9j/", "base64,/9j/*"))
    cases = [
        (question(jpegs(1), model="other"), 404, "The model `other` does not exist."),
        (question(jpegs(1), messages=[{"role": "user", "content": "Hello"}]), 400, ""),
        (bad, 400, "base64"),
        (question([b""]), 400, ""),
        (question([b"no jpeg"]), 400, ""),
        ({"model": "fake"}, 400, "messages"),
    ]
    with FakeServer() as server:
        for body, status, words in cases:
            (reply,) = ask(server, body)
            assert reply[0] == status
            assert words in json.loads(reply[1])["error"]["message"]
    assert not server.requests
    assert server.refused == [status for _, status, _ in cases]
    with FakeServer(trust=False) as server:
        (reply,) = ask(server, video)
        assert reply[0] == 400
        assert "Per-request media_io_kwargs are disabled" in reply[1]


def test_a_key_is_asked_for():
    with FakeServer(api_key="secret") as server:
        assert health(server) == 200
        assert ask(server, question(jpegs(1))) == [(401, '{"error": "Unauthorized"}')]
        assert said(*ask(server, question(jpegs(1)), headers={"Authorization": "Bearer secret"}))

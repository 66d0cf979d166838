"""The client against a server with the same protocol: errors, slow answers, cut JSON, deaths."""

import asyncio
import re
import threading

import cv2
import numpy as np
import pytest
from pydantic import SecretStr

from captioning import client as module
from captioning import servers
from captioning.client import Captioned, Refused, Suspect, open_captioner
from captioning.examples import SPEAKER
from captioning.frames import Frames, jpeg
from captioning.lint import Facts
from captioning.preflight import Ready, preflight
from captioning.servers import NoServer
from captioning.settings import Captioning
from dataset.config import parse
from dataset.errors import RunError, UsageError
from tests.captioning.fake_server import FakeServer, Request, Response, default_answer


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SETTLE", 0.05)
    monkeypatch.setattr(servers, "PROBE", 0.05)
    monkeypatch.delenv("VLLM_API_KEY", raising=False)


def clip(number: int, count: int = 4) -> Frames:
    image = np.full((56, 84, 3), 20, np.uint8)
    pictures = []
    for i in range(count):
        cv2.putText(image, str(number), (2 * i, 40), cv2.FONT_HERSHEY_PLAIN, 2, (255, 255, 255), 2)
        pictures.append(jpeg(image))
    return Frames(tuple(pictures), 2.0, count / 2, 84, 56)


def settings(*fakes: FakeServer, **changes: object) -> Captioning:
    return Captioning(servers=tuple(f.url for f in fakes), **{"patience": 5.0, "timeout": 5.0, **changes})


def ask(
    clips: list[Frames],
    used: Captioning,
    *,
    limit: int = 8,
    facts: Facts = Facts(),
    down: list[str] = [],  # noqa: B006 - read only
    alone: bool = False,
) -> list[object]:
    """Caption all at once: a caption or what was raised, in the order of the clips."""

    async def run() -> list[object]:
        async with open_captioner(used, Ready("fake", down), limit, None, alone=alone) as captioner:
            return await asyncio.gather(*(captioner.caption(c, facts) for c in clips), return_exceptions=True)

    return asyncio.run(run())


def places(answers: list[object]) -> list[str]:
    bad = [a for a in answers if not isinstance(a, Captioned)]
    assert not bad, bad
    return [a.caption.background.place for a in answers if isinstance(a, Captioned)]


def known(fake: FakeServer, clips: list[Frames]) -> list[str]:
    """What the server says of each clip."""
    by_frames = {tuple(r.frames): r.clip for r in fake.requests}
    return [f"a room with the number {by_frames[c.jpegs]}" for c in clips]


def test_every_clip_gets_its_own_caption_whatever_the_order():
    clips = [clip(n, count=2 + n % 5) for n in range(20)]
    with FakeServer(slots=8, latency=lambda r: 0.02 * (hash(r.clip) % 4)) as fake:
        answers = ask(clips, settings(fake))
        assert places(answers) == known(fake, clips)
        assert len(set(places(answers))) == len(fake.requests) == 20
        assert fake.peak <= 8
        assert fake.most_waiting <= 0
        for made, seen in zip(answers, clips, strict=True):
            assert isinstance(made, Captioned)
            assert (made.tries, made.prompt_tokens) == (1, 100 + seen.tokens)


def test_a_request_says_what_was_agreed():
    with FakeServer() as fake:
        ask([clip(1, count=6)], settings(fake))
        (request,) = fake.requests
    body = request.body
    assert request.timing == clip(1, count=6).timing()
    assert request.timing["frames_indices"] == [0, 1, 2, 3, 4, 5]
    assert (request.temperature, body.get("stream", False), body["max_tokens"]) == (0.0, False, 2048)
    assert body["response_format"]["json_schema"]["schema"]["title"] == "Caption"
    assert "3.0 s" in request.text
    assert "6 pictures" in request.text


@pytest.mark.parametrize(
    "fault",
    [
        Response(500, "division by zero"),
        Response(429, "slow down"),
        Response(503, "loading"),
        Response(drop=True),
        Response(body="<html>a proxy's page</html>"),
        Response(text='{"camera": {"angle"', finish_reason="length"),
        Response(text="not JSON"),
        Response(text=""),
        Response(text='{"camera": 1}'),
        Response(text=default_answer("x"), finish_reason="abort"),
        Response(body={"choices": [[[]]], "usage": {"prompt_tokens": 10**30}}),
    ],
)
def test_what_may_pass_is_asked_again(fault):
    def answer(request: Request) -> str | Response:
        return fault if request.number == 1 else default_answer(request.clip)

    clips = [clip(n) for n in range(3)]
    with FakeServer(answer=answer) as fake:
        assert places(ask(clips, settings(fake))) == known(fake, clips)
        assert len(fake.requests) == 6


@pytest.mark.parametrize(
    ("fault", "words", "transient", "asked"),
    [
        (Response(400, "Could not open video stream"), "400 Could not open", False, 1),
        (Response(500, "division by zero"), "healthy server failed on it 2 times: 500 division", False, 2),
        (Response(text='{"camera', finish_reason="length"), "cut after", False, 3),
        (Response(text="nonsense"), "not in form", False, 3),
        (Response(400, "array([" + "0.1, " * 5000), "...", False, 1),
    ],
)
def test_a_poisonous_clip_is_refused_alone(fault, words, transient, asked):
    clips = [clip(n) for n in range(6)]
    bad = clips[3].jpegs[0]
    with FakeServer(answer=lambda r: fault if r.frames[0] == bad else default_answer(r.clip)) as fake:
        answers = ask(clips, settings(fake))
        error = answers.pop(3)
        assert isinstance(error, Refused)
        assert words in str(error)
        assert len(str(error)) < 400
        assert error.remedy
        assert error.transient is transient
        assert places(answers) == known(fake, clips[:3] + clips[4:])
        assert sum(r.frames[0] == bad for r in fake.requests) == asked


def test_a_clip_that_kills_its_server_is_found_among_those_beside_it():
    clips = [clip(n) for n in range(8)]
    bad = clips[5].jpegs[0]

    def answer(request: Request) -> str | Response:
        if request.frames[0] == bad:
            fake.kill()
            fake.restart_after(0.2)
        return default_answer(request.clip)

    with FakeServer(answer=answer, latency=lambda r: 0.05) as fake:
        first = ask(clips, settings(fake))
        assert isinstance(first[5], Suspect)
        suspects = [c for c, answer in zip(clips, first, strict=True) if isinstance(answer, Suspect)]
        answers = dict(zip([c.jpegs for c in suspects], ask(suspects, settings(fake), alone=True), strict=True))
        error = answers.pop(clips[5].jpegs)
        assert isinstance(error, Refused)
        assert "went down under it" in str(error)
        assert not error.transient  # it would end as many again at each resumption
        assert places(list(answers.values())) == known(fake, [c for c in suspects if c is not clips[5]])


@pytest.mark.parametrize("death", ["kill", "stop_engine"])
def test_a_server_that_dies_and_comes_back_loses_nothing(death):
    clips = [clip(n) for n in range(24)]
    with FakeServer(slots=4, latency=lambda r: 0.05) as fake:
        timers = [threading.Timer(0.12, getattr(fake, death)), threading.Timer(0.7, fake.start)]
        for timer in timers:
            timer.start()
        answers = ask(clips, settings(fake), limit=4)
        assert places(answers) == known(fake, clips)
        answered = [r.clip for r in fake.requests if r.status == 200 and r.body["max_tokens"] > 1]  # without trials
        assert len(answered) == len(set(answered)) == 24
        for timer in timers:
            timer.join()


def test_of_two_servers_the_living_one_takes_the_load():
    clips = [clip(n) for n in range(16)]
    with FakeServer(slots=4, latency=lambda r: 0.03) as dying, FakeServer(slots=4, latency=lambda r: 0.03) as living:
        both = settings(dying, living)
        places(ask(clips[:8], both, limit=4))
        assert len(dying.requests) == len(living.requests) == 4  # shared evenly while both live
        dying.kill()
        assert len(set(places(ask(clips, both, limit=4)))) == 16
        assert sum(r.status == 200 for r in living.requests) == 20
        assert living.peak <= 4


def test_a_server_that_comes_back_with_another_model_gets_nothing():
    """It says that it is well, as a server does that was started again with the wrong flags."""
    clips = [clip(n) for n in range(8)]
    with FakeServer(latency=lambda r: 0.03) as good, FakeServer(trust=False) as changed:
        assert places(ask(clips, settings(good, changed))) == known(good, clips)
        assert not any(r.status == 200 for r in changed.requests)
        (refused, *_) = ask(clips[:1], settings(changed))
        assert isinstance(refused, NoServer)
        assert "is fit for this run" in str(refused)
        assert "--trust-request-mm-kwargs" in str(refused)


def test_who_is_down_at_the_start_takes_part_once_it_is_there():
    clips = [clip(n) for n in range(24)]
    with FakeServer(slots=2, latency=lambda r: 0.05) as first, FakeServer(slots=2) as late:
        late.kill()
        timer = threading.Timer(0.2, late.start)
        timer.start()
        assert len(set(places(ask(clips, settings(first, late), limit=2, down=[late.url])))) == 24
        timer.join()
        assert any(r.body["max_tokens"] > 1 for r in late.requests)


def test_no_server_ends_the_run_and_not_the_clips():
    with FakeServer() as fake:
        fake.kill()
        answers = ask([clip(n) for n in range(3)], settings(fake, patience=0.3))
    assert all(isinstance(a, NoServer) and fake.url in str(a) for a in answers)


def test_a_slow_answer_is_given_up_and_a_hung_server_left_alone():
    with FakeServer(latency=lambda r: 30) as slow, FakeServer(latency=lambda r: 0.0) as quick:
        (late,) = ask([clip(1)], settings(slow, timeout=0.3))
        assert isinstance(late, Refused)
        assert "no answer within" in str(late)
        assert late.transient
        assert places(ask([clip(n) for n in range(4)], settings(quick)))


def test_an_objection_goes_back_to_the_model_once():
    def answer(request: Request) -> str:
        words = "soft daylight" if request.tries else "a beautiful light"
        return SPEAKER.model_copy(update={"lighting": words}).model_dump_json()

    with FakeServer(answer=answer) as fake:
        (made,) = ask([clip(1)], settings(fake))
        assert isinstance(made, Captioned)
        assert (made.tries, made.flags, made.caption.lighting) == (2, [], "soft daylight")
        assert "beautiful" in fake.requests[1].text
        assert made.prompt_tokens == 2 * (100 + clip(1).tokens)


def test_what_the_model_insists_on_is_marked():
    stubborn = SPEAKER.model_copy(update={"lighting": "a beautiful light"}).model_dump_json()
    with FakeServer(answer=lambda r: stubborn if r.tries == 0 else "nonsense") as fake:
        (made,) = ask([clip(1)], settings(fake))
    assert isinstance(made, Captioned)
    assert [(f.kind, f.field) for f in made.flags] == [("evaluative", "lighting")]


def test_what_was_measured_is_held_against_the_caption():
    with FakeServer() as fake:
        (made,) = ask([clip(1)], settings(fake), facts=Facts(people=3, faces=3.0))
        assert isinstance(made, Captioned)
        assert {f.kind for f in made.flags} == {"inconsistent"}
        assert len(fake.requests) == 2


# ---------------------------------------------------------------- before the run


def test_preflight_finds_the_model_and_who_is_down():
    with FakeServer(model="qwen") as up, FakeServer() as down:
        down.kill()
        ready = preflight(settings(up, down), None)
        assert (ready.model, ready.down) == ("qwen", [down.url])
        assert [r.body["max_tokens"] for r in up.requests] == [1]


@pytest.mark.parametrize(
    ("fake", "used", "error", "words"),
    [
        ({"trust": False}, {}, UsageError, "--trust-request-mm-kwargs"),
        ({"model": "other"}, {"model": "qwen"}, UsageError, "serves other, not qwen"),
        ({"api_key": "secret"}, {}, UsageError, "VLLM_API_KEY"),
        ({"max_model_len": 8192}, {}, UsageError, "--max-model-len"),
        (None, {}, RunError, "s2v caption serve"),
    ],
)
def test_preflight_stops_what_would_fail_for_every_clip(fake, used, error, words):
    with FakeServer(**(fake or {})) as server:
        if fake is None:
            server.kill()
        with pytest.raises(error, match=re.escape(words)):
            preflight(settings(server, **used), None)


def test_the_key_is_sent_and_not_shown():
    with FakeServer(api_key="secret") as fake:
        assert preflight(settings(fake), SecretStr("secret")).model == "fake"
        with pytest.raises(UsageError) as refused:
            preflight(settings(fake), SecretStr("wrong-key"))
    assert "wrong-key" not in str(refused.value)


def test_addresses_are_checked_where_they_are_typed():
    assert Captioning(servers=("http://a:8000/v1", "http://a:8000/")).servers == ("http://a:8000",)
    for bad in ("a:8000", "ftp://a", "http://user:word@a:8000", "ftp://user:word@a", "user:word@a:8000"):
        with pytest.raises(UsageError, match="address") as refused:
            parse(Captioning, {"servers": [bad]}, "captioning")
        assert "word@" not in str(refused.value)

"""For the report's tests: fabricated datasets of any size with hostile texts, and a headless browser."""

import fcntl
import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import yaml

from curation import layout
from curation.policy import Policy, Rule
from curation.recipe import Recipe
from curation.select import judge
from dataset.records import Failure
from dataset.tables import to_parquet, write_atomically
from filters.base import Filter, Measurement, score

HOSTILE = [
    "<script>alert(1)</script>",
    "</script><img src=x onerror=alert(2)>",
    "quotes ' \" ` and \\ back",
    "\U0001f600 emoji \U0001f3ac",
    "\u202eright to left \u05e9\u05dc\u05d5\u05dd \u0645\u0631\u062d\u0628\u0627",
    "{{facts}} &lt;b&gt; <!-- \u2028 ]]>",
]


class Header(Filter):
    """Facts of the header."""

    class Scores(Measurement):
        duration: float | None = score(unit="s", better="middle", about="length of the clip")
        audio: float | None = score(unit="0 or 1", better="higher", about="1: the source has an audio stream")


class Faces(Filter):
    """Faces over time."""

    class Scores(Measurement):
        visible: float | None = score(unit="share of time", better="higher", about="times with at least one face")
        count: float | None = score(unit="faces", better="lower", about="median number of faces over time")


class Blur(Filter):
    """Sharpness of faces and hands."""

    class Scores(Measurement):
        face: float | None = score(unit="variance, 8-bit luma", better="higher", about="median at 2 frames/s")
        hand: float | None = score(unit="variance, 8-bit luma", better="higher", about="median at 2 frames/s")


POLICY = Policy(
    name="fixture",
    rules=[
        Rule(score="header.duration", min=2.0, source="uncalibrated: a first guess"),
        Rule(score="blur.face", min=80.0, source="a paper, table 3"),
        Rule(score="faces.visible", min=0.7, source="a paper, section 2"),
        Rule(score="faces.count", max=1.0, source="a paper, section 2", hard=False),
    ],
)
CHAIN = (Header(), Faces(), Blur())
DRAWS: Mapping[str, Callable[[np.random.Generator, int], np.ndarray]] = {
    "header.duration": lambda rng, n: rng.gamma(4, 2, n),
    "header.audio": lambda rng, n: (rng.random(n) < 0.9).astype(float),
    "faces.visible": lambda rng, n: rng.beta(4, 1, n),
    "faces.count": lambda rng, n: rng.choice([0, 1, 1, 1, 2, 3], n).astype(float),
    "blur.face": lambda rng, n: rng.lognormal(5, 0.7, n),
    "blur.hand": lambda rng, n: np.where(rng.random(n) < 0.3, np.nan, rng.lognormal(5, 0.9, n)),
}


def fabricate(
    dataset: str,
    n: int,
    *,
    recipe: Recipe | None = None,
    policy: Policy = POLICY,
    draws: Mapping[str, Callable[[np.random.Generator, int], np.ndarray]] = DRAWS,
    pictures: Sequence[bytes] = (),
    seed: int = 0,
) -> None:
    """Write a dataset of `n` clips, of which about 2 % failed. The cascade stops at hard rules."""
    rng = np.random.default_rng(seed)
    here = Path(__file__).resolve()
    recipe = recipe or Recipe(name="fixture", filters=[f"{here}:{f.__name__}" for f in (Header, Faces, Blur)])
    chain = recipe.build()
    ids = [f"{int(x):024x}" for x in rng.integers(0, 2**62, n)]
    failed = np.arange(n) % 50 == 3
    columns, measured, stopped = cascade(chain, policy, draws, rng, n)
    seconds = columns.get("header.duration", rng.gamma(4, 2, n)).clip(0.5)
    write_parts(dataset, layout.CLIPS, clips(ids, seconds, rng))
    scored = scores(ids, chain, columns, measured, stopped, seconds, rng).filter(pa.array(~failed))
    write_parts(dataset, layout.SCORES, scored)
    write_parts(dataset, layout.VERDICTS, judge(scored, policy, [f.name() for f in chain]))
    write_parts(dataset, layout.FAILURES, failures([ids[i] for i in np.flatnonzero(failed)]))
    pictures = pictures or [draw_picture(k) for k in range(5)]
    shown = np.flatnonzero(~failed & (stopped != chain[0].name()))
    jpegs = [pictures[i % len(pictures)] for i in shown]
    thumbs = pa.table({"clip_id": [ids[i] for i in shown], "jpeg": jpegs}, schema=layout.PICTURES)
    write_parts(dataset, layout.THUMBS, thumbs)
    for name, model in (("recipe.yaml", recipe), ("policy.yaml", policy)):
        text = yaml.safe_dump(model.model_dump(exclude_none=True), sort_keys=False, allow_unicode=True)
        write_atomically(dataset, name, text.encode())
    packed = pa.table({"clip_id": ids[: n // 10], "seconds": seconds[: n // 10]})
    write_atomically(dataset, "shards/index.parquet", to_parquet(packed))


def cascade(chain, policy, draws, rng, n) -> tuple[dict, dict, np.ndarray]:
    """Scores as if every filter had run, which filter really ran on which clip, and where each clip stopped."""
    alive, stopped = np.ones(n, bool), np.full(n, None, dtype=object)
    columns, measured = {}, {}
    for made in chain:
        name = made.name()
        measured[name] = alive.copy()
        for part in type(made).Scores.model_fields:
            key = f"{name}.{part}"
            columns[key] = draws.get(key, lambda rng, n: rng.random(n))(rng, n)
            for rule in policy.rules:
                if rule.score == key and rule.hard:
                    low = rule.min is not None
                    hit = alive & (columns[key] < rule.min if low else columns[key] > rule.threshold)
                    stopped[hit] = name
        alive &= stopped == None  # noqa: E711 (an array)
    return columns, measured, stopped


def clips(ids: list[str], seconds: np.ndarray, rng: np.random.Generator) -> pa.Table:
    n = len(ids)
    number = np.arange(n) // 4
    source = [f"/data/{HOSTILE[k]}.mp4" if k < len(HOSTILE) else f"/data/talks/show_{k:05d}.mp4" for k in number]
    start = (np.arange(n) % 4) * 20.0
    caption = [HOSTILE[i % len(HOSTILE)] if i < 12 else f"a person talks about topic {i % 97}" for i in range(n)]
    media = {"width": 1920, "height": 1080, "fps": 25.0, "duration": 90.0, "frames": 2250}
    media |= {"video_codec": "h264", "pix_fmt": "yuv420p", "bit_rate": 4_000_000}
    media |= {"audio_codec": "aac", "audio_rate": 48000, "audio_channels": 2}
    columns = {"clip_id": ids, "source": source, "source_id": [f"{k:08x}" for k in number], "start": start}
    columns |= {"end": start + seconds, "media": [media] * n}
    columns["caption"] = [text if i % 5 else None for i, text in enumerate(caption)]
    return pa.table(columns, schema=layout.SCHEMAS[layout.CLIPS])


def scores(ids, chain, columns, measured, stopped, seconds, rng) -> pa.Table:
    n = len(ids)
    frames = (seconds * 25).astype(int)
    table = {"clip_id": pa.array(ids), "stopped": pa.array(list(stopped), pa.string())}
    names = [made.name() for made in chain]
    ran = np.stack([measured[name] for name in names], axis=1)
    owner, which = np.nonzero(ran)
    offsets = pa.array(np.concatenate([[0], np.cumsum(ran.sum(axis=1))]).astype(np.int32))
    keys = pa.array([names[k] for k in which])
    table["versions"] = pa.MapArray.from_arrays(offsets, keys, pa.array(["0" * 12] * len(owner)))
    table["ms"] = pa.MapArray.from_arrays(offsets, keys, pa.array(rng.gamma(2, 40, len(owner)) * (which + 0.05)))
    table |= {"frames": pa.array(frames), "decoded": pa.array((frames * 1.1).astype(int)), "opens": pa.array([1] * n)}
    for made in chain:
        name = made.name()
        parts = list(type(made).Scores.model_fields)
        arrays = [pa.array(columns[f"{name}.{part}"], from_pandas=True) for part in parts]
        table[name] = pa.StructArray.from_arrays(arrays, parts, mask=pa.array(~measured[name]))
    return pa.table(table)


def failures(ids: Sequence[str]) -> pa.Table:
    broken = [
        Failure(key=i, source="/data/broken.mp4", clip_id=i, stage="measure", error=HOSTILE[k % 2], remedy="look at it")
        for k, i in enumerate(ids)
    ]
    what = {"error": "no video stream", "remedy": "remove it", "transient": True}
    lost = Failure(key="x", source=HOSTILE[4], stage="ingest", **what)
    return layout.rows_of(layout.FAILURES, [*broken, lost])


def write_parts(dataset: str, name: str, rows: pa.Table, size: int = 5000) -> None:
    for at in range(0, rows.num_rows, size):
        layout.table(dataset, name).write(rows.slice(at, size))


def draw_picture(k: int) -> bytes:
    """A strip of three frames."""
    picture = np.full((120, 640, 3), (60 + 30 * k, 120, 200 - 30 * k), np.uint8)
    for at in (106, 320, 533):
        cv2.circle(picture, (at, 60), 30 + k, (230, 230, 230), -1)
    return cv2.imencode(".jpg", picture)[1].tobytes()


# ---------------------------------------------------------------- the browser

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update", "--hide-scrollbars", "--remote-debugging-pipe"),
]


class Browser:
    """Headless Chromium, driven through the DevTools protocol over a pipe."""

    def __init__(self, profile: Path):
        out_of, self.to = os.pipe()
        self.frm, into = os.pipe()
        # High numbers first: the browser wants its ends at 3 and 4, which may be any of these.
        ends = [fcntl.fcntl(fd, fcntl.F_DUPFD, 20) for fd in (out_of, into)]
        command = [str(CHROMIUM), *FLAGS, f"--user-data-dir={profile}", "about:blank"]
        self.process = subprocess.Popen(
            command,
            pass_fds=(3, 4),
            stderr=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            preexec_fn=lambda: (os.dup2(ends[0], 3), os.dup2(ends[1], 4)),
        )
        for fd in (out_of, into, *ends):
            os.close(fd)
        self.buffer, self.number, self.events = b"", 0, []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        self.number += 1
        message = {"id": self.number, "method": method, "params": params}
        if hasattr(self, "session"):
            message["sessionId"] = self.session
        os.write(self.to, json.dumps(message).encode() + b"\0")
        while True:
            answer = self.receive()
            if answer.get("id") == self.number:
                assert "error" not in answer, answer
                return answer["result"]
            self.events.append(answer)

    def receive(self) -> dict[str, Any]:
        while b"\0" not in self.buffer:
            data = os.read(self.frm, 1 << 20)
            assert data, "the browser has ended"
            self.buffer += data
        message, self.buffer = self.buffer.split(b"\0", 1)
        return json.loads(message)

    def run(self, script: str) -> Any:
        """The value of an expression in the page; promises are awaited."""
        answer = self.call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def open(self, path: str, width: int = 1400, height: int = 900, dark: bool = False) -> float:
        """Load a file; returns the seconds until all its clips can be seen."""
        self.events.clear()
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
        self.call("Emulation.setDeviceMetricsOverride", **size)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        began = time.monotonic()
        self.call("Page.navigate", url=Path(path).resolve().as_uri())
        self.wait("location.protocol === 'file:' && document.documentElement?.dataset.ready === 'yes'")
        return time.monotonic() - began

    def wait(self, condition: str, limit: float = 20) -> None:
        end = time.monotonic() + limit
        while not self.run(condition):
            assert time.monotonic() < end, f"waited in vain for {condition}; {self.problems()}"
            time.sleep(0.02)

    def problems(self) -> list[str]:
        """Everything that a developer's console would show as an error or a warning, and dialogs."""
        self.run("new Promise(done => setTimeout(done, 50))")
        bad = ("Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Log.entryAdded", "Page.javascriptDialogOpening")
        return [json.dumps(event) for event in self.events if event.get("method") in bad]

    def close(self) -> None:
        self.process.terminate()
        self.process.wait(10)
        os.close(self.to)
        os.close(self.frm)

"""The real thing: vLLM serves a tiny Qwen2.5-VL, and real clips go through it (`make test-real`)."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from captioning import prompt
from captioning.examples import EXAMPLES
from captioning.schema import Caption
from curation.layout import CAPTIONS, FAILURES, VERDICTS, read
from tests.captioning.tiny_qwen import write_tiny_qwen
from tests.captioning.vllm_server import NAME, VLLM, VllmServer, free_port

pytestmark = pytest.mark.real
ROOT = Path(__file__).parents[2]
IN_FLIGHT = 8


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[VllmServer]:
    if not VLLM.is_file():
        pytest.skip("needs vLLM in an environment of its own: make serve-env")
    folder = tmp_path_factory.mktemp("vllm")
    model = write_tiny_qwen(folder / "model", [prompt.compact(example) for example in EXAMPLES])
    with VllmServer(model, free_port(), folder / "log") as running:
        yield running


@pytest.fixture(scope="module")
def curated(real_clips: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset of real clips of all kinds, kept if they can be read at all."""
    folder = tmp_path_factory.mktemp("curated")
    (folder / "policy.yaml").write_text("name: all\nrules: []\n")
    recipe = {"name": "all", "policy": str(folder / "policy.yaml"), "filters": ["header"]}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    done = s2v("curate", real_clips, "--out", folder / "dataset", "--recipe", folder / "recipe.yaml", "--limit", 26)
    assert done.wait(600) == 0
    return folder / "dataset"


def s2v(*arguments: object) -> subprocess.Popen:
    command = [sys.executable, "-m", "cli", *map(str, arguments)]
    return subprocess.Popen(command, env={**os.environ, "PYTHONPATH": str(ROOT)}, stdin=subprocess.DEVNULL)


def copy(curated: Path, to: Path) -> Path:
    """Everything but captions, by links: a dataset's files are never changed, only replaced."""
    subprocess.run(["cp", "-al", str(curated), str(to)], check=True)
    return to


def caption(dataset: Path, server: VllmServer, *arguments: object) -> subprocess.Popen:
    return s2v("caption", dataset, "--server", server.url, "--concurrency", IN_FLIGHT, *arguments)


def check(dataset: Path) -> list[dict]:
    """Every kept clip has one caption in form; the rows."""
    rows = read(str(dataset), CAPTIONS).to_pylist()
    kept = {row["clip_id"] for row in read(str(dataset), VERDICTS).to_pylist() if row["keep"]}
    failed = [row for row in read(str(dataset), FAILURES).to_pylist() if row["stage"] == "caption"]
    assert not failed
    assert sorted(row["clip_id"] for row in rows) == sorted(kept)
    assert len(rows) >= 24
    for row in rows:
        Caption.model_validate_json(row["structured"])
        assert row["model"] == NAME
    return rows


def test_real_clips_get_captions_in_form_and_in_any_order(server, curated, tmp_path):
    first, second = copy(curated, tmp_path / "first"), copy(curated, tmp_path / "second")
    assert caption(first, server).wait(900) == 0
    rows = check(first)
    assert caption(second, server, "--concurrency", 3).wait(900) == 0
    others = {row["clip_id"]: row for row in check(second)}
    same = [others[row["clip_id"]]["structured"] == row["structured"] for row in rows]
    assert sum(same) >= 0.9 * len(same)  # greedy; but bfloat16 sums depend on who else is in the batch
    once = [row for row in rows if row["tries"] == 1]
    text = [row["prompt_tokens"] - video_tokens(row) for row in once]
    assert once
    assert max(text) - min(text) <= 4  # what is left is the question, up to the digits of its numbers
    assert len({video_tokens(row) for row in once}) > 5
    shard = next((first / "shards").glob("*.tar"))
    assert b'"captions"' in shard.read_bytes()


def video_tokens(row: dict) -> int:
    return -(-row["frames"] // 2) * (row["width"] // 28) * (row["height"] // 28)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_a_server_that_is_killed_and_comes_back_costs_no_clip(server, curated, tmp_path, how):
    dataset = copy(curated, tmp_path / "dataset")
    run = caption(dataset, server)
    try:
        end = time.monotonic() + 300
        while not list((dataset / CAPTIONS).glob("part-*")) and time.monotonic() < end:
            time.sleep(0.1)
        server.kill(how)
        time.sleep(20)
        before = len(read(str(dataset), CAPTIONS))
        assert run.poll() is None, "nothing was left to do when the server died"
        server.restart()
        assert run.wait(900) == 0
    finally:
        run.kill()
    assert before < len(check(dataset))

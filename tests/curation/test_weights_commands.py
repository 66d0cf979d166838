"""`s2v weights`, and what `curate` and `explain` say of weights that are missing."""

import hashlib
from pathlib import Path

import pytest
from rich.console import Console

import cli
from curation import recipe, weights_commands
from curation.explain import score_card
from curation.policy import load_policy
from curation.recipe import Recipe, ensure_weights
from dataset.errors import RunError
from filters import weights
from filters.voice import Voice
from filters.weights import web
from filters.weights.entry import Entry, File
from filters.weights.web import Https

FREE, BOUND = "toy/net.bin", "toy/nc.bin"


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@pytest.fixture(autouse=True)
def shelf(tmp_path, monkeypatch) -> Path:
    """`$S2V_WEIGHTS`, empty, of a registry with two more names that no server has."""
    monkeypatch.setenv("S2V_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("S2V_WEIGHTS", str(tmp_path / "shelf"))
    monkeypatch.delenv("S2V_WEIGHTS_MIRROR", raising=False)
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(web, "PAUSE", 0)
    nowhere = Https("http://127.0.0.1:9/net.bin")
    free = Entry(FREE, nowhere, (File(FREE, sha256(b"free"), 4),), "MIT", about_mb=60)
    bound = Entry(BOUND, nowhere, (File(BOUND),), "S-Lab 1.0: NON-COMMERCIAL", about_mb=240, must_accept=True)
    monkeypatch.setattr(weights, "REGISTRY", {**weights.REGISTRY, FREE: free, BOUND: bound})
    (tmp_path / "shelf" / "toy").mkdir(parents=True)
    return tmp_path / "shelf"


def s2v(capsys, *arguments: str, code: int = 0) -> str:
    with pytest.raises(SystemExit) as ended:
        cli.main(["weights", *arguments])
    captured = capsys.readouterr()
    assert (ended.value.code or 0) == code, captured.err
    return " ".join((captured.out + captured.err).split())


def test_list_shows_licence_and_state(capsys, monkeypatch):
    monkeypatch.setattr(weights_commands, "out", Console(width=200, highlight=False))
    text = s2v(capsys, "list")
    assert f"{FREE} {sha256(b'free')[:8]}" in text
    assert f"{BOUND} (unknown)" in text
    for words in ("licence not accepted", "pose", "NON-COMMERCIAL", "missing"):
        assert words in text


def test_pull_path_and_verify(capsys, shelf):
    assert "Connection refused" in s2v(capsys, "pull", FREE, code=1)
    (shelf / FREE).write_bytes(b"free")
    assert f"{FREE}: there" in s2v(capsys, "pull", FREE)
    assert s2v(capsys, "path", FREE) == str(shelf / FREE)
    assert "good" in s2v(capsys, "verify")
    (shelf / FREE).write_bytes(b"tree")
    assert "wrong" in s2v(capsys, "verify", code=1)
    assert "another file than the one we know" in s2v(capsys, "path", FREE, code=1)


def test_pull_asks_for_consent(capsys, shelf, monkeypatch):
    monkeypatch.setattr(weights_commands, "out", Console(width=200, highlight=False))
    (shelf / BOUND).write_bytes(b"bound")
    assert "NON-COMMERCIAL" in s2v(capsys, "pull", BOUND, code=1)
    assert "accepted S-Lab 1.0" in s2v(capsys, "pull", BOUND, "--accept-licence")
    assert s2v(capsys, "path", BOUND) == str(shelf / BOUND)
    assert f"{BOUND} {sha256(b'bound')[:8]} (first use)" in s2v(capsys, "list")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["pull"], "--recipe paper"),
        (["pull", "dover/DOVR.pth"], "Did you mean 'dover/DOVER.pth'"),
        (["path", "../../etc/passwd"], "There are no weights"),
        (["pull", "--recipe", "papre"], "Did you mean 'paper'"),
    ],
)
def test_mistakes(capsys, arguments, words):
    assert words in s2v(capsys, *arguments, code=2)


class Needy(Voice):
    weights = (FREE, BOUND)


def test_a_run_without_its_weights_fails_with_one_command(shelf):
    with pytest.raises(RunError) as caught:
        ensure_weights([Needy()])
    text = str(caught.value)
    assert f"{BOUND}, 240 MB, from http://127.0.0.1:9/net.bin; licence to be accepted: S-Lab 1.0" in text
    assert f"Get them: s2v weights pull {BOUND} {FREE} --accept-licence" in text
    (shelf / FREE).write_bytes(b"free")
    (shelf / BOUND).write_bytes(b"bound")
    weights.accept(BOUND)
    ensure_weights([Needy()])


def test_small_files_come_unasked(monkeypatch):
    monkeypatch.setattr(Needy, "weights", (FREE,))
    with pytest.raises(RunError, match=r"(?s)missing:.*60 MB.*Get them: s2v weights pull toy/net\.bin$"):
        ensure_weights([Needy()])
    monkeypatch.setattr(recipe, "UNASKED", 61)
    with pytest.raises(RunError, match="Connection refused"):
        ensure_weights([Needy()])


def test_weights_of_a_shipped_recipe_are_got_by_its_name(monkeypatch):
    monkeypatch.setattr(recipe, "UNASKED", 0)
    with pytest.raises(RunError, match=r"Get them: s2v weights pull --recipe embedded$"):
        ensure_weights(Recipe(name="mine", filters=["voice", "pose", "subtitles"]).build())


def test_explain_shows_what_a_filter_looked_at_and_with_which_weights():
    looked = {"frames": 125, "first": 0.0, "last": 4.96, "width": 640, "height": 360}
    row = {
        "versions": [],
        "ms": [],
        "looked": [("needy", looked)],
        "needy": dict.fromkeys(Voice.Scores.model_fields, 0.5),
    }
    console = Console(width=140)
    for one in (row, {name: value for name, value in row.items() if name != "looked"}):  # as older datasets have it
        with console.capture() as got:
            console.print(score_card([Needy()], load_policy("embedded"), one, wide=True))
        text = got.get()
        assert ("125 frames of 640x360, 0.00-4.96 s" in text) == ("looked" in one)
        assert f"{FREE} {sha256(b'free')[:16]}" in text
        assert f"{BOUND} (not on this machine)" in text

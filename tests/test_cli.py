"""The command line teaches, and tells mistakes with the right exit code."""

import subprocess
import sys
from pathlib import Path

import pytest

import cli

COMMANDS = ["curate", "select", "report", "status", "explain", "render-pose", "doctor", "caption", "weights", "chain"]
COMMANDS += [
    "generate",
    "lipsync",
    "convert",
    "info",
    "plan",
    "encode",
    "train",
    "export",
    "submit",
    "jobs",
    "preflight",
]


def run(*args: str) -> tuple[int, str]:
    done = subprocess.run([sys.executable, "-m", "cli", *args], capture_output=True, text=True, timeout=120)
    return done.returncode, done.stdout + done.stderr


def test_help_names_every_command_and_is_quick():
    code, text = run("--help")
    assert code == 0
    assert all(command in text for command in COMMANDS)
    heavy = (
        "import sys, cli; print([m for m in ('ray', 'cv2', 'av', 'pyarrow', 'torch', 'aiohttp') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", heavy], capture_output=True, text=True).stdout.strip() == "[]"


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command, capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main([command, "--help"])
    assert not ended.value.code
    assert len(capsys.readouterr().out) > 200


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["curate"], 2, "Missing"),
        (["curate", "/nowhere.mp4", "--out", "/tmp/x"], 2, "does not exist"),
        (["curate", ".", "--out", "/tmp/x", "--recipe", "embeded"], 2, "Did you mean 'embedded'"),
        (["weights", "pull", "dover/DOVR.pth"], 2, "Did you mean 'dover/DOVER.pth'"),
        (["curate", ".", "--out", "/tmp/x", "--policy", "nope"], 2, "no shipped policy"),
        (["status", "/nowhere"], 2, "is not a dataset"),
        (["nonsense"], 2, "No such command"),
    ],
)
def test_mistakes(arguments, code, words, capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(arguments)
    captured = capsys.readouterr()
    assert ended.value.code == code
    assert words in " ".join((captured.out + captured.err).split())


def test_a_dataset_that_cannot_be_written_is_told_before_the_run(tmp_path, capsys):
    (tmp_path / "a.mp4").write_bytes(b"x")
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(SystemExit) as ended:
        cli.main(["curate", str(tmp_path / "a.mp4"), "--out", str(tmp_path / "file")])
    assert ended.value.code == 1
    assert "Can't write to" in capsys.readouterr().err


def test_doctor_lists_machine_and_weights(capsys):
    with pytest.raises(SystemExit):
        cli.main(["doctor"])
    text = capsys.readouterr().out
    assert all(word in text for word in ("python", "ffmpeg", "mediapipe", "pose", "licence", "dover"))


def test_the_readme_names_only_commands_that_exist():
    text = (Path(__file__).parents[1] / "README.md").read_text()
    named = {line.split("s2v ", 1)[1].split()[0] for line in text.splitlines() if line.startswith("| `s2v ")}
    assert {name.rstrip("`") for name in named} <= set(COMMANDS)

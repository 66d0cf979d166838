"""`s2v submit`: what is checked and how it is rewritten before anything leaves this machine."""

from pathlib import Path

import pytest
import typer
import yaml

import cli
from cluster.job import Job, default_name
from cluster.render import render
from cluster.settings import Cluster, load_cluster
from cluster.words import understand
from dataset.errors import UsageError

COMMANDS = typer.main.get_command(cli.app).commands  # type: ignore[attr-defined]


def submit(*words: str) -> int:
    with pytest.raises(SystemExit) as stopped:
        cli.main(["submit", *words])
    return int(stopped.value.code or 0)


def test_the_example_is_the_defaults_and_names_every_setting(capsys) -> None:
    assert submit("example") == 0
    shown = yaml.safe_load(capsys.readouterr().out)
    assert shown == Cluster().model_dump(mode="json")


def test_a_cluster_file_is_found_and_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cluster.yaml").write_text("slurm: {partition: gpu, nodes: 4}\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("S2V_CLUSTER", raising=False)
    slurm = load_cluster("", ["slurm.nodes=8", "slurm.env.A=b"]).slurm
    assert (slurm.partition, slurm.nodes, slurm.env) == ("gpu", 8, {"A": "b"})


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ("slurm.node=8", "Did you mean 'nodes'"),
        ("slurm.nodes=many", "slurm.nodes"),
        ("nodes=8", "SECTION.KEY=VALUE"),
        ("slurm.nodes.x=8", "there is no slurm.nodes"),
    ],
)
def test_a_wrong_change_says_what_is_right(change: str, told: str) -> None:
    with pytest.raises(UsageError, match=told):
        load_cluster("", [change])


def test_arguments_are_those_of_the_command(capsys) -> None:
    assert submit("curate", "videos", "--out", "data", "--polcy", "x", "--to", "local", "--print") == 2
    assert "--polcy" in capsys.readouterr().err
    assert submit("curate", "videos", "--to", "local", "--print") == 2
    assert "--out" in capsys.readouterr().err
    assert submit("curate", "videos", "--out", "data", "--to", "slurn", "--print") == 2
    assert "Did you mean 'slurm'" in capsys.readouterr().err


def test_paths_hold_everywhere_and_small_files_travel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").write_text("name: mine\n")
    (tmp_path / "list.csv").write_text("path\n")
    words = [
        "list.csv",
        "s3://raw/*.mp4",
        "clips/*.mp4",
        "--out",
        "data/",
        "--recipe=mine.yaml",
        "--policy",
        "embedded",
    ]
    job = understand("curate", COMMANDS["curate"], words, "")
    assert job.home == str(tmp_path / "data")
    assert job.argv == (
        *("curate", f"{tmp_path}/list.csv", "s3://raw/*.mp4", f"{tmp_path}/clips/*.mp4", "--out", f"{tmp_path}/data"),
        *("--recipe", f"{tmp_path}/mine.yaml", "--policy", "embedded"),
    )
    assert {f.name for f in job.files} == {"mine.yaml", "list.csv"}
    assert job.command("/etc/s2v/job").startswith("s2v curate /etc/s2v/job/list.csv 's3://raw/*.mp4'")
    assert "--recipe /etc/s2v/job/mine.yaml" in job.command("/etc/s2v/job")


def test_a_name_is_no_path_whatever_lies_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("speech", "embedded"):
        (tmp_path / name).mkdir()
    job = understand(
        "train", COMMANDS["train"], ["--stage", "speech", "--data", "d", "--init", "i", "--out", "speech"], ""
    )
    assert job.argv == (
        *("train", "--stage", "speech", "--data", f"{tmp_path}/d", "--init", f"{tmp_path}/i"),
        *("--out", f"{tmp_path}/speech"),
    )
    job = understand(
        "curate", COMMANDS["curate"], ["v", "--out", "embedded", "--recipe", "embedded", "--retry-failed"], ""
    )
    assert job.argv == (
        *("curate", f"{tmp_path}/v", "--out", f"{tmp_path}/embedded", "--recipe", "embedded", "--retry-failed"),
    )


def test_what_a_recipe_names_beside_it_travels_too(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(
        "name: x\npolicy: strict.yaml\nfilters: [header, 'own.py:Own', {'b.py:B': {}}]\n"
    )
    for name in ("strict.yaml", "own.py", "b.py", "other.py"):
        (tmp_path / name).touch()
    words = [
        "s3://raw/",
        "--out",
        "s3://b/x",
        "--recipe",
        f"{tmp_path}/mine.yaml",
        "--policy",
        f"{tmp_path}/strict.yaml",
    ]
    job = understand("curate", COMMANDS["curate"], words, "")
    assert {f.name for f in job.files} == {"mine.yaml", "strict.yaml", "own.py", "b.py"}


def test_a_training_job_keeps_its_kinds_of_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["--stage", "film-speech", "--data", "film=a", "--data", "speech=b", "--init", "x", "--out", "runs/one"]
    job = understand("train", COMMANDS["train"], words, "")
    assert job.argv[3:7] == ("--data", f"film={tmp_path}/a", "--data", f"speech={tmp_path}/b")
    assert job.home == f"{tmp_path}/runs/one"
    assert job.name == default_name("train", job.home)


def test_names_are_such_that_every_place_takes_them() -> None:
    name = default_name("curate", "s3://bucket/Täg_Data.v2/")
    assert Job("curate", name, ("curate",)).name.startswith("curate-t-g-data-v2-")
    assert default_name("curate", "a/data") != default_name("curate", "b/data")
    with pytest.raises(UsageError, match="--name"):
        Job("curate", "My_Job", ("curate",))


def test_a_value_can_be_nothing_but_a_value(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is in it: a template never becomes another one by it."""
    nasty = "x: y\n- '$(rm -rf /)' \"# {{ 1 }}"
    monkeypatch.setattr("cluster.render.TEMPLATES", tmp_path)
    (tmp_path / "t.yaml").write_text("a: {{ value }}\n")
    (tmp_path / "t.sh").write_text("printf %s {{ value }}\n")
    import subprocess

    assert yaml.safe_load(render("t.yaml", value=nasty)) == {"a": nasty}
    said = subprocess.run(["bash", "-c", render("t.sh", value=nasty)], capture_output=True, text=True, check=True)
    assert said.stdout == nasty

"""The images: built from what is here, at versions that are named, and without rights."""

import re
import tomllib
from pathlib import Path

import pytest

from captioning.serve import VLLM
from cluster.kuberay import IMAGES
from cluster.settings import Images

ROOT = Path(__file__).parents[2]
CONTAINERS = ROOT / "containers"
NAMES = ["curation", "trainer", "caption-server"]


def lines(name: str) -> list[str]:
    """Instructions, each in one line."""
    text = (CONTAINERS / f"{name}.Dockerfile").read_text()
    joined = re.sub(r"\\\n", " ", "".join(line for line in text.splitlines(True) if not line.startswith("#")))
    return [line for line in joined.splitlines() if line.strip()]


def test_each_image_of_the_settings_has_its_file() -> None:
    assert {name.replace("_", "-") for name in Images.model_fields} == set(NAMES)
    assert set(IMAGES.values()) < set(Images.model_fields)
    assert {path.name for path in CONTAINERS.iterdir()} == {f"{name}.Dockerfile" for name in NAMES}


@pytest.mark.parametrize("name", NAMES)
def test_bases_are_exact_versions(name: str) -> None:
    given = dict(re.findall(r"^ARG (\w+)=(\S+:\S+)$", "\n".join(lines(name)), re.MULTILINE))
    bases = re.findall(r"^FROM \$\{(\w+)\}", "\n".join(lines(name)), re.MULTILINE)
    assert len(bases) > 1  # what builds stays behind
    for base in bases:
        assert re.fullmatch(r"[-./\w]+:v?\d+\.\d+\.\d+(-[-\w]+)?", given[base])


@pytest.mark.parametrize("name", NAMES)
def test_packages_are_those_that_the_tests_ran_with(name: str) -> None:
    for line in lines(name):
        for install in re.findall(r"pip install[^&]*", line):
            assert "constraints.txt" in install or "--no-deps" in install


@pytest.mark.parametrize("name", NAMES)
def test_it_ends_as_the_user_that_the_pods_are(name: str) -> None:
    users = [line.split()[1] for line in lines(name) if line.startswith("USER ")]
    assert users == ["1000:1000"]
    assert "runAsUser: 1000" in (ROOT / "cluster/templates/kuberay-pod.yaml").read_text()


@pytest.mark.parametrize("name", NAMES)
def test_what_is_copied_is_here_and_not_ignored(name: str) -> None:
    kept = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = [
        word.rstrip("/") for line in lines(name) if re.match(r"COPY (?!--from)", line) for word in line.split()[1:-1]
    ]
    assert copied
    for path in copied:
        assert (ROOT / path).exists()
        assert path in kept
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    packages = {package.rstrip("*") for package in project["packages"]["find"]["include"]}
    assert packages <= set(copied)


def test_the_caption_server_is_the_vllm_whose_flags_we_know() -> None:
    assert f"ARG BASE=vllm/vllm-openai:v{VLLM}" in lines("caption-server")

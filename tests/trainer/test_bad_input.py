"""What a person can get wrong about `s2v train` and `s2v export` is told in a sentence, before there are processes."""

import shutil

import pytest

pytest.importorskip("deepspeed")

from cli import main
from tests.trainer.runs import write_latents


@pytest.fixture(scope="module")
def latents(tmp_path_factory):
    return write_latents(tmp_path_factory.mktemp("latents"))


@pytest.fixture
def told(tiny, latents, tmp_path, capfd):
    """Of a command, with what it needs where a test says nothing else: a dry run."""

    def tell(*words: str, code: int = 2, **options: str) -> str:
        given = {"--stage": "tiny", "--data": latents, "--init": tiny, "--out": tmp_path / "run"}
        given |= {f"--{name}": value for name, value in options.items()}
        command = ["train", *(str(w) for pair in given.items() if pair[1] != "" for w in pair), "--dry-run", *words]
        with pytest.raises(SystemExit) as ended:
            main(command)
        assert (ended.value.code or 0) == code
        text = " ".join(capfd.readouterr().err.split())
        assert "Traceback" not in text
        return text

    return tell


def test_a_dry_run_says_what_would_run_and_writes_nothing(told, tmp_path):
    text = told(code=0)
    assert "500 updates of 4 clips" in text
    assert "Ulysses 1 x ring 1" in text
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"stage": "speach"}, ["speach", "Did you mean 'speech'"]),
        ({"data": ""}, ["--data", "shards"]),
        ({"init": ""}, ["--init", "checkpoint"]),
        ({"out": ""}, ["--out"]),
        ({"data": "nowhere"}, ["nowhere"]),
        ({"init": "nowhere"}, ["nowhere", "does not exist"]),
        ({"set": "optimiser.rat=1"}, ["optimiser.rat", "Did you mean 'rate'"]),
        ({"set": "optimiser"}, ["optimiser", "key=value"]),
        ({"set": "steps=none"}, ["steps", "integer"]),
        ({"set": "trains=[nothing.*]"}, ["trains"]),
        ({"set": "tokens=20"}, ["tokens"]),
        ({"set": "mixture={film: 1.0}"}, ["film"]),
        ({"set": "zero.reduce_scatter=false"}, ["unknown key", "reduce_scatter"]),
        ({"processes": "3", "set": "sequence=2"}, ["3 ranks do not divide into groups of 2"]),
        ({"processes": "3", "set": "ulysses=3"}, ["ulysses=3", "4 heads"]),
        ({"processes": "3", "set": "sequence=1"}, ["batch=4", "3 groups"]),
        ({"resume": "nowhere"}, ["--resume", "nothing beside it"]),
    ],
    ids=lambda value: "-".join(f"{k}={v}" for k, v in value.items()) if isinstance(value, dict) else "",
)
def test_mistakes_are_told(told, options, words):
    text = told(**options)
    assert all(word in text for word in words), text


def test_a_folder_that_is_something_else_is_not_written_to(told, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.txt").write_text("important")
    assert "exists and is no run" in told()


def test_a_checkpoint_that_lacks_a_tensor_is_refused(told, tiny, tmp_path):
    broken = tmp_path / "broken"
    shutil.copytree(tiny, broken)
    next(broken.glob("diffusion*00002.safetensors")).unlink()
    assert "lacks" in told(init=str(broken))


def test_exporting_what_is_no_run_is_refused(tiny, tmp_path, capfd):
    with pytest.raises(SystemExit) as ended:
        main(["export", str(tiny), "--out", str(tmp_path / "out")])
    assert ended.value.code == 2
    assert "no checkpoint of a run" in " ".join(capfd.readouterr().err.split())

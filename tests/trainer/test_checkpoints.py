"""Checkpoints of a run: any number of ranks reads them; damaged and hostile ones are told in one sentence."""

import json
import multiprocessing
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from model.errors import CheckpointError
from tests.tiny_checkpoint import CONFIG
from trainer import checkpoints
from trainer.checkpoints import MANIFEST, MASTER, WEIGHT, Parts, Saved, network_shapes, newest, read_saved
from trainer.run_files import name_of

SHAPES = network_shapes(CONFIG, Path("tiny"))
TRAINED = [name for name in SHAPES if name.startswith("blocks.0.")]
NAME = TRAINED[0]


def values(name: str) -> torch.Tensor:
    return torch.randn(SHAPES[name], generator=torch.Generator().manual_seed(len(name))).flatten()


def write(run: Path, step: int, world: int = 2) -> Path:
    """A whole checkpoint: each rank has ceil(n / world) numbers of each parameter, the last one what is left."""
    folder, files = run / ".partial", {}
    folder.mkdir()
    for rank in range(world):

        def tensors(rank=rank):
            for name in SHAPES:
                size = -(-len(values(name)) // world)
                piece = values(name)[rank * size : (rank + 1) * size]
                yield f"{MASTER if name in TRAINED else WEIGHT}/{name}", piece
                if name in TRAINED:
                    yield f"exp_avg/{name}", -piece

        files |= checkpoints.write_part(folder, rank, tensors())
    saved = Saved(
        step=step,
        updates=step,
        world=world,
        config=CONFIG,
        stage={},
        parts="/parts",
        parameters=SHAPES,
        trained=TRAINED,
        files=files,
        data="digest",
    )
    checkpoints.finish(folder, run / name_of(step), saved)
    return run / name_of(step)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return write(tmp_path_factory.mktemp("run"), 7)


@pytest.fixture
def folder(whole, tmp_path):
    """One to damage."""
    return Path(shutil.copytree(whole, tmp_path / whole.name))


@pytest.mark.parametrize("world", [1, 3, 64])
def test_any_piece_is_read_from_any_number_of_ranks(world, tmp_path):
    parts = Parts(write(tmp_path, 1, world))
    for name in SHAPES:
        numbers, cut = values(name), len(values(name)) // 3
        for first, last in ((0, len(numbers)), (cut, 2 * cut + 1), (len(numbers), len(numbers))):
            assert torch.equal(parts.read(parts.weights(name), name, first, last), numbers[first:last])
    assert sorted(parts.kinds(NAME)) == ["exp_avg", MASTER]
    assert torch.equal(parts.read("exp_avg", NAME, 0, 5), -values(NAME)[:5])
    assert parts.saved.config == CONFIG
    assert (parts.saved.step, parts.saved.updates, parts.saved.data) == (1, 1, "digest")


def change(**changes):
    return lambda content: content | changes


def rename(content):
    """A file's entry leads out of the folder."""
    files = dict(content["files"])
    files["../" + next(iter(files))] = files.popitem()[1]
    return content | {"files": files}


def of_config(**changes):
    return lambda content: content | {"config": content["config"] | changes}


def misshapen(content):
    return content | {"parameters": content["parameters"] | {NAME: [1]}}


LIES = {
    "other version": change(format="s2v-training-1"),
    "unknown key": change(more=1),
    "no step": lambda content: {name: value for name, value in content.items() if name != "step"},
    "negative step": change(step=-1),
    "more updates than steps": change(updates=8),
    "no ranks": change(world=0),
    "too many ranks": change(world=10**15),
    "too few ranks": change(world=1),
    "no files": change(files={}),
    "files are a list": change(files=[1]),
    "a file elsewhere": rename,
    "no parameters": change(parameters={}),
    "a shape": misshapen,
    "a negative shape": change(parameters={NAME: [-1]}),
    "trained what isn't there": change(trained=["nothing"]),
    "no heads": of_config(num_heads=0),
    "no whole heads": of_config(num_heads=3),
    "endless blocks": of_config(num_layers=10**12),
    "text for a number": of_config(dim="wide"),
    "layers beyond": of_config(audio_inject_layers=[99]),
    "another network": of_config(ffn_dim=256),
    "an unknown setting": of_config(colour=3),
    "no config": change(config=None),
}


@pytest.mark.parametrize("lie", LIES.values(), ids=LIES.keys())
def test_a_manifest_that_makes_no_sense_is_told_in_one_sentence(lie, folder):
    file = folder / MANIFEST
    file.write_text(json.dumps(lie(json.loads(file.read_text()))))
    with pytest.raises(CheckpointError) as told:
        read_saved(folder)
    assert "\n" not in str(told.value)
    assert newest(folder.parent) == (None, [str(told.value)])


@pytest.mark.parametrize("text", ["", "[]", "[" * 100_000, '{"step": ' + "9" * 5000 + "}"])
def test_a_manifest_that_is_no_manifest(text, folder):
    (folder / MANIFEST).write_text(text)
    with pytest.raises(CheckpointError):
        read_saved(folder)


def test_files_that_are_missing_or_shorter_are_noticed(folder):
    file = next(folder.glob("rank-00001-*"))
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match="another length"):
        read_saved(folder)
    file.unlink()
    with pytest.raises(CheckpointError, match="missing"):
        read_saved(folder)
    file.mkdir()
    with pytest.raises(CheckpointError, match="missing"):
        read_saved(folder)


@pytest.mark.parametrize("damage", ["gone", "shorter"])
def test_a_piece_that_is_missing_is_noticed_when_it_is_read(damage, folder):
    """One number would otherwise be taken for as many as are wanted."""
    file, key = next(folder.glob("rank-00001-*")), f"{MASTER}/{NAME}"
    tensors = load_file(file)
    tensors |= {key: tensors.pop(key)[:1].clone()} if damage == "shorter" else {"other": tensors.pop(key)}
    save_file(tensors, file)
    manifest = folder / MANIFEST
    content = json.loads(manifest.read_text())
    content["files"][file.name] = file.stat().st_size
    manifest.write_text(json.dumps(content))
    parts = Parts(folder)
    parts.read(MASTER, NAME, 0, 1)
    with pytest.raises(CheckpointError, match="rank 1"):
        parts.read(MASTER, NAME, 0, len(values(NAME)))


# ---------------------------------------------------------------- what stays


def run_of(whole: Path, run: Path, *steps: int) -> Path:
    for step in steps:
        shutil.copytree(whole, run / name_of(step))
    return run


def names(run: Path) -> list[str]:
    return sorted(path.name for path in run.iterdir())


def test_damaged_checkpoints_do_not_push_a_whole_one_out(whole, tmp_path):
    run = run_of(whole, tmp_path, 1, 2, 3, 4)
    for step in (3, 4):
        (run / name_of(step) / MANIFEST).unlink()
    checkpoints.thin_out(run, 2, run / "step-000002")
    assert names(run) == [f"step-00000{step}" for step in (1, 2, 3, 4)]
    checkpoints.thin_out(run, 1, run / "step-000002")
    assert names(run) == [f"step-00000{step}" for step in (2, 3, 4)]


def test_the_checkpoint_just_written_stays(whole, tmp_path):
    run = run_of(whole, tmp_path, 1, 2, 3)
    checkpoints.thin_out(run, 1, run / "step-000001")
    assert names(run) == ["step-000001", "step-000003"]


def test_what_cannot_be_removed_fails_nothing(whole, tmp_path, monkeypatch):
    def refuse(*_):
        raise PermissionError("no")

    run = run_of(whole, tmp_path, 1, 2)
    monkeypatch.setattr(Path, "rename", refuse)
    checkpoints.thin_out(run, 1, run / "step-000002")
    assert names(run) == ["step-000001", "step-000002"]


def test_leftovers_of_interrupted_saves_are_swept(whole, tmp_path):
    run = run_of(whole, tmp_path, 1)
    for name in (".step-000002.partial", ".step-000001.gone", ".run.json.partial", "samples"):
        (run / name).mkdir()
    checkpoints.sweep(run)
    assert names(run) == [".run.json.partial", "samples", "step-000001"]


# ---------------------------------------------------------------- updates that were skipped


def test_a_run_goes_on_exactly_after_skipped_updates(tmp_path):
    """In a process of its own, for its process group."""
    pytest.importorskip("deepspeed")
    process = multiprocessing.get_context("spawn").Process(target=skip_and_resume, args=(tmp_path,))
    process.start()
    process.join(200)
    assert process.exitcode == 0


def skip_and_resume(run: Path) -> None:
    from tests.trainer.examples import example
    from trainer.ranks import arrange
    from trainer.stages import find_stage
    from trainer.state import State, load_weights
    from trainer.update import Updater
    from trainer.zero import deepspeed_config, make_network, start_engine

    stage = find_stage("tiny", ["batch=1"])
    ranks = arrange(stage, CONFIG.num_heads)
    good = example("a")
    bad = good.with_tensors(good.tensors() | {"latent": good.latent * float("nan")})

    def make() -> State:
        settings = deepspeed_config(stage, 1, on_gpu=False)
        objective = make_network(CONFIG, stage, settings)
        return State(objective.network, start_engine(objective, stage, settings), stage)

    def train(state: State, step: int, sample=good):
        return Updater(state.engine, stage, ranks)(step, [sample])

    def saved_and_loaded(state: State, step: int) -> State:
        assert state.save(run, step, stage, "/parts", ranks, data="") == ""
        parts, other = Parts(run / name_of(step)), make()
        load_weights(other.network, parts)
        other.restore(parts)
        assert other.updates == parts.saved.updates == state.updates
        return other

    state = make()
    assert not train(state, 0, bad).applied
    other = saved_and_loaded(state, 1)  # before any update: there are no states of the optimiser
    assert state.updates == 0
    assert [train(state, step) for step in (1, 2)] == [train(other, step) for step in (1, 2)]
    assert not train(state, 3, bad).applied
    other = saved_and_loaded(state, 4)
    assert state.updates == 2
    assert [train(state, step) for step in (4, 5)] == [train(other, step) for step in (4, 5)]
    for (name, ours), (_, theirs) in zip(state.tensors(), other.tensors(), strict=True):
        assert torch.equal(ours, theirs), name

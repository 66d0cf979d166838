import ast
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from model.checkpoint import PARTS, Checkpoint, load_network, network_config
from model.config import S2VConfig
from model.errors import CheckpointError
from model.names import from_official, official_names
from model.network import S2VModel
from model.tensor_files import on_meta, shapes_of
from tests.conftest import shared
from tests.model import digests
from tests.tiny_checkpoint import CONFIG

FIRST, SECOND = (f"diffusion_pytorch_model-0000{i}-of-00002.safetensors" for i in (1, 2))
INDEX = "diffusion_pytorch_model.safetensors.index.json"
BIAS = "patch_embedding.bias"


def official_shapes() -> dict[str, tuple[int, ...]]:
    config = S2VConfig()
    shapes = shapes_of(on_meta(lambda: S2VModel(config), Path()).state_dict())
    return {official: shapes[ours] for official, ours in official_names(shapes, config).items()}


def test_the_official_files_have_these_names_and_shapes() -> None:
    assert digests.digest(official_shapes()) == digests.NETWORK


def test_the_official_list_of_parameters_is_ours() -> None:
    listed = shared("golden/s2v/state_dict_14b.txt")
    lines = (line.split(" ", 1) for line in listed.read_text().splitlines())
    assert official_shapes() == {name: ast.literal_eval(shape) for name, shape in lines}


def test_parameters_by_group() -> None:
    config = S2VConfig()
    groups = dict.fromkeys(config.parameters(), 0)
    for name, parameter in on_meta(lambda: S2VModel(config), Path()).named_parameters():
        groups["audio_injector" if ".audio_injector." in name else name.split(".")[0]] += parameter.numel()
    assert groups == config.parameters()
    assert groups["audio_injector"] == 1_887_928_320
    assert groups["audio_encoder"] == 95_051_545
    assert sum(groups.values()) == 16_295_755_609


def shards(folder: Path) -> dict[str, Tensor]:
    return {name: tensor for file in sorted(folder.glob("*.safetensors")) for name, tensor in load_file(file).items()}


def check_network(folder: Path) -> S2VModel:
    network = load_network(folder, "cpu", dtype=None)
    loaded = network.state_dict()
    stored = {from_official(name, network.config): tensor for name, tensor in shards(folder).items()}
    assert loaded.keys() == stored.keys()
    for name, tensor in stored.items():
        assert loaded[name].dtype == tensor.dtype
        assert torch.equal(loaded[name], tensor), name
    return network


def test_every_tensor_is_loaded_as_stored(tiny: Path) -> None:
    network = check_network(tiny)
    assert network.config == CONFIG
    assert all(parameter.requires_grad for parameter in network.parameters())
    assert {p.dtype for p in load_network(tiny, "cpu", torch.float32).parameters()} == {torch.float32}


def test_the_official_code_s_own_checkpoint_is_loaded() -> None:
    folder = shared("golden/s2v/tiny_ckpt")
    assert check_network(folder).config.text_dim == 32
    assert Checkpoint.open(folder).absent() == ["vae", "text_encoder", "tokenizer", "speech_encoder"]


@pytest.fixture
def broken(tiny: Path, tmp_path: Path) -> Path:
    return shutil.copytree(tiny, tmp_path / "broken")


def edit(file: Path, **changes: object) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def change_shard(folder: Path, change: Callable[[dict[str, Tensor]], object]) -> None:
    file = next(f for f in sorted(folder.glob("*.safetensors")) if BIAS in load_file(f))
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file)


def swap(tensors: dict[str, Tensor]) -> None:
    tensors["lora_A.weight"] = tensors.pop(BIAS)


FAULTS = {
    "a missing tensor": (lambda f: change_shard(f, lambda t: t.pop(BIAS)), rf"lacks {BIAS}"),
    "another tensor": (lambda f: change_shard(f, swap), rf"lacks {BIAS}; has unexpected lora_A\.weight"),
    "a misshapen tensor": (
        lambda f: change_shard(f, lambda t: t.update({BIAS: torch.zeros(3)})),
        rf"misshapen {BIAS} \(3,\) instead of \(64,\)",
    ),
    "a truncated file": (
        lambda f: (f / SECOND).write_bytes((f / SECOND).read_bytes()[:-10]),
        f"{SECOND} is truncated",
    ),
    "a pointer instead of a file": (
        lambda f: (f / FIRST).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n"),
        f"{FIRST} is only a Git LFS pointer",
    ),
    "an absent shard": (lambda f: (f / SECOND).unlink(), f"{INDEX} names {SECOND}, which .* lacks"),
    "a path out of the folder": (
        lambda f: edit(f / INDEX, weight_map={"a": "../other.safetensors"}),
        r"names \.\./other\.safetensors: only safetensors files beside it",
    ),
    "an index of nothing": (lambda f: edit(f / INDEX, weight_map=[]), "no weight_map"),
    "the same tensors twice": (
        lambda f: ((f / INDEX).unlink(), shutil.copy(f / SECOND, f / "diffusion_pytorch_model.safetensors")),
        "hold the same tensors",
    ),
    "no JSON": (lambda f: (f / "config.json").write_text("{"), r"config\.json can't be read as JSON"),
    "a variant": (lambda f: edit(f / "config.json", enable_motioner=True), r"config\.json .* enable_motioner=False"),
    "no heads": (lambda f: edit(f / "config.json", num_heads=0), r"config\.json can't be used"),
    "words for numbers": (lambda f: edit(f / "config.json", freq_dim="wide"), "makes no sense"),
    "another number of layers": (lambda f: edit(f / "config.json", num_layers=5), r"lacks blocks\.4\..* and 2\d more"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_broken_network_is_named_before_it_is_read(broken: Path, fault: str) -> None:
    damage, message = FAULTS[fault]
    damage(broken)
    with pytest.raises(CheckpointError, match=message):
        load_network(broken, "cpu")


def other(folder: Path, name: str, **content: object) -> Path:
    folder.mkdir()
    (folder / name).write_text(json.dumps(content))
    return folder


def lora(folder: Path) -> Path:
    folder.mkdir()
    save_file({"blocks.0.self_attn.q.lora_A.weight": torch.zeros(2, 2)}, folder / "pytorch_lora_weights.safetensors")
    return folder


STRANGERS = {
    "does not exist": lambda f: f / "nowhere",
    "is a file": lambda f: shutil.copy(__file__, f / "file"),
    "is empty: hf download Wan-AI/Wan2.2-S2V-14B": lambda f: f,
    "other in it is: give that folder": lambda f: other(f / "other", "config.json", model_type="s2v").parent,
    r"of another type \(t2v\)": lambda f: other(f / "other", "config.json", model_type="t2v"),
    r"diffusers pipeline \(WanPipeline\)": lambda f: other(f / "other", "model_index.json", _class_name="WanPipeline"),
    "holds a LoRA": lambda f: lora(f / "other"),
    r"holds notes\.txt, and no part": lambda f: other(f / "other", "notes.txt"),
}


@pytest.mark.parametrize("message", STRANGERS)
def test_something_else_is_told_what_it_looks_like(tmp_path: Path, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        Checkpoint.open(STRANGERS[message](tmp_path))


def test_absent_parts_are_named_with_the_command_that_gets_them(broken: Path) -> None:
    checkpoint = Checkpoint.open(broken)
    assert checkpoint.missing() == []
    checkpoint.require()
    (broken / "Wan2.1_VAE.pth").unlink()
    (broken / "wav2vec2-large-xlsr-53-english/preprocessor_config.json").unlink()
    assert checkpoint.absent() == ["vae", "speech_encoder"]
    vae, speech = checkpoint.missing()
    assert vae == (
        f"the VAE is missing ({broken}/Wan2.1_VAE.pth). Get it with: "
        f"hf download Wan-AI/Wan2.2-S2V-14B --include 'Wan2.1_VAE.pth' --local-dir {broken}"
    )
    assert "preprocessor_config.json" in speech
    assert "--include 'wav2vec2-large-xlsr-53-english/*'" in speech
    checkpoint.require("network", "text_encoder")
    with pytest.raises(CheckpointError, match="the VAE is missing"):
        checkpoint.require("network", "vae")


def test_a_download_that_has_just_begun_is_a_checkpoint(broken: Path) -> None:
    for file in [*broken.glob("*.safetensors"), broken / "config.json"]:
        file.unlink()
    checkpoint = Checkpoint.open(broken)
    assert checkpoint.official
    assert checkpoint.absent() == ["network"]
    with pytest.raises(CheckpointError, match="the network is missing"):
        load_network(broken, "cpu")


def test_the_configuration_without_the_weights_in_memory(tiny: Path) -> None:
    assert network_config(Checkpoint.open(tiny)) == CONFIG
    assert {Checkpoint.open(tiny).path(part).exists() for part in PARTS} == {True}

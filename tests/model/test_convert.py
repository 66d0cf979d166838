import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKLWan
from transformers import UMT5EncoderModel, Wav2Vec2Model

from model.checkpoint import PARTS, Checkpoint, load_network
from model.convert import convert
from model.errors import CheckpointError, WorkError
from model.speech_encoder import load_speech_encoder
from model.text_encoder import load_text_encoder
from model.vae import load_vae
from tests.conftest import shared


@pytest.fixture(scope="module")
def ours(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("converted") / "ours"
    assert convert(tiny, target) == []
    return target


def check_same_files(first: Path, second: Path) -> None:
    """Byte for byte, but for what the network's configuration says of how it was initialised and saved."""
    files = {file.relative_to(first) for file in first.rglob("*") if file.is_file()}
    assert files == {file.relative_to(second) for file in second.rglob("*") if file.is_file()}
    for file in files - {Path("config.json")}:
        assert (first / file).read_bytes() == (second / file).read_bytes(), file
    configs = [json.loads((folder / "config.json").read_text()) for folder in (first, second)]
    for config in configs:
        config.pop("zero_init")
        config.pop("_diffusers_version", None)
    assert configs[0] == configs[1]


def test_there_and_back_gives_the_same_files(tiny: Path, ours: Path, tmp_path: Path) -> None:
    assert convert(ours, tmp_path / "back") == []
    check_same_files(tiny, tmp_path / "back")


def test_the_official_code_s_own_checkpoint_comes_back(tmp_path: Path) -> None:
    folder = shared("golden/s2v/tiny_ckpt")
    absent = ["vae", "text_encoder", "tokenizer", "speech_encoder"]
    assert convert(folder, tmp_path / "ours") == absent
    assert convert(tmp_path / "ours", tmp_path / "back") == absent
    check_same_files(folder, tmp_path / "back")


def test_both_layouts_compute_the_same(tiny: Path, ours: Path) -> None:
    official, converted = Checkpoint.open(tiny), Checkpoint.open(ours)
    assert converted.missing() == []
    networks = [load_network(c.folder, "cpu", dtype=None) for c in (official, converted)]
    assert networks[0].config == networks[1].config
    for (name, one), (_, other) in zip(*(n.state_dict().items() for n in networks), strict=True):
        assert torch.equal(one, other), name
    video = torch.rand(3, 5, 32, 32)
    assert torch.equal(*(load_vae(c.path("vae"), "cpu").encode(video) for c in (official, converted)))
    texts = [
        load_text_encoder(c.path("text_encoder"), c.path("tokenizer"), "cpu").encode(["a man sings"])[0]
        for c in (official, converted)
    ]
    assert texts[0].dtype == torch.bfloat16
    assert torch.equal(*texts)
    track = np.random.default_rng(0).standard_normal(8000).astype(np.float32)
    speech = [load_speech_encoder(c.path("speech_encoder")).states(track) for c in (official, converted)]
    assert torch.equal(*speech)


def test_our_folders_are_the_libraries_own(tiny: Path, ours: Path) -> None:
    vae = AutoencoderKLWan.from_pretrained(ours / "vae")
    text_encoder = UMT5EncoderModel.from_pretrained(ours / "text_encoder", dtype="auto")
    speech_encoder = Wav2Vec2Model.from_pretrained(ours / "audio_encoder")
    pairs = [(vae, load_vae(tiny / "Wan2.1_VAE.pth", "cpu"))]
    official = Checkpoint.open(tiny)
    pairs.append((text_encoder, load_text_encoder(official.path("text_encoder"), official.path("tokenizer"), "cpu")))
    pairs.append((speech_encoder, load_speech_encoder(official.path("speech_encoder"))))
    for library, own in pairs:
        theirs = library.state_dict()
        for name, tensor in own.network.state_dict().items():
            assert torch.equal(theirs[name], tensor), name


def test_others_can_read_what_was_written(ours: Path) -> None:
    modes = {file.stat().st_mode for file in ours.rglob("*") if file.is_file()}
    assert modes == {(ours / "transformer/config.json").stat().st_mode}


def test_progress_names_every_part(tiny: Path, tmp_path: Path) -> None:
    lines: list[str] = []
    convert(tiny, tmp_path / "ours", lines.append)
    assert len(lines) == len(PARTS) + 1
    assert lines[0] == "network: diffusion_pytorch_model-00001-of-00002.safetensors"


def test_an_existing_folder_is_left_alone(tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("notes")
    with pytest.raises(CheckpointError, match="exists: give a new folder"):
        convert(tiny, tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["mine"]


def test_a_failure_leaves_nothing_behind(tiny: Path, tmp_path: Path) -> None:
    broken = shutil.copytree(tiny, tmp_path / "broken")
    (broken / "Wan2.1_VAE.pth").write_bytes(b"no weights")
    with pytest.raises(CheckpointError, match=r"Wan2\.1_VAE\.pth is truncated, or no weights file"):
        convert(broken, tmp_path / "ours")
    assert [folder.name for folder in tmp_path.iterdir()] == ["broken"]


def test_a_full_disk_is_a_sentence(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shutil, "copytree", full)
    with pytest.raises(WorkError, match=r"ours can't be written: .*No space left on device"):
        convert(tiny, tmp_path / "ours")
    assert list(tmp_path.iterdir()) == []

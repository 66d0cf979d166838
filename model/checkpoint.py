"""Checkpoint folders, in the official layout or in ours: what is in them, what is missing, the network's weights."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch

from model.config import S2VConfig
from model.errors import CheckpointError
from model.names import official_names
from model.network import S2VModel
from model.tensor_files import Device, Shards, compare, header, on_meta, read_json, shapes_of, some

HUB = "Wan-AI/Wan2.2-S2V-14B"
FORMAT = "s2v"  # in the config.json of our layout's network
NETWORK = "diffusion_pytorch_model"  # what its files' names begin with
TEXT_IN = "text_embedding.0.weight"


@dataclass(frozen=True)
class Part:
    """Where a part lies in both layouts, and which files its folder must hold."""

    title: str
    official: str
    ours: str
    holds: tuple[str, ...]


PARTS = {
    "network": Part("the network", ".", "transformer", ("config.json", f"{NETWORK}*.safetensors")),
    "vae": Part("the VAE", "Wan2.1_VAE.pth", "vae", ("config.json", f"{NETWORK}*.safetensors")),
    "text_encoder": Part(
        "the text encoder", "models_t5_umt5-xxl-enc-bf16.pth", "text_encoder", ("config.json", "model*.safetensors")
    ),
    "tokenizer": Part("the tokenizer", "google/umt5-xxl", "tokenizer", ("tokenizer.json",)),
    "speech_encoder": Part(
        "the speech encoder",
        "wav2vec2-large-xlsr-53-english",
        "audio_encoder",
        ("config.json", "preprocessor_config.json", "model*.safetensors"),
    ),
}


@dataclass(frozen=True)
class Checkpoint:
    folder: Path
    official: bool  # the layout: official, or ours

    @classmethod
    def open(cls, folder: Path | str) -> "Checkpoint":
        """Finds the layout out by content; refuses a folder that is something else, and says what it looks like."""
        folder = Path(folder)
        layout = layout_of(folder) if folder.is_dir() else None
        if layout is None:
            raise CheckpointError(f"{folder} {looks_like(folder)}.")
        return cls(folder, layout == "official")

    def path(self, part: str) -> Path:
        """The file or folder of one of PARTS, as the encoders' load functions take it."""
        return self.folder / (PARTS[part].official if self.official else PARTS[part].ours)

    def lacks(self, part: str) -> list[str]:
        """Files of a part that are not there."""
        path = self.path(part)
        if path.suffix == ".pth":
            return [] if path.is_file() else [str(path)]
        return [str(path / name) for name in PARTS[part].holds if not any(path.glob(name))]

    def absent(self) -> list[str]:
        """Parts that are not there, or not whole."""
        return [part for part in PARTS if self.lacks(part)]

    def missing(self, parts: Iterable[str] = tuple(PARTS)) -> list[str]:
        """A sentence for each part that is absent: its name, its files, and how to get them."""
        return [
            f"{PARTS[p].title} is missing ({some(self.lacks(p))}). {self.remedy(p)}" for p in parts if self.lacks(p)
        ]

    def remedy(self, part: str) -> str:
        if self.official:
            return f"Get it with: {download(self.folder, part)}"
        return f"Convert {HUB} again, with that part in it ({PARTS[part].official})."

    def require(self, *parts: str) -> None:
        """Fail before long work if one of these parts is absent. No names: all parts."""
        if sentences := self.missing(parts or PARTS):
            raise CheckpointError("\n".join(sentences))


def network_config(checkpoint: Checkpoint) -> S2VConfig:
    folder = checkpoint.path("network")
    file = folder / "config.json"
    keys = read_json(file)
    text_in = Shards.find(folder, NETWORK).all_shapes.get(TEXT_IN, ())
    if len(text_in) != 2:
        raise CheckpointError(f"{folder} lacks {TEXT_IN}. It is incomplete, or of another model.")
    try:
        if checkpoint.official:
            return S2VConfig.from_official(keys, text_dim=text_in[1])
        chosen = {field.name: keys[field.name] for field in fields(S2VConfig)}
        return S2VConfig(**chosen | {"audio_inject_layers": tuple(keys["audio_inject_layers"])})
    except (TypeError, ArithmeticError, KeyError, CheckpointError) as error:
        raise CheckpointError(f"{file} can't be used: {error}") from error


def our_keys(config: S2VConfig) -> dict[str, Any]:
    """The content of our layout's `transformer/config.json`."""
    return {"format": FORMAT} | asdict(config)


def stored_names(checkpoint: Checkpoint, config: S2VConfig, shards: Shards) -> dict[str, str]:
    """{name in the files: our name} of every parameter, once the headers have shown that all are there."""
    folder = checkpoint.path("network")
    wanted = shapes_of(on_meta(lambda: S2VModel(config), folder).state_dict())
    stored = official_names(wanted, config) if checkpoint.official else {name: name for name in wanted}
    compare({name: wanted[ours] for name, ours in stored.items()}, shards.all_shapes, folder)
    return stored


def check_network(checkpoint: Checkpoint) -> tuple[S2VConfig, Shards, dict[str, str]]:
    """Fail before long work: every tensor of the network must be there, of its shape. Only headers are read.

    Returns the config, the files, and {name in them: our name}.
    """
    checkpoint.require("network")
    config = network_config(checkpoint)
    shards = Shards.find(checkpoint.path("network"), NETWORK)
    return config, shards, stored_names(checkpoint, config, shards)


def load_network(folder: Path | str, device: Device, dtype: torch.dtype | None = torch.bfloat16) -> S2VModel:
    """The network of a checkpoint folder, ready to train or to sample. dtype None: as stored.

    Tensors go from the files to the device one by one, so memory never holds the network twice.
    """
    checkpoint = Checkpoint.open(folder)
    config, shards, ours = check_network(checkpoint)
    network = on_meta(lambda: S2VModel(config), checkpoint.folder)
    tensors = {ours[name]: tensor.to(dtype or tensor.dtype) for name, tensor in shards.read(device)}
    network.load_state_dict(tensors, assign=True)
    return network


def layout_of(folder: Path) -> str | None:
    """'official', 'ours', or None for something else."""
    config, transformer = folder / "config.json", folder / "transformer"
    if config.is_file():
        return "official" if read_json(config).get("model_type") == "s2v" else None
    if transformer.is_dir():
        ours = transformer / "config.json"
        return "ours" if ours.is_file() and read_json(ours).get("format") == FORMAT else None
    return next((name for name in ("official", "ours") if holds_any(Checkpoint(folder, name == "official"))), None)


def holds_any(checkpoint: Checkpoint) -> bool:
    return len(checkpoint.absent()) < len(PARTS)


def looks_like(folder: Path) -> str:
    """What a path that is no checkpoint seems to be, to go on after its name."""
    if not folder.is_dir():
        return (
            f"{'is a file' if folder.exists() else 'does not exist'}. {download(Path('FOLDER'))} makes a folder to give"
        )
    entries = sorted(folder.iterdir())
    names = [entry.name for entry in entries]
    if inside := [entry.name for entry in entries if entry.is_dir() and is_checkpoint(entry)]:
        return f"is no checkpoint, but {some(inside)} in it is: give that folder"
    if "adapter_config.json" in names or any("lora" in key for f in folder.glob("*.safetensors") for key in header(f)):
        return "holds a LoRA: give the folder of the whole checkpoint that it belongs to"
    if "model_index.json" in names:
        kind = read_json(folder / "model_index.json").get("_class_name")
        return f"is a diffusers pipeline ({kind}), not Wan-S2V: {download(Path('FOLDER'))}"
    if "config.json" in names:
        kind = read_json(folder / "config.json").get("model_type")
        return f"is a model of another type ({kind}), not Wan-S2V: {download(Path('FOLDER'))}"
    content = f"holds {some(names)}, and no part of a Wan-S2V checkpoint" if names else "is empty"
    return f"{content}: {download(folder)}"


def is_checkpoint(folder: Path) -> bool:
    try:
        return layout_of(folder) is not None
    except CheckpointError:
        return False


def download(folder: Path, part: str | None = None) -> str:
    """The command that gets a part of the official checkpoint, or all of it."""
    chosen = ""
    if part == "network":
        chosen = f" --include config.json --include '{NETWORK}*'"
    elif part:
        path = PARTS[part].official
        chosen = f" --include '{path}'" if path.endswith(".pth") else f" --include '{path}/*'"
    return f"hf download {HUB}{chosen} --local-dir {folder}"

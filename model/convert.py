"""Checkpoints from the official layout to ours and back: every tensor bit for bit, and never a whole model in memory.

The safetensors and .pth files are mapped, not read: what is written passes through the page cache only.
"""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from transformers.utils import logging

from model import text_encoder, vae
from model.checkpoint import NETWORK, PARTS, Checkpoint, network_config, our_keys, stored_names
from model.errors import CheckpointError, WorkError
from model.names import to_official
from model.tensor_files import Shards, read_json

Progress = Callable[[str], None]


def convert(source: Path | str, target: Path | str, progress: Progress = lambda message: None) -> list[str]:
    """Write the checkpoint `source` to the new folder `target` in the other layout.

    Returns the parts (of PARTS) that `source` lacks: they are left out. `progress` gets a line as each file is begun.
    Nothing stands under the target's name until all of it does.
    """
    given, target = Checkpoint.open(source), Path(target).absolute()
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise CheckpointError(f"{target} exists: give a new folder, or remove it first.")
    absent = given.absent()
    written = Checkpoint(target.with_name(f"{target.name}.{os.getpid()}.partial"), official=not given.official)
    written.folder.mkdir(parents=True)
    try:
        for part in PARTS:
            if part not in absent:
                PARTS_WRITTEN[part](given, written, progress)
        for file in written.folder.rglob("*.safetensors"):  # the library makes them readable by their owner only
            file.chmod(file.parent.stat().st_mode & 0o666)
        written.folder.rename(target)
    except (OSError, RuntimeError, SafetensorError) as error:  # torch and safetensors report a full disk so
        raise WorkError(f"{target} can't be written: {error}. Nothing of it is kept; is the disk full?") from error
    finally:
        shutil.rmtree(written.folder, ignore_errors=True)
    return absent


def write_network(given: Checkpoint, written: Checkpoint, progress: Progress) -> None:
    """Each shard becomes one shard of the same name."""
    config = network_config(given)
    shards = Shards.find(given.path("network"), NETWORK)
    names = stored_names(given, config, shards)
    if written.official:
        names = {name: to_official(name, config) for name in names}
    folder = written.path("network")
    folder.mkdir(exist_ok=True)
    for file in shards.shapes:
        progress(f"network: {file.name}")
        with safe_open(file, framework="pt") as opened:
            tensors = {names[name]: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
            save_file(tensors, folder / file.name, metadata=opened.metadata())
    if shards.index:
        where = {names[name]: file.name for file, shapes in shards.shapes.items() for name in shapes}
        write_json(folder / shards.index.name, read_json(shards.index) | {"weight_map": where})
    write_json(folder / "config.json", config.to_official() if written.official else our_keys(config))


def write_vae(given: Checkpoint, written: Checkpoint, progress: Progress) -> None:
    progress("VAE")
    network = vae.load_vae(given.path("vae"), "cpu", dtype=None).network
    path = written.path("vae")
    if written.official:
        tensors = network.state_dict()
        torch.save({official: tensors[name] for name, official in vae.official_names(tensors).items()}, path)
    else:
        network.save_pretrained(path)


def write_text_encoder(given: Checkpoint, written: Checkpoint, progress: Progress) -> None:
    progress("text encoder")
    network = text_encoder.load_network(given.path("text_encoder"), "cpu", dtype=None)
    path = written.path("text_encoder")
    if written.official:
        tensors = network.state_dict()
        torch.save({official: tensors[name] for name, official in text_encoder.official_names(tensors).items()}, path)
    else:
        logging.disable_progress_bar()
        network.save_pretrained(path, max_shard_size="5GB")


def copy_folder(part: str) -> Callable[[Checkpoint, Checkpoint, Progress], None]:
    def copy(given: Checkpoint, written: Checkpoint, progress: Progress) -> None:
        progress(PARTS[part].title.removeprefix("the "))
        shutil.copytree(given.path(part), written.path(part))

    return copy


PARTS_WRITTEN = {
    "network": write_network,
    "vae": write_vae,
    "text_encoder": write_text_encoder,
    "tokenizer": copy_folder("tokenizer"),
    "speech_encoder": copy_folder("speech_encoder"),
}


def write_json(path: Path, content: dict[str, Any]) -> None:
    """As diffusers writes it."""
    path.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n")

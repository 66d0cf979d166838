"""Latents on disk from before they are decoded until the video is whole, so that no failure costs what was sampled."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor


class SavedLatents:
    """A folder beside the video. It belongs to one set of settings; those of another are thrown away."""

    def __init__(self, video: str, settings: dict[str, Any]):
        self.folder = Path(f"{video}.latents")
        text = json.dumps(settings, indent=1, default=str, sort_keys=True)
        record = self.folder / "settings.json"
        if self.folder.is_dir() and (not record.is_file() or record.read_text() != text):
            shutil.rmtree(self.folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        record.write_text(text)

    def file(self, clip: int) -> Path:
        return self.folder / f"clip-{clip:05}.safetensors"

    @property
    def finished(self) -> int:
        return len(list(self.folder.glob("clip-*.safetensors")))

    def load(self, clip: int) -> Tensor | None:
        try:
            return load_file(self.file(clip))["latents"]
        except (FileNotFoundError, SafetensorError, KeyError):
            return None

    def save(self, clip: int, latents: Tensor) -> None:
        partial = self.file(clip).with_suffix(".partial")
        save_file({"latents": latents.contiguous().cpu()}, partial)
        os.replace(partial, self.file(clip))

    def remove(self) -> None:
        shutil.rmtree(self.folder)

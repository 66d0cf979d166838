"""Latents on disk from before they are decoded until the video is whole, so that no failure costs what was sampled."""

import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor


class SavedLatents:
    """A folder beside the video. It belongs to one set of settings; latents of another are thrown away."""

    def __init__(self, video: str, settings: dict[str, Any]):
        self.folder = Path(f"{video}.latents")
        self.record = self.folder / "settings.json"
        text = json.dumps(settings, indent=1, default=str, sort_keys=True)
        self.discarded = 0  # clips of other settings
        if not self.record.is_file() or self.record.read_text() != text:
            self.discarded = len(self.files())
            self.discard()
        self.folder.mkdir(exist_ok=True)
        self.record.write_text(text)

    def files(self) -> list[Path]:
        return sorted(self.folder.glob("clip-*"))

    def file(self, clip: int) -> Path:
        return self.folder / f"clip-{clip:05}.safetensors"

    def load(self, clip: int) -> Tensor | None:
        try:
            return load_file(self.file(clip))["latents"]
        except (FileNotFoundError, SafetensorError, KeyError):
            return None

    def save(self, clip: int, latents: Tensor) -> None:
        partial = self.file(clip).with_suffix(".partial")
        try:
            save_file({"latents": latents.contiguous().cpu()}, partial)
        except SafetensorError as e:  # how this library tells of a full disk
            raise OSError(str(e)) from e
        os.replace(partial, self.file(clip))

    def discard(self) -> None:
        for file in (*self.files(), self.record):
            file.unlink(missing_ok=True)

    def remove(self) -> None:
        """What is ours; the folder too, unless somebody keeps something in it."""
        self.discard()
        with suppress(OSError):
            self.folder.rmdir()

"""Networks of transformers from a directory of weights."""

from pathlib import Path
from typing import Any

import torch


def load(kind: Any, folder: Path) -> Any:
    """A network of a class of transformers, ready to run. Raises ValueError for another network's weights."""
    try:
        net, report = kind.from_pretrained(
            folder, local_files_only=True, use_safetensors=True, dtype=torch.float32, output_loading_info=True
        )
    except (OSError, RuntimeError, ValueError) as error:
        raise ValueError(f"{folder} can't be read as {kind.__name__}; delete it and fetch it again: {error}") from error
    if missing := report["missing_keys"]:
        raise ValueError(
            f"{folder} lacks {len(missing)} weights of {kind.__name__}, {sorted(missing)[0]} among them. "
            "Delete the directory and fetch it again."
        )
    return net.eval().requires_grad_(False)

"""Networks of transformers from a directory of weights."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers.utils import logging


def load(kind: Any, folder: Path) -> Any:
    """A network of a class of transformers, ready to run. Raises ValueError for another network's weights.

    Weights that the network has no use for are passed over, as the half of CLIP that reads is by the half that sees.
    """
    try:
        with errors_alone():
            net, report = kind.from_pretrained(
                folder,
                local_files_only=True,
                use_safetensors=True,
                dtype=torch.float32,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # they are named below
            )
    except (OSError, RuntimeError, ValueError) as error:
        raise ValueError(f"{folder} can't be read as {kind.__name__}; delete it and fetch it again: {error}") from error
    if unfit := report["missing_keys"] | {name for name, *_ in report["mismatched_keys"]}:
        raise ValueError(
            f"{folder} lacks {len(unfit)} weights of {kind.__name__}, or has them in another size, {min(unfit)} among "
            "them. Delete the directory and fetch it again."
        )
    return net.eval().requires_grad_(False)


@contextmanager
def errors_alone() -> Iterator[None]:
    """Without the warnings of transformers, which lists every weight that it passes over."""
    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)

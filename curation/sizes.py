"""How large sources are, where that can be listed."""

import os
import posixpath
from collections.abc import Sequence

import fsspec
import numpy as np

from curation.sources import Item
from dataset.tables import in_threads

FOLDERS = 20_000  # to list; more take longer than they are worth


def sizes(items: Sequence[Item]) -> np.ndarray | None:
    """Bytes of each; 0 for what isn't there. None where they can't be listed: web addresses, members of tars."""
    folders = sorted({posixpath.dirname(item.uri) for item in items})
    if len(folders) > FOLDERS or any(item.uri.startswith(("http:", "https:", "tar:")) for item in items):
        return None
    try:
        listed = {name: size for found in in_threads(listing, folders) for name, size in found.items()}
    except OSError:
        return None
    found = np.array([listed.get(item.uri, 0) for item in items], float)
    return found if found.any() else None


def listing(folder: str) -> dict[str, int]:
    """Address -> bytes, of the files in a folder. Listings that finding the sources left behind are used again."""
    if "://" not in folder:
        try:
            return {entry.path: entry.stat().st_size for entry in os.scandir(folder) if entry.is_file()}
        except FileNotFoundError:
            return {}
    fs, path = fsspec.core.url_to_fs(folder)
    entries = fs.ls(path, detail=True)
    return {fs.unstrip_protocol(entry["name"]): entry["size"] or 0 for entry in entries if entry["type"] == "file"}

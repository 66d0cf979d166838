"""Names and lines of a run's folder, for whoever looks at it without torch."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def name_of(step: int) -> str:
    """Of the checkpoint of a step."""
    return f"step-{step:06d}"


def read_rows(path: Path) -> Iterator[dict[str, Any]]:
    """The objects of a file, without a torn line."""
    with path.open(encoding="utf-8", errors="replace") as file:
        for text in file:
            try:
                row = json.loads(text)
            except json.JSONDecodeError:
                continue
            if isinstance(row, dict) and isinstance(row.get("step"), int):
                yield row

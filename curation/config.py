"""Where recipes and policies are found."""

from pathlib import Path

from dataset.config import suggest
from dataset.errors import UsageError


def find(name: str, kind: str) -> Path:
    """A shipped recipe or policy by name (`embedded`), or a file."""
    shipped = Path(__file__).parent / {"recipe": "recipes", "policy": "policies"}[kind]
    if (shipped / f"{name}.yaml").is_file():
        return shipped / f"{name}.yaml"
    if Path(name).is_file():
        return Path(name)
    known = [p.stem for p in shipped.glob("*.yaml")]
    raise UsageError(f"There is no file and no shipped {kind} '{name}'.{suggest(name, known)}")

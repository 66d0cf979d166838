"""Tensors in files: read without pickle, their names and shapes compared with what is wanted before any is loaded."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import TypeVar

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from model.errors import CheckpointError

Shape = tuple[int, ...]
Device = torch.device | str
Module = TypeVar("Module", bound=nn.Module)


@dataclass(frozen=True)
class Shards:
    """The safetensors files of one model in one folder. `shapes`: of each file, by tensor, from its header."""

    index: Path | None
    shapes: dict[Path, dict[str, Shape]]

    @classmethod
    def find(cls, folder: Path, stem: str) -> "Shards":
        """`stem`*.safetensors in `folder`; with an index, exactly the files that it names."""
        index: Path | None = folder / f"{stem}.safetensors.index.json"
        if index and index.is_file():
            files = [folder / name for name in indexed_files(index)]
        else:
            index, files = None, sorted(folder.glob(f"{stem}*.safetensors"))
        if absent := [file.name for file in files if not file.is_file()]:
            raise CheckpointError(f"{index} names {some(absent)}, which {folder} lacks: download the rest.")
        if not files:
            raise CheckpointError(f"{folder} holds no {stem}*.safetensors: download the weights again.")
        shards = cls(index, {file: header(file) for file in files})
        if sum(map(len, shards.shapes.values())) != len(shards.all_shapes):
            raise CheckpointError(
                f"{folder}: {some(f.name for f in files)} hold the same tensors: keep one set of files."
            )
        return shards

    @property
    def all_shapes(self) -> dict[str, Shape]:
        return {name: shape for shapes in self.shapes.values() for name, shape in shapes.items()}

    def read(self, device: Device = "cpu") -> Iterator[tuple[str, Tensor]]:
        """Every tensor, straight from the file to the device; on a CPU it stays a view of the file until written to."""
        # safetensors takes "cuda" for the first GPU, torch for the process's own.
        placed = torch.empty(0, device=device).device
        for file in self.shapes:
            with safe_open(file, framework="pt", device=str(placed)) as opened:
                for name in opened.keys():  # noqa: SIM118 - not a mapping
                    yield name, opened.get_tensor(name)


def header(file: Path) -> dict[str, Shape]:
    """{name: shape}, without reading tensors. Also finds a file that is shorter than its header says."""
    try:
        with safe_open(file, framework="pt") as opened:
            return {name: tuple(opened.get_slice(name).get_shape()) for name in opened.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{file} is {damage(file)} ({error}).") from error


def indexed_files(index: Path) -> list[str]:
    """The files that an index names. Names with a folder in them are refused: they could lead anywhere."""
    names = read_json(index).get("weight_map")
    if not isinstance(names, dict) or not names or not all(isinstance(name, str) for name in names.values()):
        raise CheckpointError(f"{index} has no weight_map of tensor names to file names: download it again.")
    files = sorted(set(names.values()))
    if outside := [name for name in files if Path(name).name != name or not name.endswith(".safetensors")]:
        raise CheckpointError(f"{index} names {some(outside)}: only safetensors files beside it are read.")
    return files


def read_pth(path: Path) -> dict[str, Tensor]:
    """The tensors of a .pth file, as views of the file; nothing else that a pickle could hold is accepted."""
    if not path.is_file():
        raise CheckpointError(f"There is no {path}.")
    try:
        tensors = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (RuntimeError, UnpicklingError, EOFError, OSError) as error:
        raise CheckpointError(f"{path} is {damage(path)} ({str(error).splitlines()[0]}).") from error
    if not isinstance(tensors, dict) or not all(
        isinstance(n, str) and isinstance(t, Tensor) for n, t in tensors.items()
    ):
        raise CheckpointError(f"{path} holds something other than named tensors: download the official file again.")
    return tensors


def read_json(path: Path) -> dict:
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} can't be read as JSON ({error}): download it again.") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds no JSON object: download it again.")
    return content


def damage(file: Path) -> str:
    with file.open("rb") as opened:
        start = opened.read(24)
    if start.startswith(b"version https://git-lfs"):
        return "only a Git LFS pointer: run `git lfs pull` in its folder, or download the file"
    return "truncated, or no weights file: download it again"


def compare(wanted: Mapping[str, Shape], found: Mapping[str, Shape], source: Path) -> None:
    """Refuse tensors that are missing, unexpected or of another shape, and name them."""
    complaints = []
    if missing := [name for name in wanted if name not in found]:
        complaints.append(f"lacks {some(missing)}")
    if unexpected := [name for name in found if name not in wanted]:
        complaints.append(f"has unexpected {some(unexpected)}")
    common = [name for name in wanted if name in found]
    if misshapen := [f"{n} {found[n]} instead of {wanted[n]}" for n in common if found[n] != wanted[n]]:
        complaints.append(f"has misshapen {some(misshapen)}")
    if complaints:
        raise CheckpointError(f"{source} {'; '.join(complaints)}. It is incomplete, or of another model.")


def shapes_of(tensors: Mapping[str, Tensor]) -> dict[str, Shape]:
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def on_meta(make: Callable[[], Module], source: Path) -> Module:
    """A module that has shapes and no memory. What `make` takes from the `source`'s configuration may be nonsense."""
    try:
        with torch.device("meta"):
            return make()
    except (TypeError, ValueError, RuntimeError, ArithmeticError, LookupError, StrictDataclassError) as error:
        raise CheckpointError(f"The configuration of {source} makes no sense ({error}): download it again.") from error


def assemble(
    module: Module, tensors: Mapping[str, Tensor], source: Path, device: Device, dtype: torch.dtype | None
) -> Module:
    """Put the tensors in place of the parameters of a module that was made on the meta device; frozen, for use.

    A tied parameter counts once, and is to be tied again by the caller. dtype None: as stored.
    """
    compare(shapes_of(dict(module.named_parameters())), shapes_of(tensors), source)
    module.load_state_dict({n: t.to(device, dtype or t.dtype) for n, t in tensors.items()}, strict=False, assign=True)
    return module.eval().requires_grad_(False)


def some(names: Iterable[str]) -> str:
    names = list(names)
    rest = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + rest

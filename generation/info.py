"""`s2v info` and `s2v convert`: what a checkpoint is, and the same in the other layout."""

from collections.abc import Iterable
from pathlib import Path

from rich.console import Console
from rich.filesize import decimal
from rich.markup import escape
from rich.table import Table as Grid

from generation.job import parse_size
from model import convert as conversion
from model.checkpoint import PARTS, Checkpoint, network_config
from model.config import S2VConfig
from model.long_video import CLIP_FRAMES
from model.size import fit_size


def info(folder: str, size: str, console: Console) -> None:
    area = parse_size(size)
    checkpoint = Checkpoint.open(Path(folder))
    layout = "official layout" if checkpoint.official else "s2v layout"
    console.print(escape(f"{folder}: Wan-S2V, {layout}"), soft_wrap=True)
    console.print(parts_grid(checkpoint))
    if not checkpoint.lacks("network"):
        config = network_config(checkpoint)
        console.print(parameters_grid(config))
        width, height = (int(side) for side in size.lower().replace("*", "x").split("x"))
        console.print(cost_grid(config, *fit_size(height, width, area)))
    for sentence in checkpoint.missing():
        console.print(f"[yellow]Missing:[/] {escape(sentence)}", soft_wrap=True)


def parts_grid(checkpoint: Checkpoint) -> Grid:
    grid = Grid("part", "where", "size", "state", title="parts", title_justify="left")
    for name, part in PARTS.items():
        path = checkpoint.path(name)
        state = "[red]missing[/]" if checkpoint.lacks(name) else "[green]there[/]"
        where = part.official if checkpoint.official else part.ours
        grid.add_row(part.title.removeprefix("the "), where, size_of(files_of(checkpoint, name, path)), state)
    return grid


def files_of(checkpoint: Checkpoint, name: str, path: Path) -> Iterable[Path]:
    if path.is_file():
        return [path]
    return path.glob("diffusion_pytorch_model*") if name == "network" and checkpoint.official else path.rglob("*")


def size_of(files: Iterable[Path]) -> str:
    return decimal(sum(file.stat().st_size for file in files if file.is_file()))


def parameters_grid(config: S2VConfig) -> Grid:
    about = f"{config.num_layers} blocks of width {config.dim}, {config.num_heads} heads"
    grid = Grid("group", "parameters", "share", title=f"network: {about}", title_justify="left")
    groups = config.parameters()
    total = sum(groups.values())
    for name, count in groups.items():
        grid.add_row(name, f"{count:,}", f"{count / total:.1%}")
    grid.add_section()
    grid.add_row("all", f"{total:,}", f"{total * 2 / 1e9:.1f} GB in bfloat16")
    return grid


def cost_grid(config: S2VConfig, height: int, width: int) -> Grid:
    """What one clip of 5 s costs: the first one, which has no past, and the ones after it."""
    latents = CLIP_FRAMES // 4
    title = f"a clip of 5 s at {width}x{height}"
    grid = Grid("", "first clip", "later clips", title=title, title_justify="left")
    both = [config.flops(latents, height, width, motion) for motion in (False, True)]
    tokens = [config.tokens(latents, height, width, motion) for motion in (False, True)]
    grid.add_row("tokens", *(f"{n:,}" for n in tokens))
    for part in both[0]:
        grid.add_row(f"{part.replace('_', ' ')}, TFLOP a forward pass", *(f"{f[part] / 1e12:,.3g}" for f in both))
    passes = [sum(f.values()) / 1e12 for f in both]
    grid.add_row("all, TFLOP a forward pass", *(f"{p:,.3g}" for p in passes))
    grid.add_row("40 steps with guidance, PFLOP", *(f"{80 * p / 1e3:,.3g}" for p in passes))
    grid.add_section()
    for name, count in (("caches of a branch", config.cache_bytes), ("activations", config.activation_bytes)):
        grid.add_row(name, *(decimal(count(latents, height, width, motion)) for motion in (False, True)))
    grid.add_row("weights in bfloat16", *(decimal(config.weight_bytes()),) * 2)
    return grid


def convert(source: str, target: str, console: Console) -> None:
    given = Checkpoint.open(Path(source))
    with console.status("Converting") as status:
        absent = conversion.convert(Path(source), Path(target), lambda message: status.update(escape(message)))
    for part in absent:
        console.print(f"[yellow]Left out:[/] {escape(given.remedy(part))}", soft_wrap=True)
    to = "s2v" if given.official else "official"
    console.print(escape(f"{target}: {to} layout."), soft_wrap=True)

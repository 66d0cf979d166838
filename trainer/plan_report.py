"""What `s2v plan` prints: fits or not, where memory goes, the arrangements, time and cost, and what was assumed."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.padding import Padding
from rich.table import Table as Grid

from model.config import S2VConfig
from trainer.budget import LONGEST, fit
from trainer.job import start_from
from trainer.plan import Case, Plan, compare, find_gpu, parse_size, planned
from trainer.plan_activations import Size
from trainer.plan_remedies import Remedy, remedies
from trainer.plan_time import Machines
from trainer.stages import Stage, find_stage

WIDTH = 32  # characters of a bar as long as the GPU's memory
EIGHTHS = " ▏▎▍▌▋▊▉█"
SHOWN = 8  # arrangements
BOUNDLESS = 2048  # pixels, of a picture 4 x 3 times as large: more than any stage allows
TIGHT = 0.05  # of a GPU: less than that free is little
COLOURS = {
    "weights": "cyan",
    "gradients": "cyan",
    "masters and moments": "cyan",
    "moving average": "cyan",
    "samples of an update": "blue",
    "encoders": "blue",
    "CUDA and fragments (assumed)": "bright_black",
}  # what isn't here comes and goes
PASSING = "magenta"


def run(
    stage: str,
    changes: Sequence[str],
    gpus: int,
    gpu: str,
    per_node: int,
    frames: int,
    size: str,
    checkpoint: str,
    mfu: float,
    price: float,
    console: Console,
) -> None:
    """As the command line has it. frames 0: the stage's. size '': the largest that the stage's tokens allow, 4:3."""
    chosen = find_stage(stage, changes)
    config = start_from(Path(checkpoint)).config if checkpoint else S2VConfig()
    frames = frames or chosen.frames
    width, height = parse_size(size) if size else largest(chosen, config, frames)
    machines = Machines(find_gpu(gpu), gpus, per_node)
    show(compare(Case(chosen, config, machines, Size(frames, height, width), mfu)), console, price)


def largest(stage: Stage, config: S2VConfig, frames: int) -> tuple[int, int]:
    """(width, height)"""
    shape = fit(LONGEST, 4 * BOUNDLESS, 3 * BOUNDLESS, stage.model_copy(update={"frames": frames}), config)
    assert shape is not None
    return shape.width, shape.height


def show(plans: Sequence[Plan], console: Console, price: float = 0.0) -> None:
    """plans: of `compare`. price: of a GPU and hour, in whatever currency; 0: not known."""
    best = plans[0]
    console.print(headline(best, price), soft_wrap=True)
    for note in notes(plans):
        console.print(note, soft_wrap=True)
    console.print()
    console.print(memory_grid(best))
    if not best.fits:
        console.print()
        console.print(remedies_grid(remedies(best.case)))
        return
    console.print()
    console.print(arrangements_grid(plans))
    console.print()
    console.print(time_grid(best, price))
    console.print(Padding(assumptions(best), (1, 0, 0, 0)), style="bright_black")


# ---------------------------------------------------------------- sentences


def headline(plan: Plan, price: float) -> str:
    machines, memory = plan.case.machines, plan.memory.total
    gpus = f"each of {machines.gpus}" if machines.gpus > 1 else "one"
    if not plan.fits:
        needs = f"it takes {gigabytes(memory)} GB or more, {gigabytes(-plan.free)} GB more than {gpus}"
        return f"[bold red]Doesn't fit:[/] {needs} {machines.gpu.name} has."
    cost = f", cost {money(plan.gpu_hours * price)}" if price else ""
    stage = f"{duration(3600 * plan.gpu_hours / machines.gpus)} ({plan.gpu_hours:,.0f} GPU-hours{cost})"
    return (
        f"[bold green]Fits:[/] {gigabytes(memory)} of {gigabytes(machines.gpu.memory)} GB on {gpus} "
        f"{machines.gpu.name}; {short(plan.update_seconds)} s an update of "
        f"{count(plan.case.stage.batch, 'clip')}, {stage} for the stage."
    )


def notes(plans: Sequence[Plan]) -> list[str]:
    best, case = plans[0], plans[0].case
    stage, size = case.stage, case.size
    told = [
        f"{size.frames} frames at {size.width}x{size.height} are {case.tokens:,} tokens and "
        f"{best.model_flops / 1e15:.3g} PFLOP forwards and backwards; "
        f"{case.parameters.trained / 1e9:.3g} of {case.parameters.total / 1e9:.3g} billion parameters learn."
    ]
    beyond = {"tokens": (case.tokens, stage.tokens), "frames": (size.frames, stage.frames)}
    if changes := [f"--set {key}={wanted}" for key, (wanted, limit) in beyond.items() if wanted > limit]:
        told.append(f"[yellow]Note:[/] the stage cuts clips down to less. For this size, give {' '.join(changes)}.")
    if best.fits and best.free < TIGHT * case.machines.gpu.memory:
        told.append(f"[yellow]Note:[/] only {gigabytes(best.free)} GB are free: what is assumed may be wrong by that.")
    if best.fits and best.arrangement != case.as_set:
        told.append(f"As the stage is set: {own(plans)} The best: [bold]{escape(settings(best))}[/].")
    return told


def own(plans: Sequence[Plan]) -> str:
    """How the stage does as it is set, compared with the best."""
    found = next((plan for plan in plans if plan.arrangement == plan.case.as_set), None)
    if found is None:
        return "its batch does not divide."
    if not found.fits:
        return f"{gigabytes(found.memory.total)} GB, which doesn't fit."
    return f"{gigabytes(found.memory.total)} GB, {short(found.update_seconds)} s an update."


def settings(plan: Plan) -> str:
    """Options that give a stage the plan's arrangement, without those that change nothing."""
    stage, arrangement = plan.case.stage, plan.arrangement
    wanted = {"sequence": arrangement.sequence, "ulysses": arrangement.ulysses, "recompute": arrangement.recompute}
    as_set = plan.case.as_set
    given = {"sequence": as_set.sequence, "ulysses": stage.ulysses, "recompute": stage.recompute}
    alone = stage.model_copy(update={"sequence": arrangement.sequence, "ulysses": 0})
    if replace(plan.case, stage=alone).as_set.ulysses == arrangement.ulysses:
        wanted["ulysses"] = 0
    return " ".join(f"--set {key}={value}" for key, value in wanted.items() if value != given[key])


def assumptions(plan: Plan) -> str:
    case = plan.case
    other = planned(replace(case, encodes=not case.encodes), plan.arrangement)
    gained = f"{gigabytes(abs(other.memory.total - plan.memory.total))} GB more and "
    gained += f"{abs(other.pass_seconds - plan.pass_seconds):.2g} s more a pass"
    latents = (
        f"Latents are made while training: {gained} than if `s2v encode` had made them."
        if case.encodes
        else f"Latents are read from shards of `s2v encode`. Made while training, they take {gained}."
    )
    return (
        f"Assumed: an MFU of {case.mfu:.0%} where nothing waits for communication and all but attention is computed "
        "again; that ZeRO-3 hides behind computation and the ring behind attention as far as they are shorter; links "
        "as fast as others measured them. Nothing here was measured on a GPU. Every clip is taken to have this size; "
        f"validation and checkpoints are not in it. {latents}"
    )


# ---------------------------------------------------------------- tables


def memory_grid(plan: Plan) -> Grid:
    grid = Grid(title=f"memory of a GPU, fullest at: {plan.memory.moment}", title_justify="left", box=None)
    grid.add_column("")
    grid.add_column("GB", justify="right")
    grid.add_column("")
    longest = max(plan.memory.total, plan.case.machines.gpu.memory)
    for part, size in sorted(plan.memory.parts.items(), key=lambda entry: -entry[1]):
        grid.add_row(part, f"{size / 1e9:.1f}", bar(size / longest, COLOURS.get(part, PASSING)))
    grid.add_row("", "", "")
    grid.add_row("[bold]all[/]", f"[bold]{plan.memory.total / 1e9:.1f}[/]", whole_bar(plan, longest))
    name, colour = ("free", "green") if plan.fits else ("too much", "red")
    grid.add_row(name, f"[{colour}]{abs(plan.free) / 1e9:.1f}[/]", bar(abs(plan.free) / longest, colour))
    if plan.memory.host:
        grid.add_row("memory of a node, beside it", f"{plan.memory.host / 1e9:,.0f}", "")
    return grid


def whole_bar(plan: Plan, longest: float) -> str:
    """What stays, what comes and goes, and where the GPU ends."""
    stays = sum(size for part, size in plan.memory.parts.items() if part in COLOURS)
    text = bar(stays / longest, "cyan", cut=True) + bar((plan.memory.total - stays) / longest, PASSING)
    room = round(WIDTH * plan.free / longest) if plan.fits else 0
    return text + f"[bright_black]{'·' * room}[/]"


def bar(share: float, colour: str, *, cut: bool = False) -> str:
    """cut: to whole characters, so that another bar can follow."""
    whole, eighths = divmod(round(8 * WIDTH * share), 8)
    rest = "" if cut or not eighths else EIGHTHS[eighths]
    return f"[{colour}]{'█' * whole}{rest}[/]" if whole or rest else f"[{colour}]▏[/]"


def arrangements_grid(plans: Sequence[Plan]) -> Grid:
    title = "arrangements, the best first: GPUs that share a clip, Ulysses x ring, what is computed again"
    grid = Grid(title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    grid.add_column("GPUs", justify="right")
    grid.add_column("U x R", no_wrap=True)
    grid.add_column("again", no_wrap=True)
    for name in ("GB", "s/pass", "s/update", "clips/s", "MFU"):
        grid.add_column(name, justify="right", no_wrap=True)
    grid.add_column("", no_wrap=True)
    fitting = [plan for plan in plans if plan.fits]
    shown = fitting[:SHOWN] + [plan for plan in plans if plan.arrangement == plan.case.as_set]
    for arrangement, plan in {plan.arrangement: plan for plan in shown}.items():
        style = "red" if not plan.fits else "bold" if plan == plans[0] else ""
        grid.add_row(*arrangement_row(plan), "as set" * (arrangement == plan.case.as_set), style=style)
    if hidden := len(plans) - grid.row_count:
        grid.caption = f"{hidden} more: {len(fitting)} of {len(plans)} fit"
        grid.caption_justify = "left"
    return grid


def arrangement_row(plan: Plan) -> list[str]:
    arrangement = plan.arrangement
    return [
        str(arrangement.sequence),
        f"{arrangement.ulysses} x {arrangement.ring}",
        arrangement.recompute,
        gigabytes(plan.memory.total),
        short(plan.pass_seconds),
        short(plan.update_seconds),
        f"{plan.samples_per_second:.3g}",
        f"{plan.mfu:.1%}",
    ]


def time_grid(plan: Plan, price: float) -> Grid:
    grid = Grid(title="time and cost", title_justify="left", box=None)
    grid.add_column("")
    grid.add_column("", justify="right")
    grid.add_column("")
    for part, seconds in plan.waits.items():
        if seconds >= 0.0005:
            colour = "cyan" if part == "computing" else PASSING
            grid.add_row(part, f"{seconds:.3f} s", bar(seconds / plan.pass_seconds, colour))
    stage = plan.case.stage
    grid.add_row("[bold]a pass[/]", f"[bold]{plan.pass_seconds:.3f} s[/]", "forward and backward of a clip")
    step = plan.update_seconds - plan.passes * plan.pass_seconds
    more = f", and {step:.2g} s of the optimiser on CPUs" if step else ""
    grid.add_row("tokens/s", f"{plan.samples_per_second * plan.case.tokens:,.0f}", "")
    grid.add_row("an update", f"{short(plan.update_seconds)} s", f"{count(plan.passes, 'pass', 'passes')}{more}")
    hours = plan.gpu_hours / plan.case.machines.gpus
    grid.add_row("the stage", duration(3600 * hours), f"{stage.steps:,} updates of {count(stage.batch, 'clip')}")
    grid.add_row("GPU-hours", f"{plan.gpu_hours:,.0f}", "")
    if price:
        grid.add_row("cost", money(plan.gpu_hours * price), f"at {price:g} a GPU-hour")
    return grid


def remedies_grid(found: Sequence[Remedy]) -> Grid | str:
    if not found:
        return "No single change makes it fit: not offload, fewer frames, smaller pictures, more or larger GPUs."
    title = "what would make it fit, each by itself"
    grid = Grid(title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    grid.add_column("")
    grid.add_column("option", no_wrap=True)
    for name in ("GB", "s/update", "clips/s"):
        grid.add_column(name, justify="right", no_wrap=True)
    grid.add_column("best arranged")
    for remedy in found:
        plan = remedy.plan
        numbers = gigabytes(plan.memory.total), short(plan.update_seconds), f"{plan.samples_per_second:.3g}"
        grid.add_row(remedy.what, remedy.option, *numbers, settings(plan) or "as set")
        if plan.memory.host:
            grid.caption = f"with offload, a node's CPUs hold {plan.memory.host / 1e9:,.0f} GB"
            grid.caption_justify = "left"
    return grid


# ---------------------------------------------------------------- numbers


def gigabytes(size: float) -> str:
    return f"{size / 1e9:.0f}" if size >= 10e9 else f"{size / 1e9:.1f}"


def short(seconds: float) -> str:
    return f"{seconds:,.0f}" if seconds >= 100 else f"{seconds:.3g}"


def money(amount: float) -> str:
    return f"{amount:,.0f}"


def count(number: int, one: str, many: str = "") -> str:
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def duration(seconds: float) -> str:
    hours = seconds / 3600
    if hours >= 48:
        return f"{hours / 24:.1f} days"
    return f"{hours:.1f} h" if hours >= 1 else f"{seconds / 60:.0f} min"

"""The table of `s2v preflight`: nodes that say the same are one line, and odd ones are named."""

from collections.abc import Sequence
from dataclasses import dataclass

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table as Grid

from cluster.checks import Check, Verdict
from cluster.checks.node import Answer

NAMED = 4  # nodes of a line
APART = 2.0  # numbers of alike nodes that differ by more: the lowest is named
WIDE = 120  # columns of a log
SIGNS: dict[Verdict, str] = {
    "ok": "[green]ok[/]",
    "warn": "[yellow]warn[/]",
    "bad": "[bold red]BAD[/]",
    "skipped": "[bright_black]-[/]",
}


@dataclass(frozen=True)
class Line:
    """A check that came out alike on some nodes."""

    check: Check
    nodes: list[str]
    numbers: list[tuple[float, ...]]  # of each node

    @property
    def what(self) -> str:
        text = self.check.what
        for i in range(len(self.check.numbers)):
            text = text.replace("{}", self.span([numbers[i] for numbers in self.numbers]), 1)
        return text

    def span(self, values: list[float]) -> str:
        low, high = min(values), max(values)
        if brief(low) == brief(high):
            return brief(low)
        odd = f" on {self.nodes[values.index(low)]}" if high > APART * low and len(values) > 2 else ""
        return f"{brief(low)}{odd} to {brief(high)}"


def brief(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 10 else f"{value:.2g}"


def lines(answers: Sequence[Answer]) -> list[Line]:
    """In the order of the checks; of one check, what most nodes say first."""
    found: dict[tuple, Line] = {}
    for answer in answers:
        for check in answer.checks:
            alike = check.name, check.verdict, check.what, check.remedy
            line = found.setdefault(alike, Line(check, [], []))
            line.nodes.append(answer.node)
            line.numbers.append(check.numbers)
    order = {name: i for i, name in enumerate(dict.fromkeys(line.check.name for line in found.values()))}
    return sorted(found.values(), key=lambda line: (order[line.check.name], -len(line.nodes)))


def show(answers: Sequence[Answer], console: Console) -> bool:
    """Print the table and the sum. Returns whether nothing is bad."""
    found, count = lines(answers), len(answers)
    grid = Grid(box=SIMPLE_HEAD, pad_edge=False)
    grid.add_column("", no_wrap=True)
    grid.add_column("check", no_wrap=True)
    if count > 1:
        grid.add_column("nodes", overflow="fold", max_width=40)
    grid.add_column("", overflow="fold")
    for line in found:
        about = escape(line.what)
        if line.check.remedy:
            about += f"\n[bold]{escape(line.check.remedy)}[/]"
        which = [escape(nodes_in_words(line.nodes, count))] if count > 1 else []
        grid.add_row(SIGNS[line.check.verdict], line.check.name, *which, about)
    if not console.is_terminal:
        console.width = max(WIDE, console.width)
    console.print(grid)
    console.print(verdict(found, count), soft_wrap=True)
    return not any(line.check.verdict == "bad" for line in found)


def nodes_in_words(nodes: Sequence[str], count: int) -> str:
    if len(nodes) == count:
        return f"all {count:,}"
    named = ", ".join(nodes[:NAMED])
    more = f" and {len(nodes) - NAMED:,} more" if len(nodes) > NAMED else ""
    return f"{len(nodes):,} of {count:,}" if 2 * len(nodes) > count else f"{named}{more}"


def verdict(found: Sequence[Line], count: int) -> str:
    where = "this machine" if count == 1 else f"{count:,} nodes"
    bad, doubtful = (
        list(dict.fromkeys(line.check.name for line in found if line.check.verdict == v)) for v in ("bad", "warn")
    )
    if bad:
        return f"[bold red]Not ready:[/] {', '.join(bad)} on {where}. What to do is said above."
    if doubtful:
        return f"[bold green]Ready[/] ({where}), but see {', '.join(doubtful)}."
    return f"[bold green]Ready[/] ({where})."

"""Command groups in which one command needn't be named."""

from typing import Any

from typer.core import TyperGroup


def default_to(name: str) -> type[TyperGroup]:
    """A group where words that name no command are those of `name`: `s2v caption DATASET` is `s2v caption run DATASET`.

    No words at all still show the help.
    """

    class DefaultGroup(TyperGroup):
        def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
            if args and args[0] not in (*self.commands, "--help"):
                args = [name, *args]
            return super().parse_args(ctx, args)

    return DefaultGroup

"""Two bars: the clips of the video, and the steps of the clip at hand."""

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from model import long_video


@contextmanager
def bars(console: Console, clips: int, steps: int, *, shown: bool) -> Iterator[long_video.Progress]:
    """Told of every clip and step. The time left is that of all steps of all clips, decoding included."""
    columns = (TextColumn("{task.description:>6}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, TimeRemainingColumn(), console=console, disable=not shown) as progress:
        whole = progress.add_task("clips", total=clips)
        clip = progress.add_task("steps", total=steps)

        def on_clip(number: int) -> None:
            progress.update(whole, completed=number)
            progress.reset(clip, total=steps)

        def on_step() -> None:
            progress.advance(clip)
            progress.advance(whole, 1 / steps)

        yield long_video.Progress(on_clip, on_step)
        progress.update(whole, completed=clips)

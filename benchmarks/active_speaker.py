"""What Light-ASD hears: one talker's face with its own sound, and with sounds that don't belong to it.

    python -m benchmarks.active_speaker [--clips ../shared/clips] [--weights FILE]

The clips are those of CLIPS/manifest.csv in which one person is seen to speak and is heard. Each face is found by the
filter `pose` and goes through the visual network once. A cell is the mean logit over the frames, and the share of the
frames with sound that have one above 0: the score `active_speaker.speaking`. Shifts are circular, by so much to either
side; others are the speech of all other clips. The area under the ROC curve (AUC) is the chance that a clip scores
higher with its own sound than one with another: 0.5 is blind, 1 sees all.
"""

import argparse
import csv
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from dataset.media import AUDIO_RATE, Counters, read_clips
from dataset.records import Clip
from dataset.scan import probe
from filters import weights
from filters.active_speaker import FRAMES, WEIGHTS, ActiveSpeaker, faces, pcm16, time_grid, with_sound
from filters.base import ClipView
from filters.nets.device import placed
from filters.nets.light_asd import MFCC_PER_FRAME, LightASD, load, mean_logits, visual_embeddings
from filters.nets.mfcc import mfcc
from filters.pose import Pose

SECONDS = 6.0  # of each clip that are used
SHIFTS = (0.2, 0.48, 1.0, 2.0)  # seconds
TRUE = "true"

console = Console(width=140)


@dataclass(frozen=True)
class Talker:
    """audio: (samples,) float32 at 16 kHz. seen: the visual embeddings of the face, cut and whole, (T, 128) each."""

    name: str
    audio: np.ndarray
    seen: tuple[torch.Tensor, torch.Tensor]


@dataclass(frozen=True)
class Judged:
    logit: float  # mean over the frames
    speaking: float  # share of the frames with sound that have a logit above 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=Path, default=Path("../shared/clips"))
    parser.add_argument(
        "--weights", type=Path, help="Light-ASD's pretrain_AVA_CVPR.model; default: as the filter finds it"
    )
    arguments = parser.parse_args()
    net = placed(load(arguments.weights or weights.path(WEIGHTS)))
    began = time.process_time()
    talkers = list(see_all(net, talking(arguments.clips)))
    table = {
        one.name: {kind: [judge(net, one, sound) for sound in sounds] for kind, sounds in kinds(one, talkers)}
        for one in talkers
    }
    print_table(table)
    console.print(f"{time.process_time() - began:.0f} CPU seconds for {len(talkers)} clips")


# ---------------------------------------------------------------- what is seen


def talking(clips: Path) -> list[Path]:
    with open(clips / "manifest.csv", newline="") as f:
        rows = [r for r in csv.DictReader(f) if (r["n_people"], r["speaking"]) == ("1", "yes") and r["audio"] != "no"]
    return [clips / row["file"] for row in rows]


def see_all(net: LightASD, paths: list[Path]) -> Iterator[Talker]:
    """The clips of which a face is seen all the time."""
    pose = Pose()
    pose.setup()
    for path in paths:
        view = decoded(path)
        pose.measure(view)
        assert view.audio is not None
        assert view.tracks is not None
        grid = time_grid(view.audio)
        for _, _, crops in faces(view.frames(FRAMES), view.tracks, grid):
            if len(crops) == len(grid):
                seen = visual_embeddings(net, torch.tensor(crops, device=next(net.parameters()).device))
                yield Talker(path.stem, view.audio, seen)
                break
        else:
            console.print(f"{path.stem}: no face that is seen all the time, left out")


def decoded(path: Path) -> ClipView:
    media = probe(str(path), Counters())
    end = min(SECONDS, media.duration)
    read = next(read_clips(str(path), [(0.0, end)], [FRAMES], audio=True, counters=Counters()))
    clip = Clip(clip_id=path.stem, source=str(path), source_id="", start=0.0, end=end, media=media)
    return ClipView(clip, read.batches, read.audio, {})


# ---------------------------------------------------------------- what is heard


def kinds(one: Talker, talkers: list[Talker]) -> Iterator[tuple[str, list[np.ndarray]]]:
    """What kind of sound, and all sounds of that kind."""
    noise = np.random.default_rng(0).standard_normal(len(one.audio)) * one.audio.std()
    yield TRUE, [one.audio]
    for seconds in SHIFTS:
        yield f"± {seconds} s", [np.roll(one.audio, sign * round(seconds * AUDIO_RATE)) for sign in (1, -1)]
    yield "others", [np.resize(other.audio, len(one.audio)) for other in talkers if other is not one]
    yield "reversed", [one.audio[::-1]]
    yield "noise", [noise]
    yield "silence", [np.zeros_like(one.audio)]


def judge(net: LightASD, one: Talker, audio: np.ndarray) -> Judged:
    grid, device = time_grid(audio), one.seen[0].device
    heard = torch.tensor(mfcc(pcm16(audio))[: len(grid) * MFCC_PER_FRAME], dtype=torch.float32, device=device)
    logits = mean_logits(net, one.seen, heard).cpu().numpy()
    loud = with_sound(audio, grid, ActiveSpeaker().quiet)
    return Judged(float(logits.mean()), float((logits[loud] > 0).mean()))


# ---------------------------------------------------------------- the table


def print_table(table: dict[str, dict[str, list[Judged]]]) -> None:
    columns = list(next(iter(table.values())))
    grid = Table(box=SIMPLE_HEAD, padding=0, title="mean logit (share of the frames with sound in which it is above 0)")
    for heading in ("clip", *columns):
        grid.add_column(heading, justify="left" if heading == "clip" else "right", no_wrap=True)
    for name, row in table.items():
        grid.add_row(name, *(cell(found) for found in row.values()))
    pooled = {kind: [judged for row in table.values() for judged in row[kind]] for kind in columns}
    grid.add_section()
    grid.add_row("mean", *(cell(found) for found in pooled.values()))
    for name in ("logit", "speaking"):
        others = (f"{area(values(pooled[TRUE], name), values(pooled[kind], name)):.2f}" for kind in columns[1:])
        grid.add_row(f"AUC by {name}", "", *others)
    console.print(grid)


def cell(found: list[Judged]) -> str:
    return f"{values(found, 'logit').mean():.2f} ({values(found, 'speaking').mean():.2f})"


def values(found: list[Judged], name: str) -> np.ndarray:
    return np.array([getattr(judged, name) for judged in found])


def area(higher: np.ndarray, lower: np.ndarray) -> float:
    """Under the ROC curve; ties count half."""
    first, second = higher[:, None], lower[None]
    return float((first > second).mean() + 0.5 * (first == second).mean())


if __name__ == "__main__":
    main()

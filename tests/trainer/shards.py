"""Small datasets of real videos whose pictures tell which frame they are."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from curation.pack import INDEX
from dataset.shards import Sample, make_shard
from dataset.tracks import KEYPOINTS, Tracks
from tests.videos import Picture, write_video
from trainer.stages import Stage, Validation

Place = Callable[[float], tuple[float, float]]  # seconds -> x, y as shares of the picture


def numbered(width: int = 128, height: int = 96) -> Picture:
    """One colour all over, which is the number of the picture, 16 a second: see `number_of`."""

    def picture(time: float) -> np.ndarray:
        high, low = divmod(round(16 * time), 16)
        return np.full((height, width, 3), (16 * low, 16 * high, 128), np.uint8)

    return picture


def number_of(image: np.ndarray) -> int:
    """(H, W, 3)"""
    low, high, _ = np.rint(image.reshape(-1, 3).mean(0) / 16).astype(int)
    return int(16 * high + low)


def tone(seconds: float, rate: int = 48_000) -> np.ndarray:
    """Louder from second to second: 0.1, 0.2, ..."""
    times = np.arange(int(seconds * rate)) / rate
    return (0.1 * (1 + times // 1) * np.sin(2 * np.pi * 440 * times)).astype(np.float32)


def pointing(place: Place, seconds: float, rate: float = 8) -> Tracks:
    """Somebody of whom only the nose is seen."""
    times = np.arange(0, seconds, 1 / rate)
    points = np.zeros((1, len(times), KEYPOINTS, 3), np.float32)
    points[0, :, 0] = [(*place(time), 1.0) for time in times]
    boxes = np.full((1, len(times), 4), np.nan, np.float32)
    return Tracks(times, np.array([1]), points, boxes, boxes)


@dataclass
class Made:
    """A clip to be packed. facts: what its .json holds beside. claims: what the index says of it, where it differs."""

    clip_id: str
    seconds: float = 3.0
    width: int = 128
    height: int = 96
    picture: Picture | None = None
    sound: np.ndarray | None = None
    tracks: Tracks | None = None
    fps: int = 16
    facts: dict[str, Any] = field(default_factory=dict)
    claims: dict[str, Any] = field(default_factory=dict)

    def sample(self) -> Sample:
        with TemporaryDirectory() as folder:
            picture = self.picture or numbered(self.width, self.height)
            path = write_video(Path(folder) / "a.mp4", self.seconds, fps=self.fps, picture=picture, sound=self.sound)
            video = path.read_bytes()
        facts = {"clip_id": self.clip_id, "caption": f"about {self.clip_id}", "seconds": self.seconds} | self.facts
        files = {"mp4": video, "json": json.dumps(facts).encode()}
        if self.tracks is not None:
            files["pose.npz"] = self.tracks.to_npz_bytes()
        return Sample(self.clip_id, files)

    def row(self, shard: str, offset: int) -> dict[str, Any]:
        facts = {"seconds": self.seconds, "width": self.width, "height": self.height, "fps": self.fps, "tokens": 1}
        return {"clip_id": self.clip_id, "shard": shard, "offset": offset, **facts, **self.claims}


def make_dataset(folder: Path, clips: Sequence[Made], per_shard: int = 4, samples: Sequence[Sample] = ()) -> Path:
    """As `s2v curate` packs them. samples: what the shards hold instead of what the clips make."""
    (folder / "shards").mkdir(parents=True)
    content, rows = list(samples) or [clip.sample() for clip in clips], []
    for number, first in enumerate(range(0, len(clips), per_shard)):
        name = f"{number:06d}.tar"
        data, offsets = make_shard(content[first : first + per_shard])
        (folder / "shards" / name).write_bytes(data)
        here = zip(clips[first : first + per_shard], offsets.values(), strict=True)
        rows += [clip.row(name, offset) for clip, offset in here]
    pq.write_table(pa.Table.from_pylist(rows, schema=INDEX), folder / "shards" / "index.parquet")
    return folder


def stage(**changes: Any) -> Stage:
    settings = {"name": "test", "steps": 8, "batch": 4, "tokens": 400, "frames": 16, "workers": 0}
    return Stage(**settings | {"validation": Validation(clips=0)} | changes)

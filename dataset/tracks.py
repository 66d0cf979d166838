"""People over time in the DWPose layout: the payload of the pose filter and of `tracks/`."""

import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

# One person is 128 keypoints, each (x, y, confidence): x and y as shares of the frame's width and height.
BODY = slice(0, 18)  # OpenPose-18: nose, neck, r-shoulder, r-elbow, r-wrist, l-shoulder, ..., r-ear, l-ear
FACE = slice(18, 86)  # the 68 iBUG points: jaw 0-16, brows, nose, eyes, outer lip 48-59, inner lip 60-67
LEFT_HAND = slice(86, 107)  # 21 points: wrist, then four a finger from the thumb
RIGHT_HAND = slice(107, 128)
KEYPOINTS = 128

# Stored form: coordinates as int16 in 1/16384 of the frame (-2 to 2; 0.05 pixels of 1280), confidence as uint8.
UNIT = 16384
UNSEEN = np.iinfo(np.int16).min  # stands for NaN in boxes
STORED = {  # column -> type and shape behind (P, T); None: one value a frame or a person
    "times": ("<f8", None),
    "ids": ("<i4", None),
    "points": ("<i2", (KEYPOINTS, 2)),
    "confidence": ("u1", (KEYPOINTS,)),
    "boxes": ("<i2", (4,)),
    "faces": ("<i2", (4,)),
}


@dataclass(frozen=True)
class Tracks:
    """Tracked people of one clip: P people over T sampled frames.

    times: (T,) seconds from the clip's start.
    ids: (P,) track ids, the person seen longest and largest first.
    keypoints: (P, T, 128, 3) float32; confidence 0 where a keypoint was not seen.
    boxes: (P, T, 4) float32, body box x0, y0, x1, y1 as shares of the frame; NaN where the person was not seen.
    faces: (P, T, 4) float32, face box in the same form; NaN where no face was seen.
    """

    times: np.ndarray
    ids: np.ndarray
    keypoints: np.ndarray
    boxes: np.ndarray
    faces: np.ndarray

    @classmethod
    def empty(cls, times: np.ndarray) -> "Tracks":
        shape = (0, len(times))
        boxes = np.zeros((*shape, 4), np.float32)
        return cls(times, np.zeros(0, int), np.zeros((*shape, KEYPOINTS, 3), np.float32), boxes, boxes)

    def at(self, time: float) -> int:
        """Index of the sampled frame nearest to `time` (seconds from the clip's start)."""
        return int(np.argmin(np.abs(self.times - time)))

    def to_row(self, clip_id: str) -> dict[str, Any]:
        """A row of the table `tracks/`: two counts, and one column of bytes for each entry of `STORED`."""
        row: dict[str, Any] = {"clip_id": clip_id, "people": len(self.ids), "frames": len(self.times)}
        return row | {name: array.tobytes() for name, array in self._pack().items()}

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> "Tracks":
        people, frames = row["people"], row["frames"]
        arrays = {}
        for name, (kind, inner) in STORED.items():
            shape = {"times": (frames,), "ids": (people,)}.get(name) or (people, frames, *(inner or ()))
            arrays[name] = np.frombuffer(row[name], kind).reshape(shape)
        return cls._unpack(arrays)

    def to_npz_bytes(self) -> bytes:
        """The `.pose.npz` of a shard sample: the arrays of `STORED`. The same tracks give the same bytes."""
        file = io.BytesIO()
        np.savez_compressed(file, allow_pickle=False, **self._pack())  # numpy dates every member 1980
        return file.getvalue()

    @classmethod
    def from_npz_bytes(cls, data: bytes) -> "Tracks":
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            return cls._unpack(arrays)

    def _pack(self) -> dict[str, np.ndarray]:
        values = {
            "times": self.times,
            "ids": self.ids,
            "points": quantise(self.keypoints[..., :2]),
            "confidence": np.rint(self.keypoints[..., 2].clip(0, 1) * 255),
            "boxes": quantise(self.boxes),
            "faces": quantise(self.faces),
        }
        return {name: np.ascontiguousarray(values[name], dtype=kind) for name, (kind, _) in STORED.items()}

    @classmethod
    def _unpack(cls, arrays: Mapping[str, np.ndarray]) -> "Tracks":
        confidence = arrays["confidence"].astype(np.float32)[..., None] / 255
        keypoints = np.concatenate([restore(arrays["points"]), confidence], axis=-1)
        times, ids = arrays["times"].astype(float), arrays["ids"].astype(int)
        return cls(times, ids, keypoints, restore(arrays["boxes"]), restore(arrays["faces"]))


def quantise(shares: np.ndarray) -> np.ndarray:
    """Shares of the frame -> whole units, NaN -> UNSEEN."""
    units = np.rint(np.clip(shares, -2, 2 - 1 / UNIT) * UNIT).clip(UNSEEN + 1)
    return np.where(np.isnan(shares), UNSEEN, units)


def restore(units: np.ndarray) -> np.ndarray:
    """float32 shares of the frame; UNSEEN -> NaN."""
    return np.where(units == UNSEEN, np.float32(np.nan), units.astype(np.float32) / UNIT)

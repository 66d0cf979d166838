"""What a clip is cut and scaled to, so that it takes at most M tokens (paper section 4.1).

Tokens after patchify, those of the reference and of the motion frames included, are what a sample costs.
"""

import math
from functools import lru_cache

from dataset.errors import UsageError
from model.config import S2VConfig
from trainer.sample import PAST, Shape
from trainer.stages import Stage

RATE = 16  # frames a second
ROUNDING = 1e-3  # frames by which a clip's length may be below a whole number of them
CELL = 64  # pixels each way: what FramePack's coarsest patch covers, so sides are multiples of it
LONGEST = 600  # seconds; a clip's sound is read and encoded whole


def frame_count(seconds: float) -> int:
    return math.floor(seconds * RATE + ROUNDING)


def fit(seconds: float, width: int, height: int, stage: Stage, config: S2VConfig) -> Shape | None:
    """None: the clip is of no use, because it is too short, longer than LONGEST, or has no size.

    A quarter of a short clip, and half of what is left over of any, stays before the video as its history: so that
    windows vary, and yet have a past.
    """
    if stage.tokens < (least := config.tokens(1, CELL, CELL)):
        raise UsageError(
            f"tokens={stage.tokens} is less than the smallest sample takes, 4 frames of {CELL}x{CELL} pixels: "
            f"give --set tokens={least} or more."
        )
    if not (0 < seconds <= LONGEST and width > 0 and height > 0):
        return None
    total = frame_count(seconds)
    wanted = min(stage.frames, total - min(PAST, total // 4)) // 4
    if wanted < 1:
        return None
    latent_frames, rows, columns = scale(wanted, width, height, stage.tokens, config)
    frames = 4 * latent_frames
    history = min(PAST, max(total // 4, (total - frames) // 2))
    return Shape(frames, history, CELL * rows, CELL * columns)


def tokens(shape: Shape, config: S2VConfig) -> int:
    return config.tokens(shape.latent_frames, shape.height, shape.width)


@lru_cache(1 << 16)
def scale(latent_frames: int, width: int, height: int, limit: int, config: S2VConfig) -> tuple[int, int, int]:
    """(latent frames, rows, columns of cells): all frames where one cell of them fits.

    Below the limit the picture keeps its size, down to whole cells. Above, area times the share of the picture that
    survives `cover` is made largest. That product is the source's area times the square of the smaller of
    rows/height and columns/width. Many sizes have the same: the one with the fewest tokens crops least.
    """
    while config.tokens(latent_frames, CELL, CELL) > limit:
        latent_frames -= 1
    cells = limit // config.tokens(latent_frames, CELL, CELL)  # tokens grow with the area
    most_rows, most_columns = max(1, height // CELL), max(1, width // CELL)
    if most_rows * most_columns <= cells:
        return latent_frames, most_rows, most_columns
    candidates = []
    for rows in range(1, min(most_rows, cells) + 1):
        columns = min(most_columns, cells // rows, -(-rows * width // height))  # more would only crop the height
        candidates.append((min(rows * width, columns * height), -rows * columns, rows, columns))
    return latent_frames, *max(candidates)[2:]

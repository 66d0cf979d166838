"""Pictures in: a reference image, or a video's frames at the model's rate, upright and of one size."""

from collections import deque
from collections.abc import Iterator

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from dataset.media import Counters, MediaError
from dataset.pictures import frames_at
from dataset.scan import scan
from model.audio_frames import FRAME_RATE
from model.errors import InputError

LEAST_SIDE = 64  # pixels: below this a face has fewer pixels than a single token
MOST_PIXELS = 100_000_000


def read_image(path: str) -> np.ndarray:
    """(H, W, 3) uint8 RGB, upright."""
    Image.MAX_IMAGE_PIXELS = None  # told below, in our own words, before anything is decoded
    try:
        with Image.open(path) as image:
            width, height = image.size
            if width * height > MOST_PIXELS:
                raise InputError(
                    f"{path} has {width} x {height} pixels, more than {MOST_PIXELS // 1_000_000} million. "
                    "Scale it down first; the video will be about 1 megapixel."
                )
            if min(width, height) < LEAST_SIDE:
                raise InputError(f"{path} has {width} x {height} pixels; at least {LEAST_SIDE} each way are needed.")
            return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    except FileNotFoundError:
        raise InputError(f"There is no image at {path}.") from None
    except (UnidentifiedImageError, IsADirectoryError):
        raise InputError(f"{path} is not an image. Give a PNG, a JPEG or another still picture.") from None
    except (OSError, SyntaxError, ValueError) as e:
        raise InputError(f"{path} is damaged: {e}. Export the image again.") from e


def frames_of(path: str) -> Iterator[np.ndarray]:
    """The pictures that a video shows at 0, 1/16, 2/16 ... seconds, (H, W, 3) uint8 RGB, whatever its own rate."""
    try:
        yield from frames_at(path, FRAME_RATE)
    except MediaError as e:
        raise InputError(f"{path}: {e}; {e.remedy}.") from e


def video_seconds(path: str) -> float:
    """Decodes all of it; raises InputError for what isn't a video, or only the beginning of one."""
    try:
        return scan(path, Counters(), lambda time, picture: None).duration
    except MediaError as e:
        raise InputError(f"{path}: {e}; {e.remedy}.") from e


def last_frames(path: str, count: int) -> list[np.ndarray]:
    """The last `count` pictures of a video, or all if it has fewer."""
    return list(deque(frames_of(path), maxlen=count))

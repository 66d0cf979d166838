"""Pictures in: a reference image, or a video's frames at the model's rate, upright and of one size."""

from collections import deque
from collections.abc import Iterator

import cv2
import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from dataset.media import JITTER, Counters, MediaError, Painter, open_source
from dataset.scan import check_complete, scan
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


def cover(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """(H, W, 3) scaled to cover height x width, its middle cut out."""
    scale = max(height / image.shape[0], width / image.shape[1])
    size = max(width, round(image.shape[1] * scale)), max(height, round(image.shape[0] * scale))
    if size != (image.shape[1], image.shape[0]):
        image = cv2.resize(image, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)
    top, left = (image.shape[0] - height) // 2, (image.shape[1] - width) // 2
    return np.ascontiguousarray(image[top : top + height, left : left + width])


def frames_of(path: str) -> Iterator[np.ndarray]:
    """The pictures that a video shows at 0, 1/16, 2/16 ... seconds, (H, W, 3) uint8 RGB, whatever its own rate."""
    try:
        with open_source(path, Counters()) as source:
            painter, shown, picture = Painter(source, None), None, None
            number, last, count = 0, 0.0, 0
            for time, frame in source.frames():
                while shown is not None and number / FRAME_RATE < time - JITTER:
                    picture = painter(shown) if picture is None else picture
                    yield picture
                    number += 1
                shown, picture, last, count = frame, None, time, count + 1
            if shown is None:
                raise MediaError("no frame could be decoded", "export the video again")
            end = last + (last / (count - 1) if count > 1 else 1 / FRAME_RATE)
            check_complete(source.container, source.video, end)
            picture = painter(shown)
            while number / FRAME_RATE < end - JITTER:
                yield picture
                number += 1
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


def to_tensor(images: list[np.ndarray]) -> Tensor:
    """Pictures (H, W, 3) uint8 -> (3, T, H, W) float32 in [-1, 1]"""
    return torch.from_numpy(np.stack(images)).permute(3, 0, 1, 2).float() / 127.5 - 1


def to_pictures(frames_CTHW: Tensor) -> np.ndarray:
    """(3, T, H, W) in [-1, 1] -> (T, H, W, 3) uint8"""
    return ((frames_CTHW.float() + 1) * 127.5).round().clamp(0, 255).byte().permute(1, 2, 3, 0).cpu().numpy()

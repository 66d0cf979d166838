"""Pictures of a video at a steady rate, and of one size."""

from collections.abc import Iterator

import cv2
import numpy as np

from dataset.media import JITTER, Counters, MediaError, Painter, open_source
from dataset.scan import check_complete


def frames_at(path: str, rate: float) -> Iterator[np.ndarray]:
    """The pictures that a video shows at 0, 1/rate, 2/rate ... seconds, (H, W, 3) uint8 RGB, whatever its own rate.

    Raises MediaError for what isn't a video, or only the beginning of one.
    """
    with open_source(path, Counters()) as source:
        painter, shown, picture = Painter(source, None), None, None
        number, last, count = 0, 0.0, 0
        for time, frame in source.frames():
            while shown is not None and number / rate < time - JITTER:
                picture = painter(shown) if picture is None else picture
                yield picture
                number += 1
            shown, picture, last, count = frame, None, time, count + 1
        if shown is None:
            raise MediaError("no frame could be decoded", "export the video again")
        end = last + (last / (count - 1) if count > 1 else 1 / rate)
        check_complete(source.container, source.video, end)
        picture = painter(shown)
        while number / rate < end - JITTER:
            yield picture
            number += 1


def cover(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """(H, W, 3) scaled to cover height x width, its middle cut out."""
    scale = max(height / image.shape[0], width / image.shape[1])
    size = max(width, round(image.shape[1] * scale)), max(height, round(image.shape[0] * scale))
    if size != (image.shape[1], image.shape[0]):
        image = cv2.resize(image, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)
    top, left = (image.shape[0] - height) // 2, (image.shape[1] - width) // 2
    return np.ascontiguousarray(image[top : top + height, left : left + width])

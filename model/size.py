"""The picture size of a clip: the shape of the reference image, in multiples of 64, within an area."""

import math

MULTIPLE = 64
STEPS = 100


def fit_size(height: int, width: int, area: int) -> tuple[int, int]:
    """The largest (height, width) of at most `area` pixels with about the shape of height x width.

    The search of the official code, whose results users know: a hundred scales downwards, each side rounded up, and a
    lower end from a quadratic whose discriminant has 2ac in the place of 4ac.
    """
    largest, smallest = 1.0, 0.1
    if height * width > area:
        rounding = MULTIPLE - 1
        a, b, c = height * width, rounding * (height + width), rounding**2 - area
        largest, smallest = math.sqrt(area / a), (math.sqrt(b * b - 2 * a * c) - b) / (2 * a)
    for step in range(STEPS):
        scale = largest - (largest - smallest) * step / STEPS
        h, w = (math.ceil(int(side * scale) / MULTIPLE) * MULTIPLE for side in (height, width))
        if h * w <= area:
            return h, w
    shape = math.sqrt(area / (height * width))
    h, w = (max(int(side * shape) // MULTIPLE, 1) * MULTIPLE for side in (height, width))
    return h, w

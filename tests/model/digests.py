"""Digests over all names and shapes of the official files, by which the ecosystem's tools know them."""

import hashlib
from collections.abc import Mapping

NETWORK = (1260, "966cffdcc52f9c46c391768b27637614")
VAE = (194, "ccc42284ea13e1ad04693284c7a09be6")
TEXT_ENCODER = (242, "9c8818c2cbea55eca56c7b447df170da")
SPEECH_ENCODER = (424, "06be60f3a4526586d8431cd038a71486")


def digest(shapes: Mapping[str, tuple[int, ...]]) -> tuple[int, str]:
    keys = [key for name, shape in shapes.items() for key in (name, f"{name}:{'_'.join(map(str, shape))}")]
    return len(shapes), hashlib.md5(",".join(sorted(keys)).encode()).hexdigest()

"""ONNX files without the `onnx` package: networks with the inputs and outputs of DWPose's two, small enough to read.

They do by arithmetic what the real ones learned: to the detector a person stands around every bright blue cell (blue
comes first in BGR), and all points of the pose network lie on the brightest pixel.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

FLOAT, INT64 = 1, 7  # numbers of ONNX's types
OPSET = 17
Shape = Sequence[int]
Declared = Sequence[int | str]  # a text names an axis of any length


def varint(value: int) -> bytes:
    value &= (1 << 64) - 1
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def field(number: int, value: int | str | bytes) -> bytes:
    """One field of a protobuf message: a whole number, or a text, array or message with its length."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    data = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(data)) + data


def constant(name: str, values: np.ndarray) -> bytes:
    """A tensor; whole numbers are INT64, others FLOAT."""
    kind, array = (INT64, values.astype("<i8")) if values.dtype.kind == "i" else (FLOAT, values.astype("<f4"))
    dims = b"".join(field(1, n) for n in array.shape)
    return dims + field(2, kind) + field(8, name) + field(9, array.tobytes())


def node(kind: str, inputs: Sequence[str], output: str, **attributes: int | Shape) -> bytes:
    """An operation with one output. Attributes are whole numbers or lists of them."""
    made = b"".join(field(1, name) for name in inputs) + field(2, output) + field(4, kind)
    for name, value in attributes.items():
        numbers = field(3, value) + field(20, 2) if isinstance(value, int) else b"".join(field(8, n) for n in value)
        made += field(5, field(1, name) + (numbers if isinstance(value, int) else numbers + field(20, 7)))
    return made


def declared(name: str, shape: Declared) -> bytes:
    dims = b"".join(field(1, field(1 if isinstance(n, int) else 2, n)) for n in shape)
    return field(1, name) + field(2, field(1, field(1, FLOAT) + field(2, dims)))


def write(
    path: Path,
    nodes: Sequence[bytes],
    constants: dict[str, np.ndarray],
    inputs: Mapping[str, Declared],
    outputs: Mapping[str, Declared],
) -> None:
    graph = b"".join(field(1, n) for n in nodes) + field(2, "tiny")
    graph += b"".join(field(5, constant(name, values)) for name, values in constants.items())
    graph += b"".join(field(11, declared(*item)) for item in inputs.items())
    graph += b"".join(field(12, declared(*item)) for item in outputs.items())
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(field(1, 8) + field(7, graph) + field(8, field(2, OPSET)))


def write_detector(path: Path, width: float, height: float) -> None:
    """YOLOX: a person of a size in pixels of the input around every cell of 8x8 whose blue is above that of grey."""
    fine, coarse = 80 * 80, 40 * 40 + 20 * 20
    places = np.tile([0.5, 0.5, np.log(width / 8), np.log(height / 8)], (1, fine, 1))
    classes = np.zeros((1, fine, 80))
    classes[..., 0] = 1
    nodes = [
        node("AveragePool", ["images"], "cells", kernel_shape=[8, 8], strides=[8, 8]),
        node("Gather", ["cells", "first"], "blue", axis=1),
        node("Sub", ["blue", "grey"], "brighter"),
        node("Mul", ["brighter", "gain"], "objectness"),
        node("Reshape", ["objectness", "column"], "sure"),
        node("Concat", ["places", "sure", "classes"], "fine", axis=2),
        node("Concat", ["fine", "coarse"], "output", axis=1),
    ]
    constants = {
        "first": np.array([0]), "grey": np.array(114.0), "gain": np.array(1 / 141), "column": np.array([1, fine, 1]),
        "places": places, "classes": classes, "coarse": np.zeros((1, coarse, 85)),
    }  # fmt: skip
    write(path, nodes, constants, {"images": (1, 3, 640, 640)}, {"output": (1, fine + coarse, 85)})


def write_pose(path: Path, gain: float = 0.4, batch: int | str = 1) -> None:
    """RTMPose: all 133 points on the brightest column and row; `gain` times the normalised brightness is the score."""
    nodes, constants = [], {"gain": np.array(gain)}
    for name, axes, side in (("simcc_x", [1, 2], 288), ("simcc_y", [1, 3], 384)):
        constants |= {f"{name}_bins": np.array([1, 133, side, 2]), f"{name}_line": np.array([-1, 133, 2 * side])}
        constants[f"{name}_column"] = np.array([-1, 1, side, 1])
        nodes += [
            node("ReduceMax", ["input"], f"{name}_max", axes=axes, keepdims=0),
            node("Mul", [f"{name}_max", "gain"], f"{name}_score"),
            node("Reshape", [f"{name}_score", f"{name}_column"], f"{name}_one"),
            node("Expand", [f"{name}_one", f"{name}_bins"], f"{name}_all"),
            node("Reshape", [f"{name}_all", f"{name}_line"], name),
        ]
    outputs = {"simcc_x": (batch, 133, 576), "simcc_y": (batch, 133, 768)}
    write(path, nodes, constants, {"input": (batch, 3, 384, 288)}, outputs)

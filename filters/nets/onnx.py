"""ONNX networks on one CPU thread: parallelism is one worker per core."""

import onnxruntime

from filters import weights


def load(name: str) -> onnxruntime.InferenceSession:
    """The network of a weight file, by its name in `filters.weights`."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(weights.path(name), options, ["CPUExecutionProvider"])

"""ONNX networks on one CPU thread, as parallelism is one worker per core; or on the worker's GPU."""

import onnxruntime

from filters import weights


def load(name: str, *, gpu: bool = False) -> onnxruntime.InferenceSession:
    """The network of a weight file, by its name in `filters.weights`. gpu: there, if onnxruntime can."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    wanted = ["CUDAExecutionProvider"] if gpu else []
    providers = [p for p in wanted if p in onnxruntime.get_available_providers()]
    return onnxruntime.InferenceSession(weights.path(name), options, [*providers, "CPUExecutionProvider"])

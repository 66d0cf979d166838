"""How much the networks of torch work: floating-point operations, operations handed out, time inside of them."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.modules import module
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count


@dataclass
class Work:
    tflop: float = 0.0
    operations: int = 0  # on a GPU most are a kernel or two, which a CPU thread has to launch


class Operations(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += not func.is_view
        return func(*args, **kwargs or {})


def attention(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    return sdpa_flop_count(query, key, value)


ON_CPU = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: attention}  # the counter knows those of CUDA


@contextmanager
def counted(work: Work) -> Iterator[None]:
    """What is computed in the block, added to `work`. It takes its time: don't measure within."""
    with FlopCounterMode(display=False, custom_mapping=ON_CPU) as flops, Operations() as operations:
        yield
    work.tflop += flops.get_total_flops() / 1e12
    work.operations += operations.count


class Inside:
    """CPU seconds of this process that pass while any network of torch runs."""

    def __init__(self) -> None:
        self.seconds, self.depth, self.began = 0.0, 0, 0.0

    def __enter__(self) -> "Inside":
        self.hooks = (
            module.register_module_forward_pre_hook(self.enter),
            module.register_module_forward_hook(self.leave, always_call=True),
        )
        return self

    def __exit__(self, *_: object) -> None:
        for hook in self.hooks:
            hook.remove()

    def enter(self, *_: object) -> None:
        if self.depth == 0:
            self.began = time.process_time()
        self.depth += 1

    def leave(self, *_: object) -> None:
        self.depth -= 1
        if self.depth == 0:
            self.seconds += time.process_time() - self.began

"""What a block forgets in the forward pass and computes again in the backward pass, to save memory.

Attention is over half of the FLOPs at full size and its result is small: to keep it and recompute the rest costs little
time and little memory, where recomputing everything costs a third more FLOPs.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

from model.attention import Attend
from model.block import Block
from model.network import S2VModel

Recompute = Literal["all", "all-but-attention", "nothing"]

aten = torch.ops.aten
KERNELS = {
    aten._scaled_dot_product_flash_attention.default,
    aten._scaled_dot_product_flash_attention_for_cpu.default,
    aten._scaled_dot_product_efficient_attention.default,
    aten._scaled_dot_product_cudnn_attention.default,
}


class Keeper:
    """Marks the calls of self-attention: attention to text and audio is cheap, and its results are as large."""

    def __init__(self) -> None:
        self.attending = False

    def policy(self, context: Any, function: Any, *args: Any, **kwargs: Any) -> CheckpointPolicy:
        keep = self.attending and function in KERNELS
        return CheckpointPolicy.MUST_SAVE if keep else CheckpointPolicy.PREFER_RECOMPUTE

    def watch(self, attend: Attend) -> Attend:
        def watched(q_BSHK: Tensor, k_BSHK: Tensor, v_BSHK: Tensor) -> Tensor:
            self.attending = True
            try:
                return attend(q_BSHK, k_BSHK, v_BSHK)
            finally:
                self.attending = False

        return watched


def apply_recompute(network: S2VModel, choice: Recompute) -> None:
    """Every block's `forward` from now on recomputes what `choice` says.

    Inside the module's call: hooks, of ZeRO-3 for one, see one forward and one backward pass.
    """
    if choice == "nothing":
        return
    for block in network.layers:
        block.forward = recomputed(block, choice)  # type: ignore[method-assign]


def recomputed(block: Block, choice: Recompute) -> Callable[..., Tensor]:
    forward = block.forward
    if choice == "all":
        return partial(checkpoint, forward, use_reentrant=False, preserve_rng_state=False)
    keeper = Keeper()
    contexts = partial(create_selective_checkpoint_contexts, keeper.policy)

    def selective(x_BSD: Tensor, *arguments: Any) -> Tensor:
        *others, attend = arguments
        options: dict[str, Any] = {"use_reentrant": False, "preserve_rng_state": False, "context_fn": contexts}
        return checkpoint(forward, x_BSD, *others, keeper.watch(attend), **options)

    return selective

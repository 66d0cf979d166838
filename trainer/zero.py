"""DeepSpeed ZeRO-3: its configuration, a network made in pieces from a checkpoint's files, the engine around it.

DeepSpeed sees as many data-parallel ranks as there are ranks, each with one sample at a time. Its own ways to hear of
sequence parallelism (`mesh_param`, `mpu`, `sequence_parallel_size`) were measured to give wrongly scaled or diverging
gradients, depending on unrelated flags: none of them is used, and settings that change the scale are refused.
"""

import logging
import os
import warnings
from typing import Any

import torch
from torch import Tensor, nn

from model.block import Block
from model.checkpoint import Checkpoint, check_network
from model.config import S2VConfig
from model.network import S2VModel
from trainer.objective import FlowMatching
from trainer.optimiser import AdamWithAverage
from trainer.recompute import apply_recompute
from trainer.stages import Stage

os.environ.setdefault("DS_ACCELERATOR", "cuda" if torch.cuda.is_available() else "cpu")  # it would look for others
import deepspeed
import deepspeed.ops
from deepspeed.utils import logger, set_z3_leaf_modules

logger.setLevel(logging.ERROR)
warnings.filterwarnings("ignore", category=FutureWarning, module="torch.distributed")  # of names that DeepSpeed uses
if not torch.cuda.is_available():
    # A C++ extension that DeepSpeed would compile at its first start: minutes, and a lock that can hang for ever.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False


def deepspeed_config(stage: Stage, data_ranks: int, *, on_gpu: bool) -> dict[str, Any]:
    """One sample a rank and micro-step. `reduce_scatter` stays on: without it ZeRO-3 has another gradient scale."""
    zero: dict[str, Any] = {"stage": 3, "reduce_scatter": True, "overlap_comm": on_gpu, "contiguous_gradients": True}
    if stage.optimiser.offload:
        zero["offload_optimizer"] = {"device": "cpu", "pin_memory": on_gpu}
    return {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": stage.batch // data_ranks,
        "gradient_clipping": stage.optimiser.clip,
        "bf16": {"enabled": stage.precision == "bf16"},
        "data_types": {"grad_accum_dtype": "fp32"},
        "communication_data_type": "bf16" if stage.precision == "bf16" and on_gpu else "fp32",
        "zero_optimization": zero | stage.zero.model_dump(exclude_none=True),
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,  # plain AdamW instead: no compilation at start
        "steps_per_print": 10**9,
    }


def make_network(config: S2VConfig, stage: Stage, settings: dict[str, Any]) -> FlowMatching:
    """The network with its loss, its parameters dealt out over the ranks as soon as each module is made."""
    with deepspeed.zero.Init(config_dict_or_path=settings):
        network = S2VModel(config)
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(stage.learns(name))
    apply_recompute(network, stage.recompute)
    network.layers[0].register_forward_pre_hook(ask_for_gradient)
    objective = FlowMatching(network)
    set_z3_leaf_modules(objective, [Block])  # one gather a block, not one for each of its layers
    return objective


def ask_for_gradient(block: nn.Module, arguments: tuple[Any, ...]) -> None:
    """DeepSpeed adds up a block's gradients when that of its input is there. The first block's must have one, even if
    nothing before it learns."""
    if torch.is_grad_enabled() and not arguments[0].requires_grad:
        arguments[0].requires_grad_()


def own_part(parameter: nn.Parameter) -> Tensor:
    """The part of a parameter that this rank holds, (n,). The last rank's may be followed by padding."""
    return parameter.ds_tensor  # type: ignore[attr-defined]


def span(parameter: nn.Parameter) -> tuple[int, int]:
    """Which of the flattened parameter's numbers are `own_part`'s, without padding."""
    size, whole = own_part(parameter).numel(), parameter.ds_numel  # type: ignore[attr-defined]
    first = torch.distributed.get_rank() * size
    return min(first, whole), min(first + size, whole)


@torch.no_grad()
def load_parts(network: S2VModel, checkpoint: Checkpoint) -> None:
    """A checkpoint's weights, each rank its part. Files are mapped: of each tensor, a rank reads its part only."""
    _, shards, ours = check_network(checkpoint)
    parameters = dict(network.named_parameters())
    for name, tensor in shards.read("cpu"):
        parameter = parameters[ours[name]]
        first, last = span(parameter)
        own_part(parameter)[: last - first].copy_(tensor.flatten()[first:last])


def start_engine(objective: FlowMatching, stage: Stage, settings: dict[str, Any]) -> Any:
    """The DeepSpeed engine. Masters are made of the weights that are loaded by now."""
    trained = [parameter for parameter in objective.parameters() if parameter.requires_grad]
    o = stage.optimiser
    optimiser = AdamWithAverage(trained, lr=o.rate, betas=o.betas, weight_decay=o.weight_decay, decay=o.ema)
    engine, *_ = deepspeed.initialize(model=objective, optimizer=optimiser, config=settings)
    return engine

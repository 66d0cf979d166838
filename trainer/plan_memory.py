"""What a rank's GPU holds while it trains, by arithmetic: nothing is allocated, and no GPU is asked."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import torch

from model.config import S2VConfig
from model.network import S2VModel
from trainer.plan_activations import Arrangement, Size, activations
from trainer.stages import Stage

# DeepSpeed's own sizes, in numbers, where `stage.zero` gives no others.
ZERO = {"reduce_bucket_size": int(5e8), "stage3_prefetch_bucket_size": int(5e7), "sub_group_size": int(1e9)}

# Encoders, on the rank that reads, where latents are made while training: umT5 in bf16, VAE and wav2vec2 in fp32. What
# the VAE holds a pixel: counted on "meta" tensors, and the 121 frames themselves.
ENCODERS = 2 * 5.68e9 + 4 * 127e6 + 4 * 315e6
ENCODING = 14_150 + 3 * 4 * 121

# Assumed, until measured: CUDA's context, NCCL's buffers, cuBLAS; and what the allocator can't use of passing tensors.
CUDA, FRAGMENTS = 2.5e9, 0.05


@dataclass(frozen=True)
class Parameters:
    """total, trained: of the network. block: of the largest one. blocks_learn: more of blocks than their injectors."""

    total: int
    trained: int
    block: int
    blocks_learn: bool

    @classmethod
    def of(cls, config: S2VConfig, stage: Stage) -> "Parameters":
        return parameters_of(config, stage.trains)


@lru_cache
def parameters_of(config: S2VConfig, trains: tuple[str, ...]) -> Parameters:
    stage = Stage(name="any", steps=1, trains=trains)
    with torch.device("meta"):
        network = S2VModel(config)
    sizes = {name: parameter.numel() for name, parameter in network.named_parameters()}
    trained = {name: size for name, size in sizes.items() if stage.learns(name)}
    block = max(sum(parameter.numel() for parameter in block.parameters()) for block in network.layers)
    learn = any(name.startswith("blocks.") and ".audio_injector." not in name for name in trained)
    return Parameters(sum(sizes.values()), sum(trained.values()), block, learn)


@dataclass(frozen=True)
class Memory:
    """Bytes of a GPU by part at the fullest `moment`: of the rank that has most. host: of a node, beside it."""

    parts: Mapping[str, float]
    moment: str
    host: float

    @property
    def total(self) -> float:
        return sum(self.parts.values())


def memory(
    stage: Stage, config: S2VConfig, size: Size, arrangement: Arrangement, gpus: int, per_node: int, encodes: bool
) -> Memory:
    """encodes: latents are made while training, not read from latent shards."""
    e = element_bytes(stage)
    parameters = Parameters.of(config, stage)
    stays = states(stage, parameters, gpus)
    host = 0.0
    if stage.optimiser.offload:
        host = sum(stays.pop(part) for part in list(stays) if part != "weights") * min(gpus, per_node)
    examples = size.example_bytes(config) * stage.batch * arrangement.sequence / gpus
    stays |= {"samples of an update": examples, "encoders": ENCODERS * encodes}
    held = activations(config, size, arrangement, e, parameters.blocks_learn)
    bucket, prefetch, group = (getattr(stage.zero, key) or default for key, default in ZERO.items())
    moments = {
        "backward pass": {
            # The block at work, and the buffer that another one arrives in; gradients on their way out, twice.
            "weights gathered, gradients leaving": e * (2 * (parameters.block + prefetch) + 2 * bucket),
            "kept for the backward pass": held.kept,
            "one block at work": held.block,
            "embedders": held.embedders,
        },
        # A float32 copy of the gradients, and the root of the second moments.
        "optimiser's step": {
            "optimiser at work": 0 if stage.optimiser.offload else 8 * min(group, parameters.trained / gpus)
        },
        "encoding": {"VAE at work": encodes * (ENCODING * size.height * size.width + examples)},
    }
    moment = max(moments, key=lambda name: sum(moments[name].values()))
    passing = moments[moment]
    parts = stays | passing | {"CUDA and fragments (assumed)": CUDA + FRAGMENTS * sum(passing.values())}
    return Memory({part: size for part, size in parts.items() if size}, moment, host)


def element_bytes(stage: Stage) -> int:
    return 2 if stage.precision == "bf16" else 4


def states(stage: Stage, parameters: Parameters, gpus: int) -> dict[str, float]:
    """ZeRO-3: a GPU has its part of everything. Masters are float32, and apart from the weights, whatever those are."""
    e, total, trained = element_bytes(stage), parameters.total / gpus, parameters.trained / gpus
    return {
        "weights": e * total,
        "gradients": 4 * trained,
        "masters and moments": 12 * trained,
        "moving average": 4 * trained * (stage.optimiser.ema is not None),
    }

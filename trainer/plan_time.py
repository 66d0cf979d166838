"""How long a pass takes, the forward and backward of one sample on the ranks that share it, by arithmetic.

One number is assumed: the MFU where nothing waits for communication and all but attention is computed again. From it
follows how fast kernels are, and from that the time of any arrangement, with the communication added that can't hide.
Ulysses can't. The ring is taken to hide behind attention, and ZeRO-3 behind all computation: the host asks for a
block's weights when it gets there, long before the GPU does. No GPU has been asked yet whether that is so.
"""

from dataclasses import dataclass

from model.config import S2VConfig
from trainer.metrics import model_flops, peak_of_name
from trainer.plan_activations import Arrangement, Share, Size
from trainer.plan_memory import Parameters, element_bytes
from trainer.plan_traffic import attention_passes, ring_bytes, traffic
from trainer.stages import Stage


@dataclass(frozen=True)
class Gpu:
    """flops: dense bfloat16 a second. memory: bytes as sold, and bandwidth: what they move a second. nvlink, network:
    bytes a second that a GPU really sends to others, in its node and out of it."""

    name: str
    flops: float
    memory: float
    bandwidth: float
    nvlink: float
    network: float


def gpu(name: str, memory: float, bandwidth: float, nvlink: float, network: float) -> Gpu:
    peak = peak_of_name(name.split("-")[0].upper())
    assert peak is not None
    return Gpu(name, peak, memory, bandwidth, nvlink, network)


# Memory: NVIDIA's data sheets, SXM. NVLink: of 450 GB/s, H100 and H200 send 370 (a developer of NCCL in issue 212 of
# NVIDIA/nccl-tests). A100's 235 of 300 and B200's 740 of 900 are estimates by about the same share; public runs on A100
# show 200 and more (issues 149, 178). Network: a card a GPU; 400 Gbit/s carry 48 GB/s (issue 267), A100 has half of it.
GPUS = {
    entry.name: entry
    for entry in (
        gpu("a100-40", 40e9, 1.555e12, 235e9, 24e9),
        gpu("a100-80", 80e9, 2.039e12, 235e9, 24e9),
        gpu("h100-80", 80e9, 3.35e12, 370e9, 48e9),
        gpu("h200-141", 141e9, 4.8e12, 370e9, 48e9),
        gpu("b200-180", 180e9, 8e12, 740e9, 48e9),
    )
}

# What dealing out costs within the GPU, in bytes moved for each of a token's numbers: Ulysses stacks, deals, joins;
# each hop of a ring adds up results, and backwards gradients in float32.
DEAL, MERGE, MERGE_BACK = 44, 18, 54
# The VAE, where latents are made while training: FLOPs a frame and pixel (counted on "meta" tensors), and the share of
# a GPU's bfloat16 peak that it reaches. Estimated: vita-epfl/Stable-Video-Infinity issue 49 has 1.9 s on an H200 for 81
# frames of 832x480, which that model encodes twice, 330 TFLOP.
ENCODER_FLOPS, ENCODER_SPEED = 5.09e6, 0.17
# AdamW on the CPU, with offload: bytes moved a parameter, and what a node's memory moves a second. Assumed.
CPU_ADAM, CPU_MEMORY = 80, 200e9


# ---------------------------------------------------------------- FLOPs


@dataclass(frozen=True)
class Flops:
    """Of one pass. model: what must be computed, of which MFU tells. hardware: with what is computed again.

    attention: of self-attention, forward.
    """

    model: float
    hardware: float
    attention: float


def flops(config: S2VConfig, size: Size, arrangement: Arrangement, blocks_learn: bool = True) -> Flops:
    """Backwards, flash attention computes its scores again: a fourth part more of it."""
    forward = config.flops(size.latents, size.height, size.width)
    model = model_flops(forward, blocks_learn)
    attention = forward["self_attention"]
    everything = sum(forward.values())
    again = {"all": everything, "all-but-attention": everything - attention, "nothing": 0.0}[arrangement.recompute]
    return Flops(model, model + again + attention / 2, attention)


def share_of_work(config: S2VConfig, size: Size, ranks: int) -> float:
    """Of a pass, what a rank computes: its tokens, padding included; and keys and values of the text, as all do."""
    forward = config.flops(size.latents, size.height, size.width)
    everyone = config.num_layers * 2 * config.text_len * 2 * config.dim**2 / sum(forward.values())
    tokens = Share.of(config, size, ranks).tokens / size.tokens(config)
    return everyone + (1 - everyone) * tokens


# ---------------------------------------------------------------- seconds


@dataclass(frozen=True)
class Machines:
    gpu: Gpu
    gpus: int
    per_node: int

    def bandwidth(self, ranks: int) -> float:
        """What a GPU sends a second to others, of so many neighbours."""
        return self.gpu.nvlink if ranks <= self.per_node else self.gpu.network


def seconds(
    stage: Stage,
    config: S2VConfig,
    size: Size,
    arrangement: Arrangement,
    machines: Machines,
    mfu: float,
    encodes: bool = False,
) -> dict[str, float]:
    """Of a pass, by what is waited for."""
    parameters, gpu = Parameters.of(config, stage), machines.gpu
    work = flops(config, size, arrangement, parameters.blocks_learn)
    usual = flops(config, size, Arrangement(), parameters.blocks_learn)
    speed = gpu.flops * mfu * usual.hardware / usual.model
    share = share_of_work(config, size, arrangement.sequence)
    computing = share * work.hardware / speed
    sent = traffic(stage, config, size, arrangement, machines.gpus)
    passes, backward = attention_passes(config, arrangement)
    dealt = DEAL * (passes + backward) * Share.of(config, size, arrangement.sequence).tokens * config.dim
    zero = (sent["weights"] + sent["gradients"]) / machines.bandwidth(machines.gpus)
    encoding = encodes * ENCODER_FLOPS * size.height * size.width * (73 + 2 * size.frames + 2)
    return {
        "computing": computing,
        "Ulysses": sent["ulysses"] / machines.bandwidth(arrangement.ulysses)
        + (arrangement.ulysses > 1) * dealt / gpu.bandwidth,
        "ring": ring_wait(stage, config, size, arrangement, machines, share * work.attention / speed),
        "ZeRO-3": max(0.0, zero - computing),
        "example": sent["example"] / machines.bandwidth(arrangement.sequence),
        "encoding": encoding / (gpu.flops * ENCODER_SPEED),
    }


def ring_wait(
    stage: Stage, config: S2VConfig, size: Size, arrangement: Arrangement, machines: Machines, attending: float
) -> float:
    """Keys travel while those before are attended to; what each hop adds up comes on top.

    attending: seconds of all blocks, forward. Where results are kept, keys travel again with nothing to hide behind.
    """
    ring, layers = arrangement.ring, config.num_layers
    if ring == 1:
        return 0.0
    keys, gradients = ring_bytes(config, size, arrangement, 0, element_bytes(stage))
    link = machines.bandwidth(arrangement.sequence)
    passes, backward = attention_passes(config, arrangement)
    hidden = attending / layers * (ring - 1) / ring  # nothing travels during the last hop
    there = max(0.0, keys / link - hidden)
    again = there if arrangement.recompute == "all" else keys / link
    back = max(0.0, (keys + gradients) / link - 2.5 * hidden)
    merged = MERGE * passes + MERGE_BACK * backward
    merging = merged * ring * Share.of(config, size, arrangement.sequence).tokens * config.dim / machines.gpu.bandwidth
    return layers * there + (passes - layers) * again + backward * back + merging


def offload_seconds(stage: Stage, parameters: Parameters, machines: Machines) -> float:
    """Of an update's step on the CPUs; none without offload, where it is a few hundredths of a second."""
    nodes = -(-machines.gpus // machines.per_node)
    return stage.optimiser.offload * parameters.trained * CPU_ADAM / (nodes * CPU_MEMORY)

"""What a Qwen2.5-VL takes of GPUs, how it is cut for them, and what a caption then costs: by arithmetic."""

from dataclasses import dataclass

from captioning.frames import CELL
from captioning.settings import Captioning

# What a clip takes, in tokens, at the settings that recipes start with.
ASKED = Captioning()
VIDEO = -(-ASKED.sight.most // 2) * (ASKED.sight.pixels // CELL**2)
INSTRUCTION = 2_000  # rounded up: 4,900 characters, and what is said about the clip
ANSWER = 600  # of a caption with two people; the longest possible one is `max_tokens`
CLIP = VIDEO + INSTRUCTION + ANSWER
LEAST_CONTEXT = VIDEO + INSTRUCTION + 2 * ASKED.max_tokens  # the second try is shown the first answer
CONTEXT = 128_000  # what the models below can take

SHARE = 0.92  # of a GPU's memory that vLLM may use
RESERVE = 3e9  # bytes of CUDA's context, CUDA graphs, NCCL and activations of the language model on each GPU. Assumed.
# Bytes of activations a patch of the vision tower, four patches a token: residual, norm, gate, up, their product,
# input. vLLM reserves them for one video as long as the context.
PATCH = 28e3
WANTED, MOST, LEAST = 16, 64, 4  # clips at once of one copy of the model
MFU = 0.4  # of the peak while a GPU reads prompts. Assumed.


@dataclass(frozen=True)
class Model:
    """weights, vision: bytes, of all and of the vision tower alone, which is whole on every GPU."""

    name: str
    parameters: float
    weights: float
    vision: float
    layers: int
    heads: int
    kv_heads: int
    head_dim: int = 128

    @property
    def kv_bytes(self) -> int:
        """Of a token's keys and values in bfloat16, on all GPUs of a copy together."""
        return 2 * self.layers * self.kv_heads * self.head_dim * 2


# Layers and heads: config.json of the AWQ checkpoint (the 72B differs in unpadded MLPs), of the 7B and of the 3B; for
# the 32B, the model card of Qwen2.5-32B, and its vision tower is taken to be the 72B's. Parameters: counted by building
# each network on "meta" tensors. Weights: 2 bytes each; with AWQ 4 bits and, for each 128 of them, a scale of 16 and a
# zero of 4, but for embeddings, output and vision tower.
MODELS = {
    entry.name: entry
    for entry in (
        Model("Qwen/Qwen2.5-VL-72B-Instruct", 73.41e9, 146.8e9, 1.41e9, 80, 64, 8),
        Model("Qwen/Qwen2.5-VL-72B-Instruct-AWQ", 73.41e9, 43.0e9, 1.41e9, 80, 64, 8),
        Model("Qwen/Qwen2.5-VL-32B-Instruct", 33.45e9, 66.9e9, 1.38e9, 64, 40, 8),
        Model("Qwen/Qwen2.5-VL-7B-Instruct", 8.292e9, 16.58e9, 1.35e9, 28, 28, 4),
        Model("Qwen/Qwen2.5-VL-3B-Instruct", 3.755e9, 7.51e9, 1.34e9, 36, 16, 2),
    )
}


@dataclass(frozen=True)
class Gpu:
    """memory: bytes as sold. flops: dense bfloat16 a second. NVIDIA's data sheets, SXM where there is one."""

    name: str
    memory: float
    flops: float


GPUS = {
    entry.name: entry
    for entry in (
        Gpu("a100-40", 40e9, 312e12),
        Gpu("a100-80", 80e9, 312e12),
        Gpu("h100-80", 80e9, 989e12),
        Gpu("h200-141", 141e9, 989e12),
        Gpu("b200-180", 180e9, 2250e12),
        Gpu("l40s-48", 48e9, 362e12),
        Gpu("rtx4090-24", 24e9, 165e12),
    )
}


@dataclass(frozen=True)
class Copies:
    """A model on some GPUs: `data` copies, each cut into `tensor` parts."""

    model: Model
    gpu: Gpu
    tensor: int
    data: int
    tokens: int  # of the context

    @property
    def weights(self) -> float:
        """Bytes on one GPU."""
        return (self.model.weights - self.model.vision) / self.tensor + self.model.vision

    @property
    def cache(self) -> float:
        """Bytes that are left for keys and values, of one copy. Below 0: so much is missing."""
        activations = RESERVE + 4 * self.tokens * PATCH
        return self.tensor * (SHARE * self.gpu.memory - self.weights - activations)

    @property
    def slots(self) -> int:
        """Clips that one copy can have in work at once."""
        if self.cache < self.tokens * self.model.kv_bytes:
            return 0  # vLLM doesn't start when not even one request of full length has room
        return min(MOST, int(self.cache / (CLIP * self.model.kv_bytes)))

    def seconds(self, tokens_per_second: float) -> float:
        """From request to caption with all slots busy: the answer, and its share of the time for others' videos."""
        reading = 2 * self.model.parameters * VIDEO / (self.tensor * self.gpu.flops * MFU)
        return ANSWER / tokens_per_second + self.slots * reading

    def captions_per_second(self, tokens_per_second: float) -> float:
        return self.slots * self.data / self.seconds(tokens_per_second)

    def cost(self, tokens_per_second: float, price: float) -> float:
        """Of 1,000 captions. price: of a GPU-hour."""
        hours = 1000 / self.captions_per_second(tokens_per_second) / 3600
        return hours * self.tensor * self.data * price


def arrange(model: Model, gpu: Gpu, gpus: int, tokens: int) -> Copies | None:
    """The smallest parts with room for the clips that are wanted. Where none have it: the largest parts, if they have
    room for a few. None: it doesn't fit."""
    parts = [n for n in (1, 2, 4, 8) if not any(whole % n for whole in (model.heads, model.kv_heads, gpus))]
    ways = [Copies(model, gpu, n, gpus // n, tokens) for n in parts]
    good = (way for way in ways if way.slots >= WANTED)
    return next(good, ways[-1] if ways[-1].slots >= LEAST else None)

"""What a rank sends in one pass, the forward and backward of one sample, by arithmetic."""

from model.config import S2VConfig
from trainer.plan_activations import Arrangement, Share, Size
from trainer.plan_memory import Parameters, element_bytes
from trainer.stages import Stage


def traffic(
    stage: Stage, config: S2VConfig, size: Size, arrangement: Arrangement, gpus: int, rank: int = 0
) -> dict[str, float]:
    """Bytes that `rank` of those that share a sample sends to others, by what is sent.

    weights: two all-gathers of ZeRO-3, for forward and backward; what is computed again needs none of its own, being
    within a block's backward. gradients: its reduce-scatter. Both as rings: all but a rank's own part passes it.
    ulysses: of each all-to-all what isn't for the rank itself. ring: keys, values, and their gradients in float32, as
    they are passed on. example: the broadcast, of which no rank sends more than all.
    Audio injection sends nothing.
    """
    parameters, e = Parameters.of(config, stage), element_bytes(stage)
    others = (gpus - 1) / gpus
    passes, backward = attention_passes(config, arrangement)
    keys, gradients = ring_bytes(config, size, arrangement, rank, e)
    return {
        "weights": 2 * others * e * parameters.total,
        "gradients": others * e * parameters.trained,
        "ulysses": (passes + backward) * ulysses_bytes(config, size, arrangement, e),
        "ring": (passes + backward) * keys + backward * gradients,
        "example": size.example_bytes(config) if arrangement.sequence > 1 else 0.0,
    }


def attention_passes(config: S2VConfig, arrangement: Arrangement) -> tuple[int, int]:
    """How often self-attention of a block is gone through forwards, what is computed again included, and backwards.

    Again also where its result is kept: queries, keys and values are exchanged once more.
    """
    layers = config.num_layers
    return layers if arrangement.recompute == "nothing" else 2 * layers, layers


def ulysses_bytes(config: S2VConfig, size: Size, arrangement: Arrangement, e: int) -> float:
    """Of one block, one way: queries, keys, values; and the result."""
    tokens, ranks = Share.of(config, size, arrangement.sequence).tokens, arrangement.ulysses
    return 4 * e * tokens * config.dim * (ranks - 1) / ranks


def ring_bytes(config: S2VConfig, size: Size, arrangement: Arrangement, rank: int, e: int) -> tuple[float, float]:
    """Of one block: keys and values, once around; and their gradients, in float32.

    Padding isn't sent. Keys pass every rank but the next one's, whose turn with them would be the last; gradients go
    all the way home.
    """
    ring, ulysses = arrangement.ring, arrangement.ulysses
    if ring == 1:
        return 0.0, 0.0
    held = [sum(real_tokens(config, size, arrangement, r * ulysses + u) for u in range(ulysses)) for r in range(ring)]
    heads = 2 * config.dim / ulysses
    return e * heads * (sum(held) - held[(rank // ulysses + 1) % ring]), 4 * heads * sum(held)


def real_tokens(config: S2VConfig, size: Size, arrangement: Arrangement, rank: int) -> int:
    """Tokens that a rank holds, without padding."""
    count = 0
    for segment in size.segments(config):
        held = -(-segment // arrangement.sequence)
        count += min(held, max(0, segment - rank * held))
    return count

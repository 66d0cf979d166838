"""What forward and backward of one sample hold on a rank, by arithmetic: nothing is allocated.

Counted by hand from `model/block.py` and its neighbours, and held against what the code allocates:
`python -m benchmarks.trainer_memory`. A number of the residual stream, of norms and of what modulates them takes 4
bytes, one of the large projections e.
"""

from dataclasses import dataclass

from model.config import AUDIO_LAYERS, LATENT_STRIDE, MOTION_LATENTS, TOKEN_STRIDE, S2VConfig
from trainer.recompute import Recompute


@dataclass(frozen=True)
class Arrangement:
    """How ranks share a sample, and what they compute again."""

    ring: int = 1
    ulysses: int = 1
    recompute: Recompute = "all-but-attention"

    @property
    def sequence(self) -> int:
        return self.ring * self.ulysses


@dataclass(frozen=True)
class Size:
    """Of a sample: frames of video, pixels."""

    frames: int
    height: int
    width: int

    @property
    def latents(self) -> int:
        return self.frames // 4

    @property
    def picture(self) -> int:
        """Tokens of a latent frame."""
        return (self.height // TOKEN_STRIDE) * (self.width // TOKEN_STRIDE)

    def tokens(self, config: S2VConfig) -> int:
        return config.tokens(self.latents, self.height, self.width)

    def segments(self, config: S2VConfig) -> tuple[int, int, int]:
        """Noisy, reference and motion tokens."""
        noisy = self.latents * self.picture
        return noisy, self.picture, self.tokens(config) - noisy - self.picture

    def example_bytes(self, config: S2VConfig) -> float:
        """Of a `trainer.sample.Example`."""
        latent_pixels = (self.height // LATENT_STRIDE) * (self.width // LATENT_STRIDE)
        pictures = config.in_dim * (2 * self.latents + MOTION_LATENTS + 1) * latent_pixels
        return 2 * (pictures + AUDIO_LAYERS * config.audio_dim * self.frames + config.text_len * config.text_dim)


@dataclass(frozen=True)
class Share:
    """Tokens that each of the ranks that share a sample holds, padding included, as `model.layout` deals them out.

    whole: noisy tokens as the audio injector takes them, in whole latent frames, on the rank that has the most.
    """

    noisy: int
    tokens: int
    whole: int

    @classmethod
    def of(cls, config: S2VConfig, size: Size, ranks: int) -> "Share":
        held = [-(-segment // ranks) for segment in size.segments(config)]
        noisy, picture = held[0], size.picture
        frames = max((rank * noisy % picture + noisy - 1) // picture + 1 for rank in range(ranks))
        return cls(noisy, sum(held), frames * picture)


@dataclass(frozen=True)
class Activations:
    """embedders: of what comes before the blocks. kept: of all blocks, for the backward pass. block: of the block that
    is at work, computed again and backwards."""

    embedders: float
    kept: float
    block: float

    @property
    def total(self) -> float:
        return self.embedders + self.kept + self.block


def activations(
    config: S2VConfig, size: Size, arrangement: Arrangement, e: int, blocks_learn: bool = True
) -> Activations:
    """At the worst moment of forward and backward."""
    share = Share.of(config, size, arrangement.sequence)
    held = Block(config, share, arrangement, e, blocks_learn)
    injects, layers = config.audio_inject_layers, config.num_layers
    before = embedders(config, size, share, e, blocks_learn)
    if arrangement.recompute == "nothing":
        kept = layers * held.saved + len(injects) * held.injector
        last = max(held.head, held.end + inputs(config, size), held.work(layers - 1 in injects))
        return Activations(before, kept, last)
    # Backwards, a block's memory is free again before the next one's is needed.
    kinds = {layer in injects: layer + 1 for layer in range(layers)}  # the last block of each kind: most inputs stand
    moments = [(count * held.kept, held.again(injecting)) for injecting, count in kinds.items()]
    moments.append((0, 4 * 6 * config.dim**2 * blocks_learn))  # short sequences: the gradient of time_projection
    return Activations(before, *max(moments, key=sum))


@dataclass(frozen=True)
class Block:
    """Bytes of one block. A token's number in float32 takes 4, in the projections' dtype e."""

    config: S2VConfig
    share: Share
    arrangement: Arrangement
    e: int
    learns: bool

    @property
    def stream(self) -> float:
        """The residual stream, as it enters."""
        return 4 * self.share.tokens * self.config.dim

    @property
    def attended(self) -> float:
        """The result of self-attention, and a log-sum-exp for each head."""
        return (self.e * self.config.dim + 4 * self.config.num_heads) * self.share.tokens

    @property
    def kept(self) -> float:
        """Of a block that is computed again. In a ring, each hop has a result."""
        some = self.arrangement.recompute == "all-but-attention"
        return self.stream + (self.arrangement.ring * self.attended if some else 0)

    @property
    def to_tokens(self) -> float:
        """Saved of self-attention: input, its norm, what was modulated; q and k before their norms; q, k, v."""
        e, ring, ulysses = self.e, self.arrangement.ring > 1, self.arrangement.ulysses > 1
        copies = 1 * ulysses + 2 * (ring and ulysses)  # the result as dealt back; keys and values on their way
        learning = (4 + e) * self.learns  # the gradients of scale and gate need what they scaled
        return (4 + learning + 6 * e + copies * e) * self.share.tokens * self.config.dim + self.attended

    @property
    def to_text(self) -> float:
        """Saved of text attention: input, its norm, q before and after its norm, the result; keys and values."""
        return (4 + 3 * self.e) * self.share.tokens * self.config.dim + self.attended + self.words

    @property
    def words(self) -> float:
        return 5 * self.e * self.config.text_len * self.config.dim

    @property
    def ffn(self) -> float:
        """Saved of the FFN: input, its norm, what was modulated; hidden values before and after GELU; the result."""
        learning = (4 + self.e) * self.learns
        return ((4 + learning + self.e) * self.config.dim + 2 * self.e * self.config.ffn_dim) * self.share.tokens

    @property
    def saved(self) -> float:
        """All that a block without injector saves."""
        return self.to_tokens + self.to_text + self.ffn

    @property
    def injector(self) -> float:
        """What an injector adds: input, its norm, the scales; then of whole frames, q, and what it heard."""
        e, d, share = self.e, self.config.dim, self.share
        return self.stream + (8 + 2 * e) * share.noisy * d + (2 * e * d + 4 * self.config.num_heads) * share.whole

    def work(self, injecting: bool) -> float:
        """Gradients and what they are made of, beyond all that is saved, when there is most."""
        e, d, ffn, share = self.e, self.config.dim, self.config.ffn_dim, self.share
        if injecting:  # the stream's gradient, what the injector's own is cast to, and its input, not yet let go
            return self.stream + (4 + e) * share.noisy * d
        # At the FFN's gate, its products; at its second projection, gradients of both sides and of the weights, when
        # the result is no longer needed.
        gate = self.stream + (8 * share.noisy + e * share.tokens) * d
        second = self.stream + (e * d * (not self.learns) + e * ffn) * share.tokens + e * d * ffn
        if self.arrangement.ring == 1:
            return max(gate, second)
        # Two blocks of keys and values travel, with their gradients in float32.
        hop = self.stream + (28 + 10 * e) * share.tokens * d - self.to_text - self.ffn
        return max(gate, second, hop)

    def again(self, injecting: bool) -> float:
        """Of a block that is computed again, beyond what was kept of it."""
        return self.saved + (self.injector if injecting else 0) - self.kept + self.work(injecting)

    @property
    def head(self) -> float:
        """After the last block: its result, the head's norm, and four of its size in the backward pass."""
        return self.stream + 5 * 4 * self.share.noisy * self.config.dim

    @property
    def end(self) -> float:
        """Of the forward pass: the last result, the head's norm and what is made of it, what the blocks began with."""
        return 2 * self.stream + 2 * 4 * self.share.noisy * self.config.dim


def inputs(config: S2VConfig, size: Size) -> float:
    """In float32, until the end of the forward pass: clean and noisy latents, noise, velocity, pose; motion; text."""
    latent_pixels = (size.height // LATENT_STRIDE) * (size.width // LATENT_STRIDE)
    latents = config.in_dim * (5 * size.latents + MOTION_LATENTS + 1) * latent_pixels
    return 4 * (latents + config.text_len * config.text_dim)


def embedders(config: S2VConfig, size: Size, share: Share, e: int, blocks_learn: bool) -> float:
    """What lives until the end of the backward pass: float32 copies of weights, the audio encoder's values, angles,
    patches, latents."""
    d, audio = config.dim, config.audio_dim
    sound = MOTION_LATENTS * 4 + size.frames
    quarter, half = d // 4, d // 2
    convolutions = 3 * audio * quarter * (config.num_audio_token + 1) + 2 * 3 * (quarter * half + half * d)
    weights = convolutions + d * d + (7 * d * d if blocks_learn else 0)
    heard = (AUDIO_LAYERS + 4) * audio * sound + (config.num_audio_token + 1) * sound * (4 * quarter + 2 * half + d)
    angles = share.tokens * config.head_dim
    motion = config.in_dim * MOTION_LATENTS * (size.height // LATENT_STRIDE) * (size.width // LATENT_STRIDE)
    patches = 4 * config.in_dim * (share.noisy + share.tokens) + motion
    text = config.text_len * (config.text_dim + 2 * d)
    return 4 * (weights * (e < 4) + heard + angles) + e * (patches + text)

"""The shape of a Wan-S2V network, and the arithmetic that follows from it: tokens, parameters, FLOPs, memory."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from model.errors import CheckpointError

LATENT_STRIDE = 8  # pixels a latent pixel, each way; a latent frame is 4 video frames
TOKEN_STRIDE = 16  # pixels a token, each way: the patch is 2 x 2 latent pixels
MOTION_LATENTS = 19  # FramePack looks back 1 + 2 + 16 latent frames (73 video frames)
AUDIO_LAYERS = 25  # hidden states of wav2vec2: the embedding and 24 layers


@dataclass(frozen=True)
class S2VConfig:
    """The keys of the official `config.json`, plus `text_dim`, which it leaves out. Defaults are the 14B model's."""

    dim: int = 5120
    ffn_dim: int = 13824
    num_heads: int = 40
    num_layers: int = 40
    freq_dim: int = 256
    text_dim: int = 4096
    text_len: int = 512
    in_dim: int = 16
    out_dim: int = 16
    cond_dim: int = 16
    audio_dim: int = 1024
    num_audio_token: int = 4
    audio_inject_layers: tuple[int, ...] = (0, 4, 8, 12, 16, 20, 24, 27, 30, 33, 36, 39)
    add_last_motion: bool = True
    framepack_drop_mode: str = "padd"
    eps: float = 1e-6

    def __post_init__(self) -> None:
        if self.dim % self.num_heads or self.head_dim % 2:
            raise CheckpointError(f"dim {self.dim} does not divide into {self.num_heads} heads of an even size.")
        if not all(0 <= layer < self.num_layers for layer in self.audio_inject_layers):
            raise CheckpointError(
                f"audio_inject_layers {list(self.audio_inject_layers)} goes beyond the {self.num_layers} blocks."
            )
        if self.framepack_drop_mode not in ("padd", "drop"):
            raise CheckpointError(f"framepack_drop_mode is 'padd' or 'drop', not '{self.framepack_drop_mode}'.")

    @classmethod
    def from_official(cls, keys: Mapping[str, Any], text_dim: int = 4096) -> "S2VConfig":
        """From the content of an official `config.json`; a variant that this network is not is refused by name."""
        fixed = {"enable_motioner": False, "enable_framepack": True, "enable_adain": True, "adain_mode": "attn_norm"}
        fixed |= {"zero_timestep": True, "model_type": "s2v", "enable_tsm": False, "trainable_token_pos_emb": False}
        for key, value in fixed.items():
            if keys.get(key, value) != value:
                raise CheckpointError(f"This network has {key}={value!r}; the checkpoint says {keys[key]!r}.")
        known = {f.name for f in fields(cls)}
        chosen = {"text_dim": text_dim} | {k: v for k, v in keys.items() if k in known}
        chosen["audio_inject_layers"] = tuple(chosen.get("audio_inject_layers", cls.audio_inject_layers))
        return cls(**chosen)

    def to_official(self) -> dict[str, Any]:
        """The content of an official `config.json`."""
        keys = asdict(self) | {"audio_inject_layers": list(self.audio_inject_layers)}
        del keys["text_dim"]
        return keys | {
            "_class_name": "WanModel_S2V",
            "adain_mode": "attn_norm",
            "enable_adain": True,
            "enable_framepack": True,
            "enable_motioner": False,
            "enable_tsm": False,
            "model_type": "s2v",
            "motion_token_num": 1024,
            "trainable_token_pos_emb": False,
            "zero_init": True,
            "zero_timestep": True,
        }

    @property
    def head_dim(self) -> int:
        return self.dim // self.num_heads

    @property
    def audio_tokens(self) -> int:
        """Keys that one latent frame listens to: the encoder's tokens and a learned one."""
        return self.num_audio_token + 1

    def tokens(self, frames: int, height: int, width: int, motion: bool = True) -> int:
        """Tokens of `frames` latent frames at height x width pixels, with the reference and the motion frames."""
        h, w = height // LATENT_STRIDE, width // LATENT_STRIDE
        picture = (h // 2) * (w // 2)
        packed = picture + (h // 4) * (w // 4) + 4 * (h // 8) * (w // 8)
        return (frames + 1) * picture + (packed if motion else 0)

    def parameters(self) -> dict[str, int]:
        """Parameters by group."""
        d, patch = self.dim, 4
        attention = 4 * (d * d + d) + 2 * d
        block = 2 * attention + 2 * d * self.ffn_dim + self.ffn_dim + d + 2 * d + 6 * d
        injector = attention + 2 * d * d + 2 * d
        quarter = d // 4
        convs = 3 * self.audio_dim * (quarter * self.num_audio_token + quarter) + quarter * (self.num_audio_token + 1)
        convs += 3 * quarter * (d // 2) + d // 2 + 3 * (d // 2) * d + d
        embed = self.in_dim * patch * d + d
        return {
            "blocks": self.num_layers * block,
            "audio_injector": len(self.audio_inject_layers) * injector,
            "audio_encoder": convs + d * d + d + d + AUDIO_LAYERS,
            "time_projection": 6 * d * d + 6 * d,
            "text_embedding": self.text_dim * d + d + d * d + d,
            "time_embedding": self.freq_dim * d + d + d * d + d,
            "frame_packer": self.in_dim * d * (4 + 2 * 16 + 4 * 64) + 3 * d,
            "patch_embedding": embed,
            "pose_embedding": self.cond_dim * patch * d + d,
            "head": 2 * d + d * self.out_dim * patch + self.out_dim * patch,
            "segment_embedding": 3 * d,
        }

    def flops(self, frames: int, height: int, width: int, motion: bool = True) -> dict[str, float]:
        """FLOPs of one forward pass of one sample, by part; a multiply-add counts as two.

        linear: q, k, v, o of self-attention, q and o of text attention, the two of the FFN, on every token.
        text: K and V of the text and attention to it. injection: q and o on the video tokens, K and V of the audio.
        """
        d, s = self.dim, self.tokens(frames, height, width, motion)
        video = frames * (height // TOKEN_STRIDE) * (width // TOKEN_STRIDE)
        linear = 2 * s * (6 * d * d + 2 * d * self.ffn_dim)
        text = 2 * self.text_len * 2 * d * d + 4 * s * self.text_len * d
        heard = frames * self.audio_tokens
        injection = 2 * video * 2 * d * d + 2 * heard * 2 * d * d + 4 * video * self.audio_tokens * d
        injection += frames * 2 * d * 2 * d
        return {
            "linear": float(self.num_layers * linear),
            "self_attention": float(self.num_layers * 4 * s * s * d),
            "text": float(self.num_layers * text),
            "injection": float(len(self.audio_inject_layers) * injection),
        }

    def weight_bytes(self) -> int:
        return 2 * sum(self.parameters().values())

    def cache_bytes(self, frames: int, height: int, width: int, motion: bool = True) -> int:
        """What is kept while a clip is sampled, of one branch of guidance, with a prompt of `text_len` tokens."""
        d, s = self.dim, self.tokens(frames, height, width, motion)
        audio = frames * self.audio_tokens
        stream = 4 * s * d  # pose, reference and motion tokens, float32
        rope = 4 * s * self.head_dim  # half a head of cosines and of sines
        context = 4 * (self.text_len + audio + frames) * d  # as the blocks' projections find it
        text = 2 * 2 * self.text_len * d  # K and V of a block
        injection = 2 * 2 * audio * d + 2 * 4 * frames * d  # K and V, shift and scale of an injecting block
        return stream + rope + context + self.num_layers * text + len(self.audio_inject_layers) * injection

    def activation_bytes(self, frames: int, height: int, width: int, motion: bool = True) -> int:
        """The peak of what one forward pass of one sample holds when sampling, beside weights and caches.

        For bfloat16 weights and attention that keeps no scores (flash). The residual stream and norms take 4 bytes a
        value, what enters and leaves a projection 2. The peak is the largest of these moments:
        """
        d, s = self.dim, self.tokens(frames, height, width, motion)
        video = frames * (height // TOKEN_STRIDE) * (width // TOKEN_STRIDE)
        return max(
            # the injector's input: as at the FFN; video tokens normed, the scales of their frames, the product of both
            (2 * 4 + 2) * s * d + 3 * 4 * video * d,
            # the FFN: the stream, now and before the block; its normed copy; hidden values before and after GELU
            (2 * 4 + 2) * s * d + 2 * 2 * s * self.ffn_dim,
            # short sequences: time_projection, whose weights become float32
            4 * 6 * d * d,
        )

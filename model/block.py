"""One transformer block: self-attention, text attention, FFN, on some blocks the audio injector (paper section 3)."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.attention import Attend, Attention, attention
from model.config import S2VConfig
from model.layout import Layout
from model.precision import FeedForward, Fp32LayerNorm, project
from model.rope import rotate

# Tuples, so that whatever looks for tensors among a block's arguments (ZeRO-3 does, for its hooks) finds them.


class Context(NamedTuple):
    """What every block listens to, before the block's own projections.

    text (B, L, D); text_bias (B, 1, 1, L); audio (B, F, A, D): the tokens of each latent frame; audio_global (B, F, D).
    The last two are None for blocks without an injector: what a block doesn't use never gets a gradient, which ZeRO-3
    would wait for with the block's weights in memory.
    """

    text: Tensor
    text_bias: Tensor
    audio: Tensor | None
    audio_global: Tensor | None

    def for_block(self, injects_audio: bool) -> "Context":
        return self if injects_audio else self._replace(audio=None, audio_global=None)


class Heard(NamedTuple):
    """A context through one block's projections. It doesn't depend on the timestep: sampling computes it once a clip.

    text_k, text_v (B, L, H, K); audio_k, audio_v (B, F, A, H, K); shift, scale (B, F, D).
    """

    text_k: Tensor
    text_v: Tensor
    text_bias: Tensor
    audio: "HeardAudio | None"


class HeardAudio(NamedTuple):
    k: Tensor
    v: Tensor
    shift: Tensor
    scale: Tensor


class AudioInjector(nn.Module):
    """Cross-attention of each latent frame's tokens to that frame's audio tokens, after an adaptive LayerNorm."""

    def __init__(self, config: S2VConfig):
        super().__init__()
        self.attention = Attention(config.dim, config.num_heads, config.eps)
        self.adain = nn.Linear(config.dim, 2 * config.dim)
        self.norm = Fp32LayerNorm(config.dim, eps=1e-5, elementwise_affine=False)  # 1e-5 here, 1e-6 elsewhere: official

    def listen(self, context: Context) -> HeardAudio:
        assert context.audio is not None
        assert context.audio_global is not None
        shift, scale = project(self.adain, F.silu(context.audio_global)).float().chunk(2, -1)
        k, v = self.attention.keys_values(context.audio)
        return HeardAudio(k, v, shift, scale)

    def forward(self, noisy_BND: Tensor, heard: HeardAudio, layout: Layout) -> Tensor:
        """What the held noisy tokens hear, (B, N, D). Every token needs only its own frame's audio: no other rank."""
        picture, count = layout.height * layout.width, noisy_BND.shape[1]
        frames = layout.heard
        owner = frames[layout.owner]
        normed = self.norm(noisy_BND) * (1 + heard.scale)[:, owner] + heard.shift[:, owner]
        queries = self.attention.queries(normed)
        lead = layout.lead
        after = len(frames) * picture - lead - count  # whole frames, so that each is one row of a batch
        queries = F.pad(queries, (0, 0, 0, 0, lead, after)).unflatten(1, (len(frames), picture))
        k, v = heard.k[:, frames], heard.v[:, frames]
        mixed = attention(queries.flatten(0, 1), k.flatten(0, 1), v.flatten(0, 1))
        mixed = mixed.unflatten(0, (-1, len(frames))).flatten(1, 2)[:, lead : lead + count]
        return self.attention.output(mixed)


def modulate(x_BSD: Tensor, shift_B2D: Tensor, scale_B2D: Tensor, split: int, dtype: torch.dtype) -> Tensor:
    """x * (1 + scale) + shift; slot 0 for the noisy tokens (timestep t), slot 1 for the others (timestep 0).

    In the dtype of the projections that follow: cast once, not by each of them.
    """
    parts = zip(x_BSD.tensor_split((split,), 1), shift_B2D.split(1, 1), scale_B2D.split(1, 1), strict=True)
    return torch.cat([torch.addcmul(shift, x, 1 + scale).to(dtype) for x, shift, scale in parts], 1)


def add_gated(x_BSD: Tensor, y_BSD: Tensor, gate_B2D: Tensor, split: int) -> Tensor:
    """x + gate * y in float32, with the slots of `modulate`."""
    parts = zip(x_BSD.tensor_split((split,), 1), y_BSD.tensor_split((split,), 1), gate_B2D.split(1, 1), strict=True)
    return torch.cat([torch.addcmul(x, y, gate) for x, y, gate in parts], 1)


class Block(nn.Module):
    def __init__(self, config: S2VConfig, injects_audio: bool):
        super().__init__()
        d = config.dim
        self.norm1 = Fp32LayerNorm(d, eps=config.eps, elementwise_affine=False)
        self.self_attn = Attention(d, config.num_heads, config.eps)
        self.norm3 = Fp32LayerNorm(d, eps=config.eps)
        self.cross_attn = Attention(d, config.num_heads, config.eps)
        self.norm2 = Fp32LayerNorm(d, eps=config.eps, elementwise_affine=False)
        self.ffn = FeedForward(nn.Linear(d, config.ffn_dim), nn.GELU(approximate="tanh"), nn.Linear(config.ffn_dim, d))
        self.modulation = nn.Parameter(torch.randn(1, 6, d) / d**0.5)
        self.audio_injector = AudioInjector(config) if injects_audio else None

    def listen(self, context: Context) -> Heard:
        text_k, text_v = self.cross_attn.keys_values(context.text)
        audio = self.audio_injector.listen(context) if self.audio_injector else None
        return Heard(text_k, text_v, context.text_bias, audio)

    def forward(
        self,
        x_BSD: Tensor,
        modulation_B26D: Tensor,
        rope: tuple[Tensor, Tensor],
        context: Context | Heard,
        layout: Layout,
        attend: Attend,
    ) -> Tensor:
        """The float32 residual stream, one block on. `modulation`: at the timestep (slot 0), at timestep 0 (slot 1)."""
        heard = context if isinstance(context, Heard) else self.listen(context)
        split, dtype = layout.split, self.self_attn.q.weight.dtype
        modulation = modulation_B26D + self.modulation.float()[:, None]
        shift1, scale1, gate1, shift2, scale2, gate2 = modulation.unbind(2)

        h = modulate(self.norm1(x_BSD), shift1, scale1, split, dtype)
        x_BSD = add_gated(x_BSD, self.attend_to_tokens(h, rope, attend), gate1, split)
        x_BSD = x_BSD + self.attend_to_text(self.norm3(x_BSD), heard)
        h = modulate(self.norm2(x_BSD), shift2, scale2, split, dtype)
        x_BSD = add_gated(x_BSD, self.ffn(h), gate2, split)
        if self.audio_injector is not None and heard.audio is not None:
            noisy, others = x_BSD.tensor_split((split,), 1)
            x_BSD = torch.cat([noisy + self.audio_injector(noisy, heard.audio, layout), others], 1)
        return x_BSD

    # Methods of their own, so that queries, keys and values are freed before the FFN needs the memory.

    def attend_to_tokens(self, h_BSD: Tensor, rope: tuple[Tensor, Tensor], attend: Attend) -> Tensor:
        q = rotate(self.self_attn.queries(h_BSD), rope)
        k, v = self.self_attn.keys_values(h_BSD)
        return self.self_attn.output(attend(q, rotate(k, rope), v))

    def attend_to_text(self, h_BSD: Tensor, heard: Heard) -> Tensor:
        q = self.cross_attn.queries(h_BSD)
        return self.cross_attn.output(attention(q, heard.text_k, heard.text_v, heard.text_bias))

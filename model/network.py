"""The network of Wan-S2V (paper section 3): noisy latents, and everything that conditions them, to a velocity.

Names of sizes: B batch, S tokens held, N noisy tokens held, D width, H heads, K head size, F latent frames, h x w
latent pixels, C channels, L text tokens, A audio tokens a latent frame, T audio frames (16 a second).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.audio_encoder import AudioEncoder
from model.block import Block, Context, Heard
from model.config import S2VConfig
from model.frame_packer import FramePacker, PatchEmbedding, unpatchify
from model.layout import PACKED, Layout
from model.parallel import ALONE, Parallel
from model.precision import FeedForward, Fp32LayerNorm, Fp32Linear
from model.rope import rope_table

NOISY, REFERENCE, MOTION = range(3)  # rows of the segment embedding


@dataclass(frozen=True)
class Conditions:
    """What a clip is conditioned on.

    text: umT5 states of each sample, (L, text_dim) without padding. audio (B, 25, audio_dim, T): wav2vec2's hidden
    states at 16 frames a second, T = 4 F. reference (B, C, 1, h, w). motion (B, C, any number, h, w): latents before
    the clip, or None where there are none. pose (B, C, F, h, w), or None.
    last_motion: 2 keeps all motion latents, 1 blanks (or drops) the newest one, 0 the newest three.
    motion_dropped: as if motion were None, but the packer runs. On ranks that train together with other clips, all must
    call the same modules.
    """

    text: Sequence[Tensor]
    audio: Tensor
    reference: Tensor
    motion: Tensor | None = None
    pose: Tensor | None = None
    last_motion: int = 2
    motion_dropped: bool = False


@dataclass(frozen=True)
class Encoded:
    """Conditions through the network's embedders: what doesn't change while a clip is sampled."""

    layout: Layout
    rope: tuple[Tensor, Tensor]
    pose: Tensor  # (B, N, D), with the noisy segment's embedding: added to the noisy tokens
    others: Tensor  # (B, S - N, D): reference and motion tokens
    context: Context
    heard: tuple[Heard, ...] = ()  # the context through each block's projections, if computed ahead


class Head(nn.Module):
    def __init__(self, config: S2VConfig):
        super().__init__()
        self.norm = Fp32LayerNorm(config.dim, eps=config.eps, elementwise_affine=False)
        self.head = Fp32Linear(config.dim, 4 * config.out_dim)
        self.modulation = nn.Parameter(torch.randn(1, 2, config.dim) / config.dim**0.5)

    def forward(self, x_BND: Tensor, time_BD: Tensor) -> Tensor:
        shift, scale = (self.modulation.float() + time_BD[:, None]).chunk(2, 1)
        return self.head(torch.addcmul(shift, self.norm(x_BND), 1 + scale))


class S2VModel(nn.Module):
    """Single-device code. Ranks share the work through `parallel`: it replaces self-attention and the last gather."""

    def __init__(self, config: S2VConfig):
        super().__init__()
        self.config = config
        d = config.dim
        self.patch_embedding = PatchEmbedding(config.in_dim, d, (1, 2, 2))
        self.pose_embedding = PatchEmbedding(config.cond_dim, d, (1, 2, 2))
        self.frame_packer = FramePacker(config)
        self.segment_embedding = nn.Embedding(3, d)
        self.text_embedding = FeedForward(nn.Linear(config.text_dim, d), nn.GELU(approximate="tanh"), nn.Linear(d, d))
        self.time_embedding = nn.Sequential(Fp32Linear(config.freq_dim, d), nn.SiLU(), Fp32Linear(d, d))
        self.time_projection = nn.Sequential(nn.SiLU(), Fp32Linear(d, 6 * d))
        self.audio_encoder = AudioEncoder(config)
        self.blocks = nn.ModuleList(Block(config, i in config.audio_inject_layers) for i in range(config.num_layers))
        self.head = Head(config)

    @property
    def layers(self) -> list[Block]:
        return list(self.blocks)  # type: ignore[arg-type]

    def forward(
        self, latent_BCFhw: Tensor, timestep_B: Tensor, conditions: Conditions, parallel: Parallel = ALONE
    ) -> Tensor:
        """Velocity (B, C, F, h, w), float32, of the noisy `latent` at `timestep` (0 to 1000, any number type).

        h and w must be multiples of 8 where there is motion, of 2 otherwise.
        """
        return self.denoise(
            latent_BCFhw, timestep_B, self.encode(conditions, latent_BCFhw.shape[2], parallel), parallel
        )

    def encode(self, conditions: Conditions, frames: int, parallel: Parallel = ALONE) -> Encoded:
        """Everything that doesn't depend on latent or timestep, for a clip of `frames` latent frames."""
        h, w = conditions.reference.shape[-2:]
        levels, blanked = self.motion_levels(conditions)
        layout = Layout.of(frames, h // 2, w // 2, levels, parallel.rank, parallel.world, conditions.reference.device)
        pose = conditions.pose
        if pose is None:
            pose = conditions.reference.new_zeros(1, self.config.cond_dim, frames, h, w)
        noisy, reference, motion = self.segment_embedding(torch.arange(3, device=conditions.reference.device)).float()
        others = self.patch_embedding(conditions.reference, layout.rows[REFERENCE]) + reference
        if conditions.motion is not None:
            packed = self.frame_packer(conditions.motion, levels or tuple(PACKED), blanked)
            others = torch.cat([others, packed[:, layout.rows[MOTION]] + motion], 1)
        return Encoded(
            layout,
            rope_table(layout.positions, self.config.head_dim),
            self.pose_embedding(pose, layout.rows[NOISY]) + noisy,
            others,
            self.context(conditions, frames),
        )

    def motion_levels(self, conditions: Conditions) -> tuple[tuple[int, ...], int]:
        """FramePack levels present, and how many of the newest latents are blanked."""
        last = conditions.last_motion * self.config.add_last_motion
        if conditions.motion is None or conditions.motion_dropped:
            return (), 0
        if self.config.framepack_drop_mode == "drop":
            return {0: (4,), 1: (2, 4)}.get(last, tuple(PACKED)), 0
        return tuple(PACKED), {0: 3, 1: 1}.get(last, 0)

    def context(self, conditions: Conditions, frames: int) -> Context:
        text, bias = self.embed_text(conditions.text)
        audio_global, audio = self.audio_encoder.clip(conditions.audio)
        if audio.shape[1] != frames:
            raise ValueError(
                f"{conditions.audio.shape[-1]} audio frames condition {audio.shape[1]} latent frames, not {frames}"
            )
        return Context(text, bias, audio, audio_global)

    def embed_text(self, text: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Prompts -> (B, L, D) and the logit bias (B, 1, 1, L) of each token.

        The official model pads prompts with zeros to `text_len` and attends to the padding. All padding is one token,
        so here it stands once, weighted by log(count): in two parts, because bfloat16 can't hold the logarithm in one.
        """
        longest = max(len(states) for states in text)
        padded = torch.stack([F.pad(states, (0, 0, 0, longest + 2 - len(states))) for states in text])
        bias = padded.new_full(padded.shape[:2], -math.inf, dtype=torch.float32)
        for row, states in zip(bias, text, strict=True):
            row[: len(states)] = 0
            row[longest:] = row.new_tensor(log_parts(self.config.text_len - len(states)))
        return self.text_embedding(padded).float(), bias[:, None, None]

    def listen(self, encoded: Encoded) -> Encoded:
        """With every block's keys, values, shifts and scales computed ahead, once for all timesteps."""
        return replace(encoded, heard=tuple(block.listen(encoded.context) for block in self.layers))

    def denoise(self, latent_BCFhw: Tensor, timestep_B: Tensor, encoded: Encoded, parallel: Parallel = ALONE) -> Tensor:
        """Velocity (B, C, F, h, w) of the whole clip, on every rank."""
        local = self.denoise_tokens(latent_BCFhw, timestep_B, encoded, parallel)
        layout = encoded.layout
        whole = parallel.gather(local)[:, : layout.noisy_total]
        return unpatchify(whole, (layout.frames, layout.height, layout.width), self.config.out_dim)

    def denoise_tokens(self, latent_BCFhw: Tensor, timestep_B: Tensor, encoded: Encoded, parallel: Parallel) -> Tensor:
        """Velocity of the held noisy tokens, (B, N, 4 C)."""
        layout = encoded.layout
        time_BD, modulation = self.embed_time(timestep_B)
        x = self.patch_embedding(latent_BCFhw, layout.rows[NOISY]) + encoded.pose
        x = torch.cat([x, encoded.others.expand(len(x), -1, -1)], 1)
        attend = parallel.attention(layout)
        contexts: Sequence[Heard | Context] = encoded.heard
        contexts = contexts or [encoded.context.for_block(block.audio_injector is not None) for block in self.layers]
        for block, context in zip(self.layers, contexts, strict=True):
            x = block(x, modulation, encoded.rope, context, layout, attend)
        return self.head(x[:, : layout.split], time_BD)

    def embed_time(self, timestep_B: Tensor) -> tuple[Tensor, Tensor]:
        """(B, D) for the head, and (B, 2, 6, D): the blocks' modulation at the timestep and at timestep 0."""
        half = self.config.freq_dim // 2
        ladder = 10_000.0 ** (-torch.arange(half, dtype=torch.float64, device=timestep_B.device) / half)
        turned = F.pad(timestep_B.double(), (0, 1))[:, None] * ladder
        embedded = self.time_embedding(torch.cat([turned.cos(), turned.sin()], 1).float())
        projected = self.time_projection(embedded).unflatten(1, (6, -1))
        now, still = projected[:-1], projected[-1:].expand_as(projected[:-1])
        return embedded[:-1], torch.stack([now, still], 1)


def log_parts(count: int) -> tuple[float, float]:
    """Two logit biases whose weights add up to `count`; the first has a mantissa of 8 bits."""
    if count <= 0:
        return -math.inf, -math.inf
    first = math.floor(math.log(count) * 32) / 32
    rest = count - math.exp(first)
    return first, math.log(rest) if rest > 0 else -math.inf

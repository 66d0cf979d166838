"""From wav2vec2's hidden states to tokens that a latent frame can attend to (paper section 3: causal audio encoder)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.config import AUDIO_LAYERS, MOTION_LATENTS, S2VConfig
from model.precision import Fp32CausalConv1d, Fp32LayerNorm, Fp32Linear

MOTION_FRAMES = 4 * (MOTION_LATENTS - 1) + 1  # 73 video frames before a clip


class AudioEncoder(nn.Module):
    """A learned mix of the hidden states, then causal convolutions that halve time twice: one step a latent frame."""

    def __init__(self, config: S2VConfig):
        super().__init__()
        d, self.heads = config.dim, config.num_audio_token
        quarter = d // 4
        self.layer_weights = nn.Parameter(torch.full((1, AUDIO_LAYERS, 1, 1), 0.01))
        self.conv1_local = Fp32CausalConv1d(config.audio_dim, quarter * self.heads, 3)
        self.conv1_global = Fp32CausalConv1d(config.audio_dim, quarter, 3)
        self.norm1 = Fp32LayerNorm(quarter, eps=1e-6, elementwise_affine=False)
        self.conv2 = Fp32CausalConv1d(quarter, d // 2, 3, stride=2)
        self.norm2 = Fp32LayerNorm(d // 2, eps=1e-6, elementwise_affine=False)
        self.conv3 = Fp32CausalConv1d(d // 2, d, 3, stride=2)
        self.norm3 = Fp32LayerNorm(d, eps=1e-6, elementwise_affine=False)
        self.final_linear = Fp32Linear(d, d)
        self.padding_token = nn.Parameter(torch.zeros(1, 1, 1, d))

    def forward(self, states_BLCT: Tensor) -> tuple[Tensor, Tensor]:
        """(B, 25, C, T) -> one global token (B, t, D) and 5 local ones (B, t, 5, D), t = T / 4 rounded up."""
        mix = F.silu(self.layer_weights.float())
        mixed_BCT = (states_BLCT.float() * mix).sum(1) / mix.sum()
        heads_BnCT = self.conv1_local(mixed_BCT).unflatten(1, (self.heads, -1))
        local = self.halve_twice(heads_BnCT.flatten(0, 1)).unflatten(0, (-1, self.heads)).transpose(1, 2)
        padding = self.padding_token.float().expand(*local.shape[:2], 1, -1)
        return self.final_linear(self.halve_twice(self.conv1_global(mixed_BCT))), torch.cat([local, padding], 2)

    def halve_twice(self, x_BCT: Tensor) -> Tensor:
        """(B, C, T) -> (B, t, D)"""
        x_BTC = F.silu(self.norm1(x_BCT.transpose(1, 2)))
        x_BTC = F.silu(self.norm2(self.conv2(x_BTC.transpose(1, 2)).transpose(1, 2)))
        return F.silu(self.norm3(self.conv3(x_BTC.transpose(1, 2)).transpose(1, 2)))

    def clip(self, states_BLCT: Tensor) -> tuple[Tensor, Tensor]:
        """The tokens of a clip's latent frames. The motion frames before it are heard as its first audio frame.

        Latent frame j hears the clip's audio frames 4j - 5 to 4j + 3 (16 a second).
        """
        before = states_BLCT[..., :1].expand(-1, -1, -1, MOTION_FRAMES)
        tokens_global, tokens_local = self(torch.cat([before, states_BLCT], -1))
        return tokens_global[:, MOTION_LATENTS:], tokens_local[:, MOTION_LATENTS:]

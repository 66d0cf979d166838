"""Which arithmetic runs in float32. The residual stream, norms, time embedding, audio encoder and head do; the large
projections run in the dtype of their weights. Weights may be stored in bfloat16 throughout."""

import torch.nn.functional as F
from torch import Tensor, nn


class Fp32Linear(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x.float(), self.weight.float(), None if self.bias is None else self.bias.float())


class Fp32LayerNorm(nn.LayerNorm):
    def forward(self, x: Tensor) -> Tensor:
        weight, bias = (None if p is None else p.float() for p in (self.weight, self.bias))
        return F.layer_norm(x.float(), self.normalized_shape, weight, bias, self.eps)


class Fp32CausalConv1d(nn.Conv1d):
    """A convolution over time that sees no future: the first frame is repeated before the beginning."""

    def forward(self, x_BCT: Tensor) -> Tensor:
        past = F.pad(x_BCT.float(), (self.kernel_size[0] - 1, 0), mode="replicate")
        return F.conv1d(past, self.weight.float(), None if self.bias is None else self.bias.float(), self.stride)


class FeedForward(nn.Sequential):
    """Projections in the dtype of their weights."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.to(next(self.parameters()).dtype))


def project(layer: nn.Linear, x: Tensor) -> Tensor:
    """A large projection in the dtype of its weights."""
    return layer(x.to(layer.weight.dtype))

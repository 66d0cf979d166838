"""What is minimised: the squared error of the velocity (paper section 3), summed over the tokens that a rank holds."""

from typing import Any

import torch
from torch import Tensor, nn

from model.flow import TIMESTEPS, noised, velocity
from model.network import NOISY, Conditions, S2VModel
from model.parallel import ALONE, Parallel
from trainer.draws import Draw, conditions_of
from trainer.sample import Example


class FlowMatching(nn.Module):
    """The network with its loss, as one module: DeepSpeed wraps what `forward` is called on."""

    def __init__(self, network: S2VModel):
        super().__init__()
        self.network = network

    def forward(
        self,
        latent_BCFhw: Tensor,
        timestep_B: Tensor,
        conditions: Conditions,
        parallel: Parallel = ALONE,
        wanted_BCFhw: Tensor | None = None,
    ) -> Tensor:
        """The sum of squared errors of this rank's share of the velocity `wanted`; without it, the whole velocity.

        Over all ranks of the sample, divided by `elements`, the sum is the mean: so a token weighs the same on every
        rank, also where shares are padded.
        """
        if wanted_BCFhw is None:
            return self.network(latent_BCFhw, timestep_B, conditions, parallel)
        encoded = self.network.encode(conditions, latent_BCFhw.shape[2], parallel)
        predicted = self.network.denoise_tokens(latent_BCFhw, timestep_B, encoded, parallel)
        layout = encoded.layout
        errors = (predicted.float() - tokens_of(wanted_BCFhw)[:, layout.rows[NOISY]]).square().sum(-1)
        return (errors * layout.valid[: layout.split]).sum()


def squared_error(objective: Any, example: Example, drawn: Draw, parallel: Parallel = ALONE) -> Tensor:
    """This rank's sum of squared errors, on the example's device. objective: a FlowMatching, or an engine around it."""
    device = example.latent.device
    x0, noise = (x.to(device, torch.float32)[None] for x in (example.latent, drawn.noise))
    timestep = torch.full((1,), TIMESTEPS * drawn.sigma, device=device)
    conditions = conditions_of(example, drawn.dropped, device)
    return objective(noised(x0, noise, drawn.sigma), timestep, conditions, parallel, velocity(x0, noise))


def tokens_of(x_BCFhw: Tensor) -> Tensor:
    """(B, C, F, 2H, 2W) -> (B, F * H * W, 4 C), channel fastest: the inverse of `unpatchify`."""
    x = x_BCFhw.unflatten(4, (-1, 2)).unflatten(3, (-1, 2))
    return x.permute(0, 2, 3, 5, 4, 6, 1).flatten(4).flatten(1, 3)


def elements(example: Example) -> int:
    """Numbers that the network predicts of a sample."""
    return example.latent.numel()

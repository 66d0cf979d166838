"""What is minimised: the squared error of the velocity (paper section 3), summed over the tokens that a rank holds."""

import torch
from torch import Tensor, nn

from model.flow import TIMESTEPS, noised, velocity
from model.network import NOISY, S2VModel
from model.parallel import ALONE, Parallel
from trainer.draws import Draw, conditions_of
from trainer.sample import Example


class FlowMatching(nn.Module):
    """The network with its loss, as one module: DeepSpeed wraps what `forward` is called on."""

    def __init__(self, network: S2VModel):
        super().__init__()
        self.network = network

    def forward(self, example: Example, draw: Draw, parallel: Parallel = ALONE) -> Tensor:
        """The sum of squared errors of this rank's share, on the example's device.

        Over all ranks of the sample, divided by `elements`, it is the mean: so a token weighs the same on every rank,
        also where shares are padded.
        """
        device = example.latent.device
        x0, noise = (x.to(device, torch.float32)[None] for x in (example.latent, draw.noise))
        conditions = conditions_of(example, draw.dropped, device)
        encoded = self.network.encode(conditions, x0.shape[2], parallel)
        timestep = torch.full((1,), TIMESTEPS * draw.sigma, device=device)
        predicted = self.network.denoise_tokens(noised(x0, noise, draw.sigma), timestep, encoded, parallel)
        layout = encoded.layout
        wanted = tokens_of(velocity(x0, noise))[:, layout.rows[NOISY]]
        errors = (predicted.float() - wanted).square().sum(-1)
        return (errors * layout.valid[: layout.split]).sum()


def tokens_of(x_BCFhw: Tensor) -> Tensor:
    """(B, C, F, 2H, 2W) -> (B, F * H * W, 4 C), channel fastest: the inverse of `unpatchify`."""
    x = x_BCFhw.unflatten(4, (-1, 2)).unflatten(3, (-1, 2))
    return x.permute(0, 2, 3, 5, 4, 6, 1).flatten(4).flatten(1, 3)


def elements(example: Example) -> int:
    """Numbers that the network predicts of a sample."""
    return example.latent.numel()

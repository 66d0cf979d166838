"""The VAE of Wan 2.1 (diffusers' AutoencoderKLWan): video to normalised latents and back. Always frozen.

Names of sizes: C channels (3 of pixels, 16 of latents), T video frames, t = 1 + (T - 1) / 4 latent frames, H x W
pixels, h x w = H/8 x W/8 latent pixels.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from model.config import LATENT_STRIDE
from model.errors import CheckpointError, InputError
from model.tensor_files import Device, Shape, Shards, assemble, on_meta, read_json, read_pth, shapes_of

TILE_UNIT = 32  # a tile's stride is 3/4 of it, and must be whole latent pixels


class VideoVAE:
    """One video at a time. `tile`: pixels each way, a multiple of 32; larger videos then go through in overlapping
    tiles, blended, so that memory is bounded by the tile. Attention then sees a tile only: the result is close, not
    equal."""

    def __init__(self, network: Any, tile: int | None = None):
        self.network = network
        if tile is not None:
            if tile < TILE_UNIT or tile % TILE_UNIT:
                raise InputError(f"A tile is a multiple of {TILE_UNIT} pixels, such as 256, not {tile}.")
            stride = tile * 3 // 4
            network.enable_tiling(tile, tile, stride, stride)
        keys, device = network.config, network.device
        self.mean_C111 = torch.tensor(keys["latents_mean"], device=device)[:, None, None, None]
        self.std_C111 = torch.tensor(keys["latents_std"], device=device)[:, None, None, None]

    @torch.no_grad()
    def encode(self, frames_CTHW: Tensor) -> Tensor:
        """Pixels (3, T, H, W) in [-1, 1], T = 4 k + 1 -> latents (16, k + 1, H/8, W/8), float32, normalised to mean 0
        and standard deviation 1 by the dataset's statistics. The distribution's mode: nothing random."""
        frames, height, width = frames_CTHW.shape[1:]
        if frames % 4 != 1 or height % LATENT_STRIDE or width % LATENT_STRIDE:
            raise ValueError(f"the VAE takes 4 k + 1 frames of multiples of 8 pixels, not {frames} of {height}x{width}")
        latent = self.network.encode(self.placed(frames_CTHW)).latent_dist.mode()[0].float()
        return (latent - self.mean_C111) / self.std_C111

    @torch.no_grad()
    def decode(self, latent_Cthw: Tensor) -> Tensor:
        """Normalised latents (16, t, h, w) -> pixels (3, 4 t - 3, H, W), float32, in [-1, 1]."""
        latent = latent_Cthw.to(self.mean_C111) * self.std_C111 + self.mean_C111
        return self.network.decode(self.placed(latent)).sample[0].float()

    def placed(self, x_CTHW: Tensor) -> Tensor:
        return x_CTHW.to(self.network.device, self.network.dtype)[None]


def load_vae(
    path: Path, device: Device, dtype: torch.dtype | None = torch.float32, tile: int | None = None
) -> VideoVAE:
    """From the official `Wan2.1_VAE.pth` or a diffusers folder `vae/`. dtype None: as stored."""
    from diffusers import AutoencoderKLWan  # seconds: not for every command
    from diffusers.loaders.single_file_utils import convert_wan_vae_to_diffusers

    if path.suffix == ".pth":
        tensors = convert_wan_vae_to_diffusers(read_pth(path))
        config = widths(shapes_of(tensors), path)
    else:
        tensors = dict(Shards.find(path, "diffusion_pytorch_model").read())
        config = read_json(path / "config.json")
    network = on_meta(lambda: AutoencoderKLWan.from_config(config), path)
    return VideoVAE(assemble(network, tensors, path, device, dtype), tile)


def widths(shapes: Mapping[str, Shape], path: Path) -> dict[str, int]:
    """What may differ between VAEs of this family; strides and number of blocks are fixed by the official names."""
    try:
        return {
            "base_dim": shapes["encoder.conv_in.weight"][0],
            "decoder_base_dim": shapes["decoder.conv_out.weight"][1],
            "z_dim": shapes["decoder.conv_in.weight"][1],
        }
    except LookupError as error:
        raise CheckpointError(f"{path} isn't Wan 2.1's VAE ({error}): download Wan2.1_VAE.pth again.") from error


def official_names(names: Iterable[str]) -> dict[str, str]:
    """{diffusers' name: official name}, by running diffusers' converter on every name the official file can have."""
    from diffusers.loaders.single_file_utils import convert_wan_vae_to_diffusers

    official = convert_wan_vae_to_diffusers({name: name for name in candidates()})
    return {name: official[name] for name in names}


def candidates() -> Iterable[str]:
    """Official names, and some that no VAE has."""
    yield from (f"{half}.{kind}" for half in ("conv1", "conv2") for kind in ("weight", "bias"))
    residual = [f"residual.{layer}" for layer in (0, 2, 3, 6)]
    for half, blocks in (("encoder", "downsamples"), ("decoder", "upsamples")):
        modules = ["conv1", "head.0", "head.2", "middle.1.norm", "middle.1.to_qkv", "middle.1.proj"]
        modules += [f"middle.{i}.{layer}" for i in (0, 2) for layer in residual]
        modules += [f"{blocks}.{i}.{m}" for i in range(15) for m in (*residual, "shortcut", "resample.1", "time_conv")]
        yield from (f"{half}.{module}.{kind}" for module in modules for kind in ("weight", "bias", "gamma"))

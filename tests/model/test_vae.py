import pickle
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKLWan
from torch import Tensor

from model.errors import CheckpointError, InputError
from model.tensor_files import on_meta, shapes_of
from model.vae import VideoVAE, load_vae, official_names
from tests.model import digests
from tests.tiny_checkpoint import write_vae


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Wider than the tiny checkpoint's: of few channels, none is like the next, and tiles differ more."""
    file = tmp_path_factory.mktemp("vae") / "Wan2.1_VAE.pth"
    write_vae(file, torch.Generator().manual_seed(0), width=8)
    return file


@pytest.fixture(scope="module")
def vae(file: Path) -> VideoVAE:
    return load_vae(file, "cpu")


def smooth_video(frames: int, height: int, width: int) -> Tensor:
    coarse = torch.rand(1, 3, 3, 4, 4, generator=torch.Generator().manual_seed(3)) * 2 - 1
    return F.interpolate(coarse, size=(frames, height, width), mode="trilinear")[0]


def test_the_official_file_has_these_names_and_shapes() -> None:
    shapes = shapes_of(on_meta(AutoencoderKLWan, Path()).state_dict())
    assert digests.digest({official: shapes[n] for n, official in official_names(shapes).items()}) == digests.VAE


def test_latents_are_normalised_and_a_quarter_of_the_frames(vae: VideoVAE) -> None:
    video = smooth_video(5, 32, 48)
    latent = vae.encode(video)
    assert latent.shape == (16, 2, 4, 6)
    raw = vae.network.encode(video[None]).latent_dist.mode()[0]
    mean, std = torch.tensor(vae.network.config.latents_mean), torch.tensor(vae.network.config.latents_std)
    torch.testing.assert_close(latent * std[:, None, None, None] + mean[:, None, None, None], raw)


def test_decoding_gives_pixels(vae: VideoVAE) -> None:
    pixels = vae.decode(torch.randn(16, 2, 4, 6, generator=torch.Generator().manual_seed(0)))
    assert pixels.shape == (3, 5, 32, 48)
    assert 0.05 < pixels.std() < 1
    assert vae.decode(100 * torch.randn(16, 1, 2, 2)).abs().max() <= 1


def test_a_frame_does_not_depend_on_later_ones(vae: VideoVAE) -> None:
    video = smooth_video(13, 32, 32)
    latent = vae.encode(video)
    torch.testing.assert_close(vae.encode(video[:, :5]), latent[:, :2])
    torch.testing.assert_close(vae.decode(latent[:, :2]), vae.decode(latent)[:, :5])


def test_tiles_come_close_to_the_whole(file: Path, vae: VideoVAE) -> None:
    tiled = load_vae(file, "cpu", tile=96)
    video = smooth_video(1, 96, 160)
    latent = vae.encode(video)
    assert (tiled.encode(video) - latent).std() < 0.2 * latent.std()
    pixels = vae.decode(latent)
    assert (tiled.decode(latent) - pixels).std() < 0.2 * pixels.std()


def test_a_tile_that_latents_don_t_divide_is_refused(file: Path) -> None:
    with pytest.raises(InputError, match="multiple of 32 pixels"):
        load_vae(file, "cpu", tile=100)


@pytest.mark.parametrize("shape", [(3, 4, 32, 32), (3, 5, 30, 32)])
def test_sizes_that_would_be_cut_silently_are_refused(vae: VideoVAE, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="4 k \\+ 1 frames"):
        vae.encode(torch.zeros(shape))


def test_another_file_is_named(tiny: Path, file: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"isn't Wan 2\.1's VAE"):
        load_vae(tiny / "models_t5_umt5-xxl-enc-bf16.pth", "cpu")
    cut = tmp_path / "cut.pth"
    cut.write_bytes(file.read_bytes()[:100_000])
    with pytest.raises(CheckpointError, match=r"cut\.pth is truncated"):
        load_vae(cut, "cpu")


class Bomb:
    def __reduce__(self) -> tuple:
        return Path.touch, (Path("bomb"),)


def test_a_pickle_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"conv1.weight": Bomb()}, "zipped.pth")
    Path("plain.pth").write_bytes(pickle.dumps(Bomb()))
    for name in ("zipped.pth", "plain.pth"):
        with pytest.raises(CheckpointError):
            load_vae(Path(name), "cpu")
    assert not Path("bomb").exists()

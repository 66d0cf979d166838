"""Sampled videos beside the clips that they are to resemble."""

from dataclasses import replace

import av
import numpy as np
import pytest
import torch

from model.checkpoint import PARTS
from model.network import S2VModel
from model.pixels import to_pictures
from model.sampler import Guided, Sampling, sample
from model.vae import load_vae
from tests.tiny_checkpoint import CONFIG, randomise
from tests.trainer.examples import example
from trainer import videos
from trainer.draws import conditions_of
from trainer.sample import torch_generator
from trainer.stages import Stage, Validation
from trainer.videos import GUIDANCE, film_strip, sample_latents, sample_videos, side_by_side

STAGE = Stage(name="test", steps=1, validation=Validation(video_steps=3))
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def network() -> S2VModel:
    model = S2VModel(CONFIG)
    randomise(model, torch.Generator().manual_seed(0))
    return model


class Blocks:
    """Decodes every latent pixel to a block of one colour: a VAE in all but looks, in no time."""

    def decode(self, latents):
        assert latents.dtype == torch.float32
        frames = latents[:3].repeat_interleave(8, 2).repeat_interleave(8, 3).repeat_interleave(4, 1)
        return frames[:, 3:].tanh()


class Listener:
    def __init__(self):
        self.images, self.videos = [], []

    def scalars(self, step, values): ...

    def image(self, step, name, picture):
        self.images.append((step, name, picture.shape))

    def video(self, step, name, path):
        self.videos.append((step, name, path))

    def close(self): ...


def test_two_plain_passes_a_step_are_guidance(network):
    clip = example("a", frames=2)
    calls = []

    def forward(latent, timestep, conditions):
        calls.append((bool(conditions.audio.any()), bool(conditions.pose.any())))
        return network(latent, timestep, conditions)

    ours = sample_latents(forward, clip, STAGE)
    assert calls == [(True, False), (False, False)] * 3
    with torch.inference_mode():
        told = conditions_of(clip, frozenset({"pose"}), CPU)
        guided = Guided(network, told, clip.no_text.float(), GUIDANCE, 2)
        noise = torch.randn(clip.latent.shape, generator=torch_generator("video", "a"))
        expected = sample(guided, noise[None], Sampling(steps=3))[0]
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-4)
    assert not ours.requires_grad


def test_the_same_clip_is_sampled_from_the_same_noise(network):
    clip = example("a", frames=2)
    first = sample_latents(network, clip, STAGE)
    assert torch.equal(first, sample_latents(network, replace(clip, epoch=7), STAGE))
    assert not torch.equal(first, sample_latents(network, replace(clip, clip_id="b"), STAGE))


def test_the_clip_is_on_the_left_and_what_was_sampled_on_the_right():
    clip, latents = example("a", frames=2), torch.randn(16, 2, 8, 8)
    vae = Blocks()
    frames = side_by_side(clip, latents, vae)
    assert frames.shape == (8, 64, 128, 3)
    for half, x in ((frames[:, :, :64], clip.latent), (frames[:, :, 64:], latents)):
        # after the motion frames, as in generation: without them the decoder begins with nothing
        whole = vae.decode(torch.cat([clip.motion.float(), x.float()], 1))
        assert whole.shape[1] == 73 + 8
        assert np.array_equal(half, to_pictures(whole[:, 73:]))


def test_the_real_vae_decodes_them(tiny):
    clip = example("a", frames=1)
    frames = side_by_side(clip, clip.latent.float(), load_vae(tiny / PARTS["vae"].official, "cpu"))
    assert frames.shape == (4, 64, 128, 3)
    assert np.array_equal(frames[:, :, :64], frames[:, :, 64:])
    assert frames.std() > 1


def test_videos_are_written_and_logged(network, tmp_path):
    clips = [example("a", frames=2), example("b/../c d", frames=3, width=16)]
    listener = Listener()
    written = sample_videos(network, clips, STAGE, Blocks(), tmp_path, 500, logger=listener)
    folder = tmp_path / "videos" / "step-000500"
    assert written == [folder / "a.mp4", folder / "b_.._c_d.mp4"]
    assert sorted(folder.iterdir()) == sorted(written)
    for path, frames, width in zip(written, (8, 12), (128, 256), strict=True):
        with av.open(str(path)) as film:
            assert film.streams.video[0].average_rate == 16
            assert [(f.width, f.height) for f in film.decode(video=0)] == [(width, 64)] * frames
    assert listener.images[0] == (500, "video/a", (4 * 64, 128, 3))
    assert listener.videos[0] == (500, "video/a/film", written[0])


def test_ranks_without_a_vae_make_as_many_passes_and_write_nothing(network, tmp_path):
    clips = [example("a", frames=2), example("b", frames=2)]
    passes = []
    for decoder in (Blocks(), None):
        calls = []

        def forward(*arguments, calls=calls):
            calls.append(arguments)
            return network(*arguments)

        folder = tmp_path / str(decoder is None)
        written = sample_videos(forward, clips, STAGE, decoder, folder, 1)
        assert len(written) == (2 if decoder else 0)
        passes.append(len(calls))
    assert passes == [12, 12]
    assert not (tmp_path / "True").exists()


@pytest.mark.parametrize("error", [OSError("no space left"), torch.OutOfMemoryError("of memory")])
def test_a_video_that_fails_does_not_end_the_training(network, tmp_path, monkeypatch, error):
    """Nor does it leave other ranks waiting: the next clip is sampled all the same."""

    def fail(path, frames):
        if path.stem == "a":
            raise error

    monkeypatch.setattr(videos, "write_video", fail)
    complaints = []
    clips = [example("a", frames=2), example("b", frames=2)]
    written = sample_videos(network, clips, STAGE, Blocks(), tmp_path, 1, complain=complaints.append)
    assert [path.stem for path in written] == ["b"]
    assert len(complaints) == 1
    assert "a.mp4 could not be made" in complaints[0]


def test_a_film_strip_shows_the_first_and_the_last_frame():
    frames = np.arange(12, dtype=np.uint8)[:, None, None, None].repeat(2, 1).repeat(2, 2).repeat(3, 3)
    strip = film_strip(frames)
    assert strip.shape == (8, 2, 3)
    assert strip[::2, 0, 0].tolist() == [0, 4, 7, 11]
    assert film_strip(frames[:2]).shape == (4, 2, 3)

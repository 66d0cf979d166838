"""Editing changes what the mask allows, and nothing else."""

import math

import pytest
import torch

from model.checkpoint import Checkpoint, load_network
from model.lip_sync import Edit, edit_clips, latent_mask
from model.sampler import Sampling
from model.vae import load_vae
from tests.tiny_checkpoint import CONFIG

SIZE, FRAMES, CLIPS = 64, 8, 2


@pytest.fixture(scope="module")
def models(tiny):
    vae = load_vae(Checkpoint.open(tiny).path("vae"), "cpu")
    return load_network(tiny, "cpu", torch.float32), vae


def make_edit(**changed):
    """Two short clips of a smooth, moving picture; a soft square in its middle may change."""
    generator = torch.Generator().manual_seed(3)
    time, y, x = torch.meshgrid(*(torch.linspace(0, 3, n) for n in (CLIPS * FRAMES, SIZE, SIZE)), indexing="ij")
    source = torch.stack([torch.sin(x + time), torch.cos(2 * y), torch.sin(x * y - time)]) * 0.7
    mask = torch.zeros(SIZE, SIZE)
    mask[26:42, 26:42] = 0.5
    mask[28:40, 28:40] = 1
    audio = torch.randn(CLIPS, 25, CONFIG.audio_dim, FRAMES, generator=generator)
    text = torch.randn(5, CONFIG.text_dim, generator=generator)
    usual = {
        "reference": source[:, :1],
        "text": text,
        "negative": text[:3],
        "audio": audio,
        "source": lambda clip: source[:, clip * FRAMES : (clip + 1) * FRAMES],
        "mask": lambda clip: mask.expand(FRAMES, -1, -1),
    }
    return Edit(**{**usual, **changed}), mask


def edited(models, **changed):
    edit, mask = make_edit(**changed)
    clips = list(edit_clips(*models, edit, Sampling(steps=3)))
    return torch.cat([clip.frames for clip in clips], 1), mask, clips, edit


@pytest.fixture(scope="module")
def usual(models):
    return edited(models)


def psnr(a, b):
    """Decibels; the pixels range over 2."""
    error = float((a - b).double().pow(2).mean())
    return math.inf if error == 0 else 10 * math.log10(4 / error)


@pytest.fixture(scope="module")
def kept(models):
    """Each clip of the source through the VAE and back, after the 73 frames before it, as an edit sees it."""
    vae, source = models[1], make_edit()[0].source
    past, shown = source(0)[:, :1].expand(-1, 73, -1, -1), []
    for clip in range(CLIPS):
        whole = torch.cat([past, source(clip)], 1)
        shown.append(vae.decode(vae.encode(whole))[:, -FRAMES:])
        past = whole[:, -73:]
    return torch.cat(shown, 1)


def test_outside_the_mask_the_source_stays_and_inside_it_changes(usual, kept):
    frames, mask, *_ = usual
    assert psnr(frames[..., mask == 0], kept[..., mask == 0]) >= 60
    assert psnr(frames[..., mask == 1], kept[..., mask == 1]) < 30


def test_latents_that_may_not_change_are_the_sources(models, usual):
    _, mask, clips, edit = usual
    past = edit.source(0)[:, :1].expand(-1, 73, -1, -1)
    target = models[1].encode(torch.cat([past, edit.source(0)], 1))[:, -FRAMES // 4 :]
    free = latent_mask(mask.expand(FRAMES, -1, -1)) > 0
    assert 0 < free.float().mean() < 0.7
    assert torch.equal(clips[0].latents[:, ~free], target[:, ~free])
    assert (clips[0].latents[:, free] - target[:, free]).abs().mean() > 0.1


def test_the_mouth_follows_the_sound(models, usual):
    frames, mask, _, edit = usual
    other = edited(models, audio=-edit.audio)[0]
    assert psnr(frames[..., mask == 1], other[..., mask == 1]) < 50
    assert torch.equal(frames[..., mask == 0], other[..., mask == 0])


def test_the_sources_own_pixels_can_be_kept(models):
    frames, mask, _, edit = edited(models, keep_pixels=True)
    source = torch.cat([edit.source(clip) for clip in range(CLIPS)], 1)
    assert torch.equal(frames[..., mask == 0], source[..., mask == 0])
    assert not torch.equal(frames[..., mask == 1], source[..., mask == 1])


def test_an_empty_mask_changes_nothing(models, kept):
    frames = edited(models, mask=lambda clip: torch.zeros(FRAMES, SIZE, SIZE))[0]
    assert psnr(frames, kept) >= 60

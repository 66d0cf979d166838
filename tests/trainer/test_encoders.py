"""What the network learns from: motion, video, sound and words in step with what sampling gives the network."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from model.audio_frames import clip_states
from model.checkpoint import PARTS, Checkpoint
from model.errors import CheckpointError
from model.long_video import pose_latents
from model.pixels import to_tensor
from tests.tiny_checkpoint import CONFIG
from trainer.encoders import Encoders, digest, half
from trainer.reading import Unreadable
from trainer.sample import Clip, Pixels, Request, Shape, Window

LONG = "the man speaks to the camera and sings in a room with a woman and the person talks to a man in the room"


@pytest.fixture(scope="module")
def encoders(tiny: Path) -> Encoders:
    return Encoders.load(Checkpoint.open(tiny), "cpu")


def film(frames: int, height: int = 32, width: int = 32, seed: int = 0) -> np.ndarray:
    """(T, H, W, 3) uint8: blotches that drift, so that no frame is like another."""
    dice = np.random.default_rng(seed)
    phases, waves = dice.uniform(0, 6, (3, 1, 1)), dice.uniform(0.05, 0.2, (3, 1, 1))
    y, x = np.mgrid[:height, :width]
    shown = [127 + 100 * np.sin(waves * (x + 2 * t) + phases) * np.cos(waves * y + t / 7) for t in range(frames)]
    return np.stack(shown).astype(np.uint8).transpose(0, 2, 3, 1).copy()


def speech(seconds: float) -> np.ndarray:
    time = np.arange(int(seconds * 16_000)) / 16_000
    return (0.3 * np.sin(700 * time) * np.sin(12 * time) + 0.01 * np.sin(9000 * time**2)).astype(np.float32)


def make_pixels(name: str = "clip", start: int = 5, frames: int = 8, history: int = 5, seconds: float = 2) -> Pixels:
    clip = Clip(name, "speech", "000000.tar", 0, seconds, 128, 64)
    shape = Shape(frames, history, 32, 32)
    pictures = film(history + frames, seed=len(name))
    window = Window(start, frames, 0, 0.5)
    request = Request(clip, shape, 0)
    return Pixels(request, window, pictures, pictures[0], film(frames, seed=9), speech(seconds), "a man speaks")


def test_motion_is_what_the_73_frames_before_give_alone(encoders: Encoders) -> None:
    pixels = make_pixels(start=80, history=73, frames=8)
    example = encoders.encode(pixels)
    frames = to_tensor(list(pixels.frames))
    assert example.motion.equal(encoders.vae.encode(frames[:, :73]).half())
    assert example.latent.equal(encoders.vae.encode(frames)[:, 19:].half())
    assert example.latent.shape == (16, 2, 4, 4)
    decoded = encoders.vae.decode(torch.cat([example.motion, example.latent], 1).float())
    assert decoded.shape[1] == 73 + 8  # as sampling decodes a clip


def test_a_short_past_begins_with_grey(encoders: Encoders) -> None:
    pixels = make_pixels(history=5)
    past = torch.cat([torch.zeros(3, 68, 32, 32), to_tensor(list(pixels.frames[:5]))], 1)
    assert encoders.encode(pixels).motion.equal(encoders.vae.encode(past).half())
    none = replace(pixels, frames=pixels.frames[5:])
    assert encoders.encode(none).motion.equal(encoders.vae.encode(torch.zeros(3, 73, 32, 32)).half())


def test_sound_from_the_beginning_is_what_sampling_hears(encoders: Encoders) -> None:
    pixels = make_pixels(start=0, history=0, frames=24)
    states = encoders.speech.states(pixels.speech)
    heard = encoders.encode(pixels).audio
    assert heard.equal(clip_states(states, 1, 24)[0].half())
    assert heard.shape == (25, CONFIG.audio_dim, 24)
    later = replace(pixels, window=replace(pixels.window, start=13, frames=8), frames=pixels.frames[:8])
    assert encoders.encode(later).audio.equal(clip_states(states, 1, 24)[0, :, :, 13:21].half())


def test_what_is_missing_is_zeros(encoders: Encoders) -> None:
    example = encoders.encode(replace(make_pixels(), speech=np.zeros(0, np.float32), pose=None))
    assert example.audio.equal(torch.zeros(25, CONFIG.audio_dim, 8).half())
    assert example.pose.equal(torch.zeros(16, 2, 4, 4).half())


def test_reference_and_pose_are_encoded_as_sampling_does(encoders: Encoders) -> None:
    pixels = make_pixels()
    example = encoders.encode(pixels)
    assert pixels.pose is not None
    pose = pose_latents(encoders.vae, to_tensor(list(pixels.pose)))
    assert pose is not None
    assert example.pose.equal(pose[0].half())
    assert example.reference.equal(encoders.vae.encode(to_tensor([pixels.reference])).half())


def test_captions_are_cut_where_the_network_ends(encoders: Encoders) -> None:
    example = encoders.encode(replace(make_pixels(), caption=LONG))
    assert encoders.text.excess_tokens(LONG) > 0
    assert example.text.shape == (CONFIG.text_len, CONFIG.text_dim)
    assert example.text.equal(encoders.text.encode([LONG])[0].half())
    assert example.no_text.equal(encoders.text.encode([""])[0].half())


def test_the_same_pixels_give_the_same_bits(encoders: Encoders, tiny: Path) -> None:
    pixels = make_pixels(history=20)
    first = encoders.encode(pixels).tensors()
    assert {tensor.dtype for tensor in first.values()} == {torch.float16}
    again = Encoders.load(Checkpoint.open(tiny), "cpu").encode(pixels).tensors()
    assert all(first[name].equal(again[name]) for name in first)


def test_what_is_encoded_in_inference_mode_can_be_trained_on(encoders: Encoders, tiny: Path) -> None:
    fresh = Encoders.load(Checkpoint.open(tiny), "cpu")
    with torch.inference_mode():
        fresh.encode(make_pixels())  # fills what is kept between calls
    for tensor in fresh.encode(make_pixels()).tensors().values():
        weight = torch.ones((), requires_grad=True)
        (weight * tensor.float()).sum().backward()
        assert not tensor.is_inference()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_large_numbers_stay_finite(dtype: torch.dtype) -> None:
    clip = make_pixels().request.clip
    assert half(torch.tensor([1e6, -3e38, 2.0], dtype=dtype), "audio", clip).tolist() == [65504, -65504, 2]


@pytest.mark.filterwarnings("ignore:invalid value")
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_no_number_is_refused(encoders: Encoders, value: float) -> None:
    pixels = make_pixels()
    sound = pixels.speech.copy()
    sound[100] = value
    with pytest.raises(Unreadable, match="encoded audio has values that are no numbers") as raised:
        encoders.encode(replace(pixels, speech=sound))
    assert "check the clip" in raised.value.remedy


@pytest.mark.parametrize("part", ["vae", "text_encoder", "tokenizer", "speech_encoder"])
def test_a_missing_encoder_is_named(tiny: Path, tmp_path: Path, part: str) -> None:
    folder = shutil.copytree(tiny, tmp_path / "copy")
    gone = Checkpoint.open(folder).path(part)
    shutil.rmtree(gone) if gone.is_dir() else gone.unlink()
    with pytest.raises(CheckpointError, match=f"{PARTS[part].title} is missing .*hf download"):
        Encoders.load(Checkpoint.open(folder), "cpu")


def test_the_network_need_not_be_there(tiny: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny, tmp_path / "copy", ignore=shutil.ignore_patterns("diffusion_pytorch_model*"))
    assert Encoders.load(Checkpoint.open(folder), "cpu").widths.text_len == 512


def test_other_weights_are_told_apart_and_copies_are_not(tiny: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny, tmp_path / "copy", copy_function=shutil.copy)
    checkpoint = Checkpoint.open(folder)
    assert digest(checkpoint) == digest(Checkpoint.open(tiny))
    weights = checkpoint.path("vae")
    data = bytearray(weights.read_bytes())
    data[len(data) // 3 : 2 * len(data) // 3] = bytes(len(data) // 3)
    weights.write_bytes(data)
    assert digest(checkpoint) != digest(Checkpoint.open(tiny))

"""The network by itself: what conditions it, and that what makes it fast changes nothing."""

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F

from model import sampler
from model.checkpoint import load_network
from model.network import Conditions
from model.sampler import Guided, Sampling, clip_noise, sample
from tests.tiny_checkpoint import CONFIG

FRAMES, H, W = 3, 16, 24
TIMES = torch.tensor([600])


@pytest.fixture(scope="module")
def network(tiny):
    return load_network(tiny, "cpu", torch.float32).eval()


def make(seed: int = 0) -> Conditions:
    random = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=random)

    return Conditions(
        text=[normal(9, CONFIG.text_dim)],
        audio=normal(1, 25, CONFIG.audio_dim, 4 * FRAMES),
        reference=normal(1, 16, 1, H, W),
        motion=normal(1, 16, 19, H, W),
        pose=normal(1, 16, FRAMES, H, W),
    )


LATENT = torch.randn(1, 16, FRAMES, H, W, generator=torch.Generator().manual_seed(9))


def difference(a: torch.Tensor, b: torch.Tensor) -> float:
    """Largest, relative to the root mean square."""
    return float((a - b).abs().max() / b.pow(2).mean().sqrt())


@torch.inference_mode()
@pytest.mark.parametrize("name", ["text", "audio", "reference", "motion", "pose"])
def test_every_condition_is_heard(network, name):
    usual, other = make(), make(seed=1)
    changed = replace(usual, **{name: getattr(other, name)})
    assert difference(network(LATENT, TIMES, changed), network(LATENT, TIMES, usual)) > 0.01
    if name in ("motion", "pose"):
        without = replace(usual, **{name: None})
        assert difference(network(LATENT, TIMES, without), network(LATENT, TIMES, usual)) > 0.01


@torch.inference_mode()
def test_what_is_computed_once_a_clip_changes_nothing(network):
    encoded = network.listen(network.encode(make(), FRAMES))
    assert difference(network.denoise(LATENT, TIMES, encoded), network(LATENT, TIMES, make())) < 1e-6


@torch.inference_mode()
def test_one_key_stands_for_all_the_padding_of_a_prompt(network):
    usual = make()
    (states,) = usual.text
    padded = replace(usual, text=[F.pad(states, (0, 0, 0, CONFIG.text_len - len(states)))])
    assert difference(network(LATENT, TIMES, usual), network(LATENT, TIMES, padded)) < 1e-5


@torch.inference_mode()
def test_guidance_leads_away_from_what_knows_neither_prompt_nor_sound(network, monkeypatch):
    negative = make(seed=2).text[0][:4]
    told = network(LATENT, TIMES, make())
    untold = network(LATENT, TIMES, replace(make(), text=[negative], audio=torch.zeros_like(make().audio)))
    found = Guided(network, make(), negative, 4.5, FRAMES)(LATENT, TIMES[0])
    assert difference(found, untold + 4.5 * (told - untold)) < 1e-5
    monkeypatch.setattr(sampler, "in_one_batch", lambda encoded: True)
    assert difference(Guided(network, make(), negative, 4.5, FRAMES)(LATENT, TIMES[0]), found) < 1e-5
    assert difference(Guided(network, make(), negative, 1, FRAMES)(LATENT, TIMES[0]), told) < 1e-5


@torch.inference_mode()
def test_a_batch_of_prompts_of_different_lengths_is_what_each_is_alone(network):
    first, second = make(), replace(make(seed=1), reference=make().reference, motion=make().motion, pose=make().pose)
    both = replace(first, text=[first.text[0], second.text[0][:4]], audio=torch.cat([first.audio, second.audio]))
    batch = network(LATENT.expand(2, -1, -1, -1, -1), TIMES.expand(2), both)
    alone = replace(second, text=[second.text[0][:4]])
    assert difference(batch, torch.cat([network(LATENT, TIMES, each) for each in (first, alone)])) < 1e-5


@torch.inference_mode()
def test_bfloat16_weights_are_near(network, tiny):
    short = load_network(tiny, "cpu", torch.bfloat16).eval()
    found, exact = short(LATENT, TIMES, make()), network(LATENT, TIMES, make())
    assert found.dtype == torch.float32
    assert float((found - exact).norm() / exact.norm()) < 0.05


@torch.inference_mode()
@pytest.mark.parametrize("backend", ["aot_eager_decomp_partition", pytest.param("inductor", marks=pytest.mark.real)])
def test_compiled_blocks_are_the_same(tiny, backend):
    """With and without motion: two lengths of the sequence. The first backend is the other's without its C++."""
    network, compiled = (load_network(tiny, "cpu", torch.float32).eval() for _ in range(2))
    for block in compiled.layers:
        block.compile(backend=backend)
    for conditions in (make(), replace(make(), motion=None)):
        assert difference(compiled(LATENT, TIMES, conditions), network(LATENT, TIMES, conditions)) < 1e-5


@torch.inference_mode()
@pytest.mark.parametrize("solver", ["unipc", "dpmpp"])
def test_solvers_agree_where_steps_are_many(network, solver):
    """Both follow one path from noise to latents; so does a plain Euler walk."""

    def velocity(latent: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
        return 0.5 * latent + torch.sin(timestep / 300)

    noise = clip_noise((1, 16, 1, 4, 4), seed=5, clip=0, device=torch.device("cpu"))
    found = sample(velocity, noise, Sampling(steps=60, solver=solver))
    latent, levels = noise, torch.linspace(0.9997, 0, 2001)
    for now, then in pairwise(levels):
        latent = latent + (then - now) * velocity(latent, 1000 * now)
    assert difference(found, latent) < 0.02


def test_noise_is_a_matter_of_seed_and_clip_alone():
    cpu = torch.device("cpu")
    assert torch.equal(clip_noise((4,), 1, 2, cpu), clip_noise((4,), 1, 2, cpu))
    assert not torch.equal(clip_noise((4,), 1, 2, cpu), clip_noise((4,), 1, 3, cpu))

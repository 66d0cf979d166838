"""Noise levels, and sound on the clock of the video."""

import numpy as np
import torch

from model.audio_frames import FRAME_RATE, clip_states
from model.flow import draw_sigmas, noised, shifted, velocity
from model.size import fit_size


def test_a_step_along_the_velocity_is_a_step_along_the_path():
    x0, noise = torch.randn(2, 3, 4, dtype=torch.float64)
    assert torch.allclose(noised(x0, noise, 0.3) + 0.5 * velocity(x0, noise), noised(x0, noise, 0.8))
    assert torch.equal(noised(x0, noise, 0.0), x0)


def test_shift_spends_time_at_high_noise():
    levels = torch.linspace(0, 1, 11)
    assert torch.equal(shifted(levels, 1.0), levels)
    assert (shifted(levels, 3.0)[1:-1] > levels[1:-1]).all()
    means = [draw_sigmas(4000, torch.Generator().manual_seed(0), shift=s).mean() for s in (1.0, 3.0, 5.0)]
    assert means[0] < means[1] < means[2]
    uniform = draw_sigmas(4000, torch.Generator().manual_seed(0), shift=1.0, spread=None)
    assert abs(float(uniform.mean()) - 0.5) < 0.02
    assert 0 < uniform.min() < uniform.max() < 1


def test_each_frame_hears_its_own_time():
    """States whose value is their time; the first clip begins 3 frames before the sound.

    To three quarters of a frame: the official clock rounds to 30 states a second, and runs up to 27 ms ahead.
    """
    seconds = 12.0
    states = (torch.arange(int(seconds * 50) - 1) / 50).reshape(1, -1, 1)
    heard = clip_states(states, clips=3, clip_frames=80, lead=3)[:, 0, 0].flatten()
    wanted = (np.arange(240) - 3).clip(min=0) / FRAME_RATE
    inside = wanted < seconds - 0.05
    assert np.abs(heard.numpy() - wanted)[inside].max() < 0.75 / FRAME_RATE
    assert (heard[200:] == 0).all()  # silence after the end


def test_sizes_keep_shape_and_area():
    for height, width in ((1080, 1920), (1920, 1080), (720, 720), (480, 854), (3000, 2000)):
        h, w = fit_size(height, width, 1024 * 704)
        assert h % 64 == w % 64 == 0
        assert 0 < h * w <= 1024 * 704
        assert abs(h / w - height / width) < 0.2 * height / width

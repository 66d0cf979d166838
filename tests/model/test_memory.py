"""The memory that S2VConfig predicts, against what the network's own code allocates. No memory is needed for it."""

from dataclasses import replace

import pytest
import torch

from benchmarks.measuring import FRAMES, LiveBytes
from benchmarks.model_memory import tracked_bytes
from model.config import S2VConfig
from model.network import S2VModel

TINY = S2VConfig(dim=128, ffn_dim=344, num_heads=4, num_layers=4, audio_dim=64, audio_inject_layers=(0, 2))
REAL = S2VConfig(num_layers=2, audio_inject_layers=(0,))
CASES = {
    "tiny": (TINY, 256, 192, True),
    "wide FFN": (replace(TINY, ffn_dim=1024), 256, 192, True),
    "real width": (REAL, 1024, 704, True),
    "no motion": (REAL, 448, 832, False),
    "short": (REAL, 64, 64, True),
}


@pytest.mark.parametrize("case", CASES)
def test_prediction(case: str) -> None:
    config, height, width, motion = CASES[case]
    caches, activations = tracked_bytes(config, height, width, motion)
    assert config.cache_bytes(FRAMES, height, width, motion) == pytest.approx(caches, rel=0.1)
    assert config.activation_bytes(FRAMES, height, width, motion) == pytest.approx(activations, rel=0.02)


def test_weights():
    with torch.device("meta"):
        network = S2VModel(TINY).bfloat16()
    assert TINY.weight_bytes() == sum(parameter.nbytes for parameter in network.parameters())


@torch.inference_mode()
def test_live_bytes():
    """Views are no memory, what is dropped is none any more, and what was there before doesn't count."""
    before = torch.ones(1000)
    with LiveBytes() as tracker:
        doubled = before * 2
        view = doubled.view(10, 100)[1:]
        total = (view + 1).sum()
        del doubled
    assert tracker.peak == 4000 + 3600 + 4
    assert tracker.live == 4000 + 4  # the view keeps it
    del view
    assert tracker.live == total.nbytes

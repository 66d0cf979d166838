"""The speech encoder: wav2vec2 (transformers' Wav2Vec2Model), all of its hidden states. Always frozen, in float32.

Its clock: a state every 320 samples at 16 kHz (50 a second), each from 400 samples. Names of sizes: L = 25 hidden
states (the embedding and 24 layers), T states over time, C their width.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from model.config import AUDIO_LAYERS
from model.errors import CheckpointError
from model.tensor_files import Device, Shards, assemble, on_meta, read_json

if TYPE_CHECKING:
    from transformers import Wav2Vec2FeatureExtractor, Wav2Vec2Model

SAMPLE_RATE = 16_000
STRIDE, FIELD = 320, 400  # samples from one state to the next, and those that one state is made of
WHOLE = 120 * 50  # states that go through at once; attention's cost grows with their square
WINDOW, CONTEXT = 60 * 50, 10 * 50  # beyond that, states a window, and those heard on both sides of it

WEIGHT_NORM = {"weight_g": "parametrizations.weight.original0", "weight_v": "parametrizations.weight.original1"}
UNUSED = ("lm_head.", "masked_spec_embed")  # of training wav2vec2


class SpeechEncoder:
    def __init__(self, network: "Wav2Vec2Model", normalise: "Wav2Vec2FeatureExtractor"):
        self.network = network
        self.normalise = normalise

    def states(self, samples: np.ndarray) -> Tensor:
        """Mono float32 at 16 kHz -> (25, T, C) float32 on the CPU, T = `state_count`. About 5 MB a second."""
        return torch.cat([states for _, states in self.windows(samples)], 1)

    def windows(self, samples: np.ndarray) -> Iterator[tuple[int, Tensor]]:
        """The same states piece by piece, so that a long track never stands in memory: (first state, (25, n, C))."""
        count = state_count(len(samples))
        padded = np.pad(np.asarray(samples, np.float32), (0, max(0, FIELD - len(samples))))
        track = self.normalise(padded, sampling_rate=SAMPLE_RATE, return_tensors="pt").input_values[0]
        length = count if count <= WHOLE else WINDOW
        for first in range(0, count, length):
            last = min(first + length, count)
            start, end = max(0, first - CONTEXT), min(last + CONTEXT, count)
            states = self.forward(track[start * STRIDE : (end - 1) * STRIDE + FIELD])
            yield first, states[:, first - start : last - start].cpu()

    @torch.no_grad()
    def forward(self, track: Tensor) -> Tensor:
        output = self.network(track[None].to(self.network.device), output_hidden_states=True)
        return torch.cat(output.hidden_states)


def state_count(samples: int) -> int:
    """States of a track. One shorter than 400 samples is followed by silence, and has one state."""
    return (max(samples, FIELD) - FIELD) // STRIDE + 1


def load_speech_encoder(folder: Path, device: Device = "cpu") -> SpeechEncoder:
    """From `wav2vec2-large-xlsr-53-english/`, with or without its CTC head."""
    from transformers import Wav2Vec2Config, Wav2Vec2FeatureExtractor, Wav2Vec2Model  # seconds: not for every command

    # The network was trained on transformers 4, where the last hidden state is the one after the final LayerNorm.
    changed = {"tie_last_hidden_states": True, "mask_time_prob": 0.0, "mask_feature_prob": 0.0}
    config = read_json(folder / "config.json") | changed
    if config.get("num_hidden_layers") != AUDIO_LAYERS - 1:
        raise CheckpointError(f"{folder} isn't wav2vec2 large, whose config.json says num_hidden_layers = 24.")
    tensors = {our_name(name): tensor for name, tensor in Shards.find(folder, "model").read()}
    used = {name: tensor for name, tensor in tensors.items() if not name.startswith(UNUSED)}
    network = on_meta(lambda: Wav2Vec2Model(Wav2Vec2Config.from_dict(config)), folder)
    normalise: Any = Wav2Vec2FeatureExtractor.from_dict(read_json(folder / "preprocessor_config.json"))
    return SpeechEncoder(assemble(network, used, folder, device, torch.float32), normalise)


def our_name(name: str) -> str:
    """Without the CTC model's prefix, and weight norm as torch spells it since 2.0."""
    name = name.removeprefix("wav2vec2.")
    for old, new in WEIGHT_NORM.items():
        name = name.replace(old, new)
    return name

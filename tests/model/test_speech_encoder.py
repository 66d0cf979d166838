import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import Wav2Vec2Config, Wav2Vec2ForCTC

from model import speech_encoder
from model.errors import CheckpointError
from model.speech_encoder import WEIGHT_NORM, SpeechEncoder, load_speech_encoder
from model.tensor_files import on_meta, shapes_of
from tests.model import digests

FOLDER = "wav2vec2-large-xlsr-53-english"


@pytest.fixture(scope="module")
def encoder(tiny: Path) -> SpeechEncoder:
    return load_speech_encoder(tiny / FOLDER)


def noise(seconds: float) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(int(seconds * 16_000)).astype(np.float32)


def test_the_official_file_has_these_names_and_shapes() -> None:
    large = Wav2Vec2Config(
        hidden_size=1024, num_hidden_layers=24, num_attention_heads=16, intermediate_size=4096, vocab_size=33
    )
    large.update({"conv_bias": True, "feat_extract_norm": "layer", "do_stable_layer_norm": True})
    shapes = shapes_of(on_meta(lambda: Wav2Vec2ForCTC(large), Path()).state_dict())
    for old, new in WEIGHT_NORM.items():
        shapes = {name.replace(new, old): shape for name, shape in shapes.items()}
    assert digests.digest(shapes) == digests.SPEECH_ENCODER


@pytest.mark.parametrize(("samples", "states"), [(0, 1), (399, 1), (400, 1), (719, 1), (720, 2), (16_000, 49)])
def test_fifty_states_a_second(encoder: SpeechEncoder, samples: int, states: int) -> None:
    assert encoder.states(np.zeros(samples, np.float32)).shape == (25, states, 32)


def test_the_last_state_is_the_normalised_one(encoder: SpeechEncoder) -> None:
    last = encoder.states(noise(1))[-1]
    norm = encoder.network.encoder.layer_norm
    plain = (last - norm.bias) / norm.weight
    torch.testing.assert_close(plain.mean(1), torch.zeros(49), atol=1e-5, rtol=0)
    torch.testing.assert_close(plain.std(1, correction=0), torch.ones(49), atol=1e-3, rtol=0)


def test_loudness_and_offset_of_the_track_make_no_difference(encoder: SpeechEncoder) -> None:
    torch.testing.assert_close(encoder.states(0.1 * noise(1) + 0.2), encoder.states(noise(1)), atol=1e-3, rtol=1e-3)


def test_long_tracks_go_through_in_windows(encoder: SpeechEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    track = noise(8)
    whole = encoder.states(track)
    monkeypatch.setattr(speech_encoder, "WHOLE", 200)
    monkeypatch.setattr(speech_encoder, "WINDOW", 150)
    monkeypatch.setattr(speech_encoder, "CONTEXT", 50)
    windows = list(encoder.windows(track))
    assert [(first, states.shape[1]) for first, states in windows] == [(0, 150), (150, 150), (300, 99)]
    joined = torch.cat([states for _, states in windows], 1)
    # What comes before attention hears a few neighbours only, so it is equal to the last bit or so.
    torch.testing.assert_close(joined[0], whole[0], atol=1e-4, rtol=1e-4)
    # Attention hears the window only. With random weights it listens everywhere, so this is the worst case.
    assert (joined - whole).std() < 0.25 * whole.std()


def test_another_folder_is_named(tiny: Path, tmp_path: Path) -> None:
    small = shutil.copytree(tiny / FOLDER, tmp_path / "base")
    config = json.loads((small / "config.json").read_text())
    (small / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 12}))
    with pytest.raises(CheckpointError, match="base isn't wav2vec2 large"):
        load_speech_encoder(small)
    (small / "config.json").write_text(json.dumps(config | {"hidden_size": 48}))
    with pytest.raises(CheckpointError, match="misshapen"):
        load_speech_encoder(small)
    (small / "config.json").write_text(json.dumps(config | {"hidden_size": "wide"}))
    with pytest.raises(CheckpointError, match="makes no sense"):
        load_speech_encoder(small)

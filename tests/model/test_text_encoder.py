from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer
from transformers import UMT5Config, UMT5EncoderModel

from model.errors import CheckpointError
from model.tensor_files import on_meta, shapes_of
from model.text_encoder import TextEncoder, load_text_encoder, official_names
from tests.model import digests


def load(tiny: Path, **options: int) -> TextEncoder:
    return load_text_encoder(
        tiny / "models_t5_umt5-xxl-enc-bf16.pth", tiny / "google/umt5-xxl", "cpu", torch.float32, **options
    )


@pytest.fixture(scope="module")
def encoder(tiny: Path) -> TextEncoder:
    return load(tiny)


def test_the_official_file_has_these_names_and_shapes() -> None:
    xxl = UMT5Config(vocab_size=256384, d_model=4096, d_kv=64, d_ff=10240, num_layers=24, num_heads=64)
    shapes = shapes_of(on_meta(lambda: UMT5EncoderModel(xxl), Path()).state_dict())
    official = {official: shapes[name] for name, official in official_names(shapes).items()}
    assert digests.digest(official) == digests.TEXT_ENCODER


def test_states_of_the_prompt_without_padding(encoder: TextEncoder) -> None:
    short, long = encoder.encode(["a man talks", "a woman sings to the camera"])
    assert short.shape == (4, 32)
    assert long.shape == (7, 32)
    torch.testing.assert_close(encoder.encode(["a man talks"])[0], short)


def test_prompts_are_cleaned(encoder: TextEncoder) -> None:
    clean, dirty = encoder.encode(['a man & a woman: "so"', " a man &amp;amp;  a\nwoman: &quot;so&quot; "])
    torch.testing.assert_close(clean, dirty)


def test_the_tokenizer_file_is_used_as_it_stands(tiny: Path, encoder: TextEncoder) -> None:
    prompt = "a man talks, with 2 others"
    own = Tokenizer.from_file(str(tiny / "google/umt5-xxl/tokenizer.json")).encode(prompt).ids
    assert encoder.tokenizer(prompt).input_ids == own


def test_a_long_prompt_is_cut_and_says_so(tiny: Path, encoder: TextEncoder) -> None:
    assert encoder.excess_tokens("a " * 511) == 0
    assert encoder.excess_tokens("a " * 520) == 9
    assert len(encoder.encode(["a " * 520])[0]) == 512
    shorter = load(tiny, max_tokens=24)
    assert shorter.excess_tokens("a " * 30) == 7
    assert len(shorter.encode(["a " * 30])[0]) == 24


def test_another_file_is_named(tiny: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="isn't umT5's encoder"):
        load_text_encoder(tiny / "Wan2.1_VAE.pth", tiny / "google/umt5-xxl", "cpu")
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"tokenizer\.json can't be read"):
        load_text_encoder(tiny / "models_t5_umt5-xxl-enc-bf16.pth", tmp_path, "cpu")

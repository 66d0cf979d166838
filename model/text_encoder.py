"""The text encoder: the encoder half of umT5 (transformers' UMT5EncoderModel). Always frozen."""

import html
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import ftfy
import torch
from torch import Tensor

from model.errors import CheckpointError
from model.tensor_files import Device, Shape, Shards, assemble, on_meta, read_json, read_pth, shapes_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast, UMT5EncoderModel

MAX_TOKENS = 512
TIED = "encoder.embed_tokens.weight"  # another name of shared.weight

# Official names and transformers' names, of the whole and within a block.
WHOLE = {"token_embedding": "shared", "norm": "encoder.final_layer_norm"}
BLOCK = {
    "norm1": "layer.0.layer_norm",
    "attn.q": "layer.0.SelfAttention.q",
    "attn.k": "layer.0.SelfAttention.k",
    "attn.v": "layer.0.SelfAttention.v",
    "attn.o": "layer.0.SelfAttention.o",
    "pos_embedding.embedding": "layer.0.SelfAttention.relative_attention_bias",
    "norm2": "layer.1.layer_norm",
    "ffn.gate.0": "layer.1.DenseReluDense.wi_0",
    "ffn.fc1": "layer.1.DenseReluDense.wi_1",
    "ffn.fc2": "layer.1.DenseReluDense.wo",
}


class TextEncoder:
    def __init__(self, network: "UMT5EncoderModel", tokenizer: "PreTrainedTokenizerFast", max_tokens: int = MAX_TOKENS):
        self.network = network
        self.tokenizer = tokenizer
        self.max_tokens = max_tokens

    @torch.no_grad()
    def encode(self, prompts: list[str]) -> list[Tensor]:
        """umT5's states (L, 4096) of each prompt's tokens, without padding, in the network's dtype and device."""
        batch = self.tokenizer(
            [clean(p) for p in prompts], max_length=self.max_tokens, truncation=True, padding=True, return_tensors="pt"
        ).to(self.network.device)
        states_BLD = self.network(batch.input_ids, batch.attention_mask).last_hidden_state
        return [states[mask.bool()] for states, mask in zip(states_BLD, batch.attention_mask, strict=True)]

    def excess_tokens(self, prompt: str) -> int:
        """Tokens of a prompt that `encode` cuts off: the caller should say so."""
        return max(0, len(self.tokenizer(clean(prompt), verbose=False).input_ids) - self.max_tokens)


def clean(prompt: str) -> str:
    """As the official tokenizer does: text repaired, HTML entities resolved (twice), white space collapsed."""
    return re.sub(r"\s+", " ", html.unescape(html.unescape(ftfy.fix_text(prompt)))).strip()


def load_text_encoder(
    weights: Path, tokenizer: Path, device: Device, dtype: torch.dtype | None = None, max_tokens: int = MAX_TOKENS
) -> TextEncoder:
    """weights: the official `models_t5_umt5-xxl-enc-bf16.pth` or a transformers folder. dtype None: as stored.

    max_tokens: the network's `text_len`.
    """
    return TextEncoder(load_network(weights, device, dtype), load_tokenizer(tokenizer), max_tokens)


def load_tokenizer(folder: Path) -> "PreTrainedTokenizerFast":
    """From its tokenizer.json as it stands: AutoTokenizer would put T5's own splitting rules in place of umT5's."""
    from transformers import PreTrainedTokenizerFast

    file = folder / "tokenizer.json"
    try:
        return PreTrainedTokenizerFast(
            tokenizer_file=str(file),
            pad_token="<pad>",
            eos_token="</s>",
            unk_token="<unk>",
            clean_up_tokenization_spaces=False,
        )
    except Exception as error:  # the tokenizers library raises nothing more precise
        raise CheckpointError(f"{file} can't be read ({error}): download it again.") from error


def load_network(weights: Path, device: Device, dtype: torch.dtype | None) -> "UMT5EncoderModel":
    from transformers import UMT5Config, UMT5EncoderModel  # seconds: not for every command

    if weights.suffix == ".pth":
        tensors = read_pth(weights)
        config = sizes(shapes_of(tensors), weights)
        tensors = {from_official(name): tensor for name, tensor in tensors.items()}
    else:
        tensors = dict(Shards.find(weights, "model").read())
        config = read_json(weights / "config.json")
    tensors.pop(TIED, None)
    network = on_meta(lambda: UMT5EncoderModel(UMT5Config.from_dict(config)), weights)
    network = assemble(network, tensors, weights, device, dtype)
    network.tie_weights()
    return network


def sizes(shapes: Mapping[str, Shape], path: Path) -> dict[str, int]:
    """The architecture, which the official file doesn't state, from its tensors' shapes."""
    try:
        vocabulary, width = shapes["token_embedding.weight"]
        buckets, heads = shapes["blocks.0.pos_embedding.embedding.weight"]
        return {
            "vocab_size": vocabulary,
            "d_model": width,
            "d_kv": shapes["blocks.0.attn.q.weight"][0] // heads,
            "d_ff": shapes["blocks.0.ffn.fc1.weight"][0],
            "num_heads": heads,
            "num_layers": sum(name.endswith(".norm1.weight") for name in shapes),
            "relative_attention_num_buckets": buckets,
        }
    except (LookupError, ValueError, ArithmeticError) as error:
        raise CheckpointError(
            f"{path} isn't umT5's encoder ({error}): download models_t5_umt5-xxl-enc-bf16.pth again."
        ) from error


def from_official(name: str) -> str:
    """transformers' name of an official parameter; unknown names stay as they are."""
    if match := re.fullmatch(r"blocks\.(\d+)\.(.+)\.weight", name):
        number, inside = match.groups()
        return f"encoder.block.{number}.{BLOCK[inside]}.weight" if inside in BLOCK else name
    whole = name.removesuffix(".weight")
    return f"{WHOLE[whole]}.weight" if whole in WHOLE else name


def official_names(names: Mapping[str, object]) -> dict[str, str]:
    """{transformers' name: official name}; the tied copy of the embedding has none."""
    layers = range(len(names) // len(BLOCK) + 1)
    official = [*WHOLE, *(f"blocks.{i}.{inside}" for i in layers for inside in BLOCK)]
    inverse = {from_official(f"{name}.weight"): f"{name}.weight" for name in official}
    return {name: inverse[name] for name in names if name != TIED}

"""A complete random checkpoint in the official layout, small enough for a CPU: python -m tests.tiny_checkpoint DIR"""

import json
import math
import string
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from torch import Tensor, nn

from model import text_encoder, vae
from model.checkpoint import NETWORK, PARTS
from model.config import S2VConfig
from model.names import to_official
from model.network import S2VModel
from model.speech_encoder import WEIGHT_NORM

# diffusers and transformers take seconds to import, and many processes of the tests want nothing but CONFIG.
CONFIG = S2VConfig(
    dim=64,
    ffn_dim=128,
    num_heads=4,
    num_layers=4,
    freq_dim=32,
    text_dim=32,
    text_len=24,
    audio_dim=32,
    audio_inject_layers=(0, 2),
)
WORDS = ["a", "the", "man", "woman", "person", "speaks", "sings", "talks", "to", "camera", "and", "in", "room", "with"]


def write_tiny_checkpoint(folder: Path, seed: int = 0) -> Path:
    generator = torch.Generator().manual_seed(seed)
    write_network(folder, generator)
    write_vae(folder / PARTS["vae"].official, generator)
    vocabulary = write_tokenizer(folder / PARTS["tokenizer"].official)
    write_text_encoder(folder / PARTS["text_encoder"].official, vocabulary, generator)
    write_speech_encoder(folder / PARTS["speech_encoder"].official, generator)
    return folder


def randomise(module: nn.Module, generator: torch.Generator) -> None:
    """Everything random, nothing zero, so that no condition and no parameter is without effect."""
    for name, parameter in module.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        parameter.data = scaled(noise, name.lower())


def scaled(noise: Tensor, name: str) -> Tensor:
    if name.endswith("bias"):
        return 0.1 * noise
    if "norm" in name or "gamma" in name or noise.dim() == 1:
        return 1 + 0.2 * noise
    if name.endswith("original0"):  # the magnitude in weight norm
        return 1 + 0.2 * noise.abs()
    if any(word in name for word in ("modulation", "embedding.weight", "token", "layer_weights")):
        return 0.5 * noise + (0.5 if "layer_weights" in name else 0)
    return noise / math.sqrt(noise[0].numel())


def write_network(folder: Path, generator: torch.Generator) -> None:
    network = S2VModel(CONFIG)
    randomise(network, generator)
    tensors = {to_official(name, CONFIG): p.data.bfloat16() for name, p in network.named_parameters()}
    folder.mkdir(parents=True, exist_ok=True)
    names = sorted(tensors)
    where = {name: f"{NETWORK}-0000{1 + (i > len(names) // 2)}-of-00002.safetensors" for i, name in enumerate(names)}
    for file in set(where.values()):
        save_file({n: tensors[n] for n in names if where[n] == file}, folder / file, metadata={"format": "pt"})
    size = sum(tensor.nbytes for tensor in tensors.values())
    index = {"metadata": {"total_size": size}, "weight_map": where}
    (folder / f"{NETWORK}.safetensors.index.json").write_text(json.dumps(index, indent=2, sort_keys=True) + "\n")
    (folder / "config.json").write_text(json.dumps(CONFIG.to_official(), indent=2, sort_keys=True) + "\n")


def write_vae(path: Path, generator: torch.Generator, width: int = 4) -> None:
    from diffusers import AutoencoderKLWan

    network = AutoencoderKLWan(base_dim=width)
    randomise(network, generator)
    network.decoder.conv_out.weight.data *= 0.3  # pixels stay well within [-1, 1]
    network.encoder.conv_out.weight.data *= 3  # latents spread as the official statistics say
    tensors = network.state_dict()
    torch.save({official: tensors[name] for name, official in vae.official_names(tensors).items()}, path)


def write_tokenizer(folder: Path) -> int:
    special = ["<pad>", "</s>", "<unk>"]
    pieces = [(word, 0.0) for word in special] + [(f"▁{word}", -3.0) for word in WORDS]
    known = {piece for piece, _ in pieces}
    letters = ["▁", *string.ascii_letters, *string.digits, *string.punctuation]
    pieces += [(letter, -8.0) for letter in letters if letter not in known]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=2))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    folder.mkdir(parents=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "T5Tokenizer", "extra_ids": 0, "additional_special_tokens": []}
    settings |= {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return len(pieces)


def write_text_encoder(path: Path, vocabulary: int, generator: torch.Generator) -> None:
    from transformers import UMT5Config, UMT5EncoderModel

    width = CONFIG.text_dim
    network = UMT5EncoderModel(
        UMT5Config(vocab_size=vocabulary, d_model=width, d_kv=8, d_ff=64, num_layers=2, num_heads=4)
    )
    randomise(network, generator)
    tensors = {name: tensor.bfloat16() for name, tensor in network.state_dict().items()}
    torch.save({official: tensors[name] for name, official in text_encoder.official_names(tensors).items()}, path)


def write_speech_encoder(folder: Path, generator: torch.Generator) -> None:
    from transformers import Wav2Vec2Config, Wav2Vec2FeatureExtractor, Wav2Vec2ForCTC

    config = Wav2Vec2Config(
        hidden_size=CONFIG.audio_dim,
        num_hidden_layers=24,
        num_attention_heads=4,
        intermediate_size=64,
        conv_dim=(16,) * 7,
        conv_bias=True,
        feat_extract_norm="layer",
        do_stable_layer_norm=True,
        num_conv_pos_embeddings=16,
        num_conv_pos_embedding_groups=4,
    )
    network = Wav2Vec2ForCTC(config)
    randomise(network, generator)
    config.save_pretrained(folder)
    Wav2Vec2FeatureExtractor(return_attention_mask=True, do_normalize=True).save_pretrained(folder)
    tensors = network.state_dict()
    for old, new in WEIGHT_NORM.items():
        tensors = {name.replace(new, old): tensor for name, tensor in tensors.items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


if __name__ == "__main__":
    write_tiny_checkpoint(Path(sys.argv[1]))

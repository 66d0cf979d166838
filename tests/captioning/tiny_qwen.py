"""A tiny Qwen2.5-VL for a real server on a CPU: python -m tests.captioning.tiny_qwen DIR

With random weights, every string of a grammar runs to its greatest length. So it learns the given texts by heart for
some seconds: strings and lists then end where they end in those.
"""

import json
import sys
from pathlib import Path

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.nn.utils.rnn import pad_sequence
from transformers import (
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2VLImageProcessorPil,
)

CELL = 28  # pixels: side of what becomes one token, two pictures deep
END, PAD = "<|im_end|>", "<|endoftext|>"
SPECIAL = [PAD, "<|im_start|>", END, "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"]
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'video' %}<|vision_start|><|video_pad|><|vision_end|>"
    "{% elif part['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% else %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
STEPS, BATCH, RATE = 400, 2, 6e-3
LONGEST = 350  # embeddings of each part of what it learns to ignore
IGNORED = -100


def write_tiny_qwen(folder: Path, texts: list[str], seed: int = 0) -> Path:
    """Make a checkpoint that vLLM serves and that answers much like one of `texts`; the same one for the same seed.

    Takes 30 s on an idle core. Limits are those of the real model: 4 to 768 cells of 28 x 28 pixels a picture, and
    32,768 tokens.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = write_tokenizer(folder, texts)
    write_processors(folder)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = Qwen2_5_VLForConditionalGeneration(config(tokenizer))
        teach(network, tokenizer, texts)
    network.to(torch.bfloat16).save_pretrained(folder)
    return folder


def write_tokenizer(folder: Path, texts: list[str]) -> PreTrainedTokenizerFast:
    """All 256 bytes are tokens, so that no grammar is ever without a way on. So is each string of the texts with the
    quote that ends it: an answer takes few steps, and none misses its end."""
    tokenizer = Tokenizer(models.BPE())
    quotes = pre_tokenizers.Split(Regex(r'[{}\[\],: ]+"'), "isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([quotes, pre_tokenizers.ByteLevel(False, use_regex=False)])
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=8192, initial_alphabet=alphabet, special_tokens=SPECIAL, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=END,
        pad_token=PAD,
        extra_special_tokens=SPECIAL[1:],
        chat_template=TEMPLATE,
        model_max_length=32_768,
    )
    fast.save_pretrained(folder)
    return fast


def write_processors(folder: Path) -> None:
    """As files: transformers makes a video processor only where torchvision is installed, which it isn't here."""
    size = {"shortest_edge": 4 * CELL * CELL, "longest_edge": 768 * CELL * CELL}
    image = Qwen2VLImageProcessorPil(size=size).to_dict() | {"processor_class": "Qwen2_5_VLProcessor"}
    (folder / "preprocessor_config.json").write_text(json.dumps(image, indent=2))
    video = {name: value for name, value in image.items() if name != "image_processor_type"}
    video["video_processor_type"] = "Qwen2VLVideoProcessor"
    (folder / "video_preprocessor_config.json").write_text(json.dumps(video, indent=2))


def config(tokenizer: PreTrainedTokenizerFast) -> Qwen2_5_VLConfig:
    ids = {name: tokenizer.convert_tokens_to_ids(name) for name in SPECIAL}
    rope = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [4, 6, 6]}
    text = {"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 2, "vocab_size": len(tokenizer)}
    text |= {"num_attention_heads": 4, "num_key_value_heads": 2, "rope_parameters": rope}
    text |= {"max_position_embeddings": 32_768, "eos_token_id": ids[END]}
    text |= {"bos_token_id": ids[PAD], "pad_token_id": ids[PAD]}
    vision = {"depth": 2, "hidden_size": 64, "intermediate_size": 128, "num_heads": 2, "out_hidden_size": 128}
    vision |= {"fullatt_block_indexes": [1], "tokens_per_second": 2}
    return Qwen2_5_VLConfig(
        text_config=text,
        vision_config=vision,
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
    )


def teach(network: Qwen2_5_VLForConditionalGeneration, tokenizer: PreTrainedTokenizerFast, texts: list[str]) -> None:
    """Learn the texts as answers, whatever went before: the real prompt is long, and holds much the same words."""
    opening = tokenizer.encode("<|im_end|>\n<|im_start|>assistant\n")
    answers = [torch.tensor(tokenizer.encode(text + END)) for text in texts]
    optimiser = torch.optim.AdamW(network.parameters(), lr=RATE, betas=(0.9, 0.98), weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, RATE, total_steps=STEPS, pct_start=0.1)
    for _ in range(STEPS):
        chosen = [answers[at] for at in torch.randint(len(answers), (BATCH,)).tolist()]
        target = pad_sequence(chosen, batch_first=True, padding_value=IGNORED)
        tokens = torch.cat([torch.tensor(opening).expand(BATCH, -1), target.clamp_min(0)], dim=1)
        embed = network.model.language_model.embed_tokens
        before = distraction(embed, torch.cat(answers)).expand(BATCH, -1, -1)
        embedded = torch.cat([before, embed(tokens)], dim=1)
        hidden = network.model.language_model(inputs_embeds=embedded).last_hidden_state
        logits = network.lm_head(hidden[:, -target.shape[1] - 1 : -1])
        loss = cross_entropy(logits.flatten(0, 1), target.flatten(), ignore_index=IGNORED)
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
        schedule.step()


def distraction(embed: nn.Embedding, texts: Tensor) -> Tensor:
    """Stands for a prompt: a stretch of the texts, random words and noise, often short, at times long. (L, hidden)"""
    length = int(LONGEST ** torch.rand(()))
    said = texts.roll(int(torch.randint(len(texts), (1,))))[:length]
    words = torch.randint(len(SPECIAL), embed.num_embeddings, (length,))
    noise = torch.randn(length, embed.embedding_dim) * embed.weight.detach().std()
    parts = [embed(said), embed(words), noise]
    return torch.cat([parts[at] for at in torch.randperm(3).tolist()])


if __name__ == "__main__":
    from captioning.examples import EXAMPLES
    from captioning.prompt import compact

    write_tiny_qwen(Path(sys.argv[1]), [compact(example) for example in EXAMPLES])

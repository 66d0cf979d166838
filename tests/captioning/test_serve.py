"""The vLLM command line: that it fits by its own arithmetic, that each flag says why, and that vLLM knows them all."""

import io
import json
import shlex
import subprocess
from pathlib import Path

import pytest
from rich.console import Console

from captioning.serve import ServePlan, argv, gb, plan, run, shell, show
from captioning.serve_sizes import (
    CLIP,
    GPUS,
    LEAST,
    LEAST_CONTEXT,
    MODELS,
    MOST,
    RESERVE,
    SHARE,
    WANTED,
    Copies,
    arrange,
)
from dataset.errors import RunError, UsageError
from tests.captioning.vllm_server import VLLM

SMALL = "Qwen/Qwen2.5-VL-7B-Instruct"
AWQ = "Qwen/Qwen2.5-VL-72B-Instruct-AWQ"


def value(plan: ServePlan, name: str) -> str:
    return next(flag.value for flag in plan.flags if flag.name == name)


def printed(plan: ServePlan, width: int = 120) -> str:
    text = io.StringIO()
    show(plan, Console(file=text, width=width))
    return text.getvalue()


# ---------------------------------------------------------------- what fits


@pytest.mark.parametrize(
    ("gpus", "gpu", "model", "tensor", "data"),
    [
        (8, "h100-80", "Qwen/Qwen2.5-VL-72B-Instruct", 4, 2),  # as in vLLM's recipe: 4, and "larger than 2" on 80 GB
        (8, "a100-40", "Qwen/Qwen2.5-VL-72B-Instruct", 8, 1),
        (8, "h200-141", "Qwen/Qwen2.5-VL-72B-Instruct", 2, 4),
        (6, "h100-80", AWQ, 2, 3),
        (8, "h100-80", SMALL, 1, 8),
        (2, "rtx4090-24", SMALL, 2, 1),
    ],
)
def test_smallest_parts_that_fit_and_copies_of_them(gpus, gpu, model, tensor, data):
    made = plan(gpus=gpus, gpu=gpu, model=model)
    assert (value(made, "--tensor-parallel-size"), value(made, "--data-parallel-size")) == (str(tensor), str(data))
    assert made.concurrency == data * int(value(made, "--max-num-seqs"))


def test_whatever_is_planned_fits():
    planned = 0
    for model in MODELS.values():
        for gpu in GPUS.values():
            for gpus in (1, 2, 3, 4, 6, 8, 16):
                copies = arrange(model, gpu, gpus, 32_768)
                if copies is None:
                    continue
                planned += 1
                assert copies.tensor * copies.data == gpus
                assert model.heads % copies.tensor == model.kv_heads % copies.tensor == 0
                assert LEAST <= copies.slots <= MOST
                cache = copies.slots * CLIP * model.kv_bytes / copies.tensor
                assert copies.weights + cache + RESERVE < SHARE * gpu.memory
                half = Copies(model, gpu, copies.tensor // 2, 1, 32_768) if copies.tensor > 1 else None
                assert half is None or half.slots < WANTED
    assert planned > 100


def test_too_large_names_what_would_fit():
    with pytest.raises(UsageError) as refused:
        plan(gpus=1)
    assert "--gpus 4," in str(refused.value)
    for model in (AWQ, SMALL):
        assert f"--model {model}" in str(refused.value)
        assert plan(gpus=1, model=model)
    assert "32B" not in str(refused.value)  # 67 GB: no room for clips
    with pytest.raises(UsageError, match=r"doesn't fit on 6 h100-80.* --gpus 4, or a multiple"):
        plan(gpus=6)
    with pytest.raises(UsageError, match=r"--gpus 2.*3B-Instruct\.$"):
        plan(gpus=1, gpu="rtx4090-24", model=SMALL)


def test_little_room_is_told():
    few = plan(gpus=1, model=AWQ)
    assert LEAST <= few.copies.slots < WANTED
    assert f"only {few.copies.slots} clips at once" in printed(few)
    assert "Note:" not in printed(plan())


def test_names():
    assert argv(plan(model="/models/Qwen2.5-VL-72B-Instruct/"))[2] == "/models/Qwen2.5-VL-72B-Instruct/"
    assert plan(gpu="H100-80", model=SMALL.lower()).copies.model.name == SMALL
    with pytest.raises(UsageError, match=r"Did you mean 'Qwen/Qwen2.5-VL-72B-Instruct'"):
        plan(model="Qwen/Qwen2-VL-72B-Instruct")
    with pytest.raises(UsageError, match=r"Known: Qwen/.*3B-Instruct"):
        plan(model="gpt-4o")
    with pytest.raises(UsageError, match="Did you mean 'h100-80'"):
        plan(gpu="h100-8")
    for tokens in (LEAST_CONTEXT - 1, 128_001):
        with pytest.raises(UsageError, match="--tokens"):
            plan(tokens=tokens)


def test_table_is_what_the_networks_have():
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    shapes = {"72B": (8192, 29_568, 152_064), "32B": (5120, 27_648, 152_064), "7B": (3584, 18_944, 152_064)}
    shapes["3B"] = (2048, 11_008, 151_936)
    for size, (hidden, mlp, words) in shapes.items():
        model = MODELS[f"Qwen/Qwen2.5-VL-{size}-Instruct"]
        text = {"hidden_size": hidden, "intermediate_size": mlp, "vocab_size": words, "num_hidden_layers": model.layers}
        text |= {"num_attention_heads": model.heads, "num_key_value_heads": model.kv_heads}
        vision = {"depth": 32, "hidden_size": 1280, "out_hidden_size": hidden}
        vision["intermediate_size"] = 3456 if size in ("72B", "32B") else 3420
        tied = size == "3B"
        config = transformers.Qwen2_5_VLConfig(text_config=text, vision_config=vision, tie_word_embeddings=tied)
        with torch.device("meta"):
            network = transformers.Qwen2_5_VLForConditionalGeneration(config)
        network.tie_weights()
        assert sum(p.numel() for p in network.parameters()) == pytest.approx(model.parameters, rel=1e-3)
        assert sum(p.numel() for p in network.model.visual.parameters()) * 2 == pytest.approx(model.vision, rel=5e-3)
        assert model.weights == pytest.approx(2 * model.parameters, rel=5e-3)
        assert model.head_dim == hidden // model.heads


# ---------------------------------------------------------------- what is printed and run


@pytest.mark.parametrize("gpus", [1, 8])
def test_the_shell_reads_what_is_run(gpus):
    made = plan(gpus=gpus, model="/mo dels/Qwen2.5-VL-7B-Instruct")
    echoed = subprocess.run(["bash", "-c", f"printf '%s\\n' {shell(made)}"], capture_output=True, text=True, check=True)
    assert echoed.stdout.splitlines() == argv(made)
    assert shlex.split(shell(made).replace("\\\n", "")) == argv(made)
    assert argv(made)[:2] == ["vllm", "serve"]


def test_every_flag_has_a_reason():
    made = plan()
    names = [flag.name for flag in made.flags]
    assert len(set(names)) == len(names) == sum(word.startswith("--") for word in argv(made))
    text = " ".join(printed(made, 400).split())
    for flag in made.flags:
        assert len(flag.reason) > 20
        assert f"{flag.name} {flag.value} {flag.reason}" in text or f"{flag.name} {flag.reason}" in text
    assert json.loads(value(made, "--structured-outputs-config")) == {"backend": "guidance"}
    assert json.loads(value(made, "--limit-mm-per-prompt")) == {"image": 0, "video": 1}
    assert "Assumed, not measured" in text
    assert shell(made) in printed(made, 80)


def test_numbers_in_reasons_are_those_of_the_plan():
    made = plan()
    reasons = {flag.name: flag.reason for flag in made.flags}
    assert f"{gb(made.copies.weights)} GB on each GPU" in reasons["--tensor-parallel-size"]
    assert "10,792 tokens (8,192 of video" in reasons["--max-num-seqs"]
    assert f" {made.copies.slots} have room" in reasons["--max-num-seqs"]


def test_listening_to_others_asks_for_a_key():
    for host in ("127.0.0.1", "localhost", "::1"):
        assert "only this machine" in plan(host=host).flags[0].reason
    for host in ("0.0.0.0", "gpu-1", "10.0.0.7"):
        assert "set VLLM_API_KEY" in plan(host=host).flags[0].reason


def test_cost_is_slots_by_time_by_price():
    copies = plan().copies
    seconds = 600 / 25 + copies.slots * 2 * 73.41e9 * 8192 / (4 * 989e12 * 0.4)
    assert copies.seconds(25) == pytest.approx(seconds)
    assert copies.cost(25, 2.5) == pytest.approx(1000 / (copies.slots * 2 / seconds) / 3600 * 8 * 2.5)
    assert copies.cost(50, 2.5) < copies.cost(25, 2.5)
    assert f"{copies.cost(25, 2.5):.2f} at 2.5" in printed(plan())


def test_vllm_is_looked_for_and_missed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(RunError, match=r"make serve-env.*pip install vllm==0\.32\.0"):
        run(plan())
    started = []
    monkeypatch.setattr("os.execv", lambda path, words: started.append((path, words)))
    for place in (tmp_path / ".venv-serve" / "bin" / "vllm", tmp_path / "vllm"):  # the one in PATH goes first
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text("#!/bin/sh\n")
        place.chmod(0o755)
        run(plan())
    assert started == [(".venv-serve/bin/vllm", argv(plan())), (str(tmp_path / "vllm"), argv(plan()))]


KNOWN = """
import sys
from vllm.entrypoints.launchers.cli_args import make_arg_parser
from vllm.utils.argparse_utils import FlexibleArgumentParser
read = make_arg_parser(FlexibleArgumentParser()).parse_args(sys.argv[1:])
print(read.tensor_parallel_size, read.data_parallel_size, read.max_num_seqs, read.limit_mm_per_prompt)
print(read.structured_outputs_config.backend, read.trust_request_mm_kwargs, read.mm_encoder_tp_mode)
"""


@pytest.mark.real  # importing vLLM takes 15 s
def test_vllm_knows_every_flag():
    if not VLLM.is_file():
        pytest.skip("needs vLLM in an environment of its own: make serve-env")
    python = Path(VLLM).with_name("python")
    done = subprocess.run([python, "-c", KNOWN, *argv(plan())[2:]], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.splitlines()[-2:] == ["4 2 32 {'image': 0, 'video': 1}", "guidance True data"]

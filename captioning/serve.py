"""The vLLM command line that serves a caption model on the GPUs of this machine, with the reason for each flag.

All numbers are arithmetic and documents: none of it has run on a GPU yet. What is assumed is said to be.
"""

import ipaddress
import json
import os
import shlex
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.padding import Padding
from rich.table import Table

from captioning.serve_sizes import (
    ANSWER,
    CLIP,
    CONTEXT,
    GPUS,
    INSTRUCTION,
    LEAST,
    LEAST_CONTEXT,
    MFU,
    MODELS,
    MOST,
    RESERVE,
    SHARE,
    VIDEO,
    WANTED,
    Copies,
    Gpu,
    Model,
    arrange,
)
from dataset.config import suggest
from dataset.errors import RunError, UsageError

VLLM = "0.32.0"  # what the tests run with: `make serve-env`
LOCAL = Path(".venv-serve/bin/vllm")


# ---------------------------------------------------------------- plan


@dataclass(frozen=True)
class Flag:
    """Of `vllm serve`. value: '' where the flag has none."""

    name: str
    value: str
    reason: str


@dataclass(frozen=True)
class ServePlan:
    """model: a name or folder, as vLLM is to be given it."""

    model: str
    copies: Copies
    flags: tuple[Flag, ...]

    @property
    def concurrency(self) -> int:
        """Requests that the server can have in work at once."""
        return self.copies.slots * self.copies.data


def plan(
    gpus: int = 8,
    gpu: str = "h100-80",
    model: str = "Qwen/Qwen2.5-VL-72B-Instruct",
    host: str = "127.0.0.1",
    port: int = 8000,
    tokens: int = 32_768,
) -> ServePlan:
    """What to run on `gpus` GPUs of one machine. tokens: of the context.

    Raises UsageError for what isn't known, and for what doesn't fit, with what would.
    """
    chosen, card = find_model(model), find_gpu(gpu)
    if not LEAST_CONTEXT <= tokens <= CONTEXT:
        raise UsageError(f"--tokens {tokens}: a clip may take {LEAST_CONTEXT:,}, and the model knows {CONTEXT:,}.")
    copies = arrange(chosen, card, gpus, tokens)
    if copies is None:
        raise UsageError(misfit(chosen, card, gpus, tokens))
    return ServePlan(model, copies, (*where(host, port), *cutting(copies), *sizes(copies), *manners()))


def find_model(name: str) -> Model:
    """By its name, or by that of a folder with a copy of it."""
    last = name.rstrip("/").rsplit("/", 1)[-1].lower()
    for known in MODELS.values():
        if known.name.lower().endswith(f"/{last}"):
            return known
    raise UsageError(f"--model {name}: its size isn't known here.{suggest(name, list(MODELS))}")


def find_gpu(name: str) -> Gpu:
    if name.lower() not in GPUS:
        raise UsageError(f"--gpu {name}: no such GPU is known.{suggest(name.lower(), list(GPUS))}")
    return GPUS[name.lower()]


def misfit(model: Model, gpu: Gpu, gpus: int, tokens: int) -> str:
    """What is too large, and what to do."""
    few = gb(LEAST * CLIP * model.kv_bytes)
    told = f"{model.name} doesn't fit on {gpus} {gpu.name}: it has {gb(model.weights)} GB, and a few clips {few} GB."
    enough = [n for n in (1, 2, 4, 8) if arrange(model, gpu, n, tokens)]
    smaller = [other for other in MODELS.values() if other.weights < model.weights]
    remedies = [f"--gpus {enough[0]}, or a multiple of it"] if enough else []
    remedies += [f"--model {other.name}" for other in smaller if arrange(other, gpu, gpus, tokens)]
    return f"{told} Give {'; or '.join(remedies) or 'larger GPUs'}."


# ---------------------------------------------------------------- flags


def where(host: str, port: int) -> Iterator[Flag]:
    if local(host):
        reason = "only this machine gets at it; for others --host 0.0.0.0, with a key in VLLM_API_KEY"
    else:
        reason = "others get at it: keep it in a trusted network, and set VLLM_API_KEY here and for `s2v caption`"
    yield Flag("--host", host, reason)
    yield Flag("--port", str(port), f"`s2v caption DATASET --server http://{host if local(host) else 'HOST'}:{port}`")


def local(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def cutting(copies: Copies) -> Iterator[Flag]:
    model, parts = copies.model, copies.tensor
    reason = f"{gb(model.weights)} GB of weights are {gb(copies.weights)} GB on each GPU, of {usable(copies)}"
    if parts > 1:
        halved = Copies(model, copies.gpu, parts // 2, 1, copies.tokens)
        reason += f"; in {parts // 2} they were {gb(halved.weights)} GB, with room for {halved.slots} clips"
    yield Flag("--tensor-parallel-size", str(parts), reason)
    reason = "further copies caption more an hour than larger parts; the server deals requests out among them"
    yield Flag("--data-parallel-size", str(copies.data), reason if copies.data > 1 else "one copy takes all GPUs")
    if parts > 1:
        reason = (
            f"the vision tower, {gb(model.vision)} GB, is whole on each GPU: parts of it would wait for one another"
        )
        yield Flag("--mm-encoder-tp-mode", "data", reason)


def sizes(copies: Copies) -> Iterator[Flag]:
    reason = "of the GPU's memory; the rest is for what vLLM doesn't count"
    yield Flag("--gpu-memory-utilization", str(SHARE), reason)
    reason = f"a clip's second try may take {LEAST_CONTEXT:,}; one of the model's own {CONTEXT:,} could take all memory"
    yield Flag("--max-model-len", str(copies.tokens), reason)
    each = CLIP * copies.model.kv_bytes
    reason = (
        f"{gb(copies.cache)} GB are left for a copy's cache. A clip takes {CLIP:,} tokens ({VIDEO:,} of video, "
        f"{INSTRUCTION:,} of words, {ANSWER} of answer) of {copies.model.kv_bytes / 1e3:.0f} kB: {gb(each)} GB. "
        f"{int(copies.cache / each)} have room; {MOST} at most"
    )
    yield Flag("--max-num-seqs", str(copies.slots), reason)


def manners() -> Iterator[Flag]:
    reason = "one video is what we ask about; memory for pictures beside it isn't set aside"
    yield Flag("--limit-mm-per-prompt", json.dumps({"image": 0, "video": 1}), reason)
    yield Flag("--mm-processor-cache-gb", "0", "each video comes once; a cache of them would only take memory")
    reason = "the default, xgrammar, lets raw control characters into strings of bounded length: invalid JSON"
    yield Flag("--structured-outputs-config", json.dumps({"backend": "guidance"}), reason)
    reason = "each request says when its pictures were taken; only where all who get at the server are trusted"
    yield Flag("--trust-request-mm-kwargs", "", reason)
    reason = "sampling is what requests say, without the checkpoint's own repetition penalty"
    yield Flag("--generation-config", "vllm", reason)


# ---------------------------------------------------------------- what comes of it


def argv(plan: ServePlan) -> list[str]:
    return ["vllm", "serve", plan.model, *(word for flag in plan.flags for word in (flag.name, flag.value) if word)]


def shell(plan: ServePlan) -> str:
    """The command for a shell, a flag a line."""
    lines = [["vllm", "serve", plan.model], *([word for word in (f.name, f.value) if word] for f in plan.flags)]
    return " \\\n  ".join(map(shlex.join, lines))


def show(plan: ServePlan, console: Console, tokens_per_second: float = 25.0, price: float = 2.5) -> None:
    """tokens_per_second: of one answer while all slots are busy. price: of a GPU-hour. Both are assumptions."""
    copies = plan.copies
    console.print(headline(plan), soft_wrap=True)
    if copies.slots < WANTED:
        text = f"only {copies.slots} clips at once: more GPUs or a smaller model caption more for the same money."
        console.print(f"[yellow]Note:[/] {text}", soft_wrap=True)
    console.print()
    grid = Table(box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    grid.add_column("flag", no_wrap=True)
    grid.add_column("value")
    grid.add_column("why")
    for flag in plan.flags:
        grid.add_row(flag.name, escape(flag.value), escape(flag.reason))
    console.print(grid)
    console.print(Padding(costs(copies, tokens_per_second, price), (0, 0, 1, 0)))
    console.print(escape(shell(plan)), soft_wrap=True, highlight=False)
    console.print(Padding(assumptions(), (1, 0, 0, 0)), style="bright_black")


def headline(plan: ServePlan) -> str:
    copies = plan.copies
    many, each = (f"{copies.data} copies", "each ") if copies.data > 1 else ("one copy", "")
    return (
        f"[bold green]Fits:[/] {many} of {escape(plan.model)}, {each}on {copies.tensor} {copies.gpu.name}, "
        f"{each}with {copies.slots} clips at once. Caption with [bold]--concurrency {plan.concurrency}[/]."
    )


def costs(copies: Copies, tokens_per_second: float, price: float) -> str:
    return (
        f"1,000 captions cost {copies.cost(tokens_per_second, price):.2f} at {price:g} a GPU-hour: "
        f"{copies.seconds(tokens_per_second):.0f} s each with {copies.slots * copies.data} at once, "
        f"{3600 * copies.captions_per_second(tokens_per_second):,.0f} an hour. [bright_black]Assumed, not measured: "
        f"{tokens_per_second:g} tokens a second of each answer of {ANSWER}, and {MFU:.0%} of the GPUs' peak while they "
        f"read {VIDEO:,} tokens of video.[/]"
    )


def assumptions() -> str:
    return (
        f"Assumed: {gb(RESERVE)} GB on each GPU for CUDA and activations beside those of the vision tower. Nothing "
        f"here was measured on a GPU; the flags are those of vLLM {VLLM}. Left out: --media-io-kwargs and "
        "--mm-processor-kwargs, as the client samples and resizes the pictures itself."
    )


def run(plan: ServePlan) -> None:
    """Become vLLM. Raises RunError where there is none."""
    found = shutil.which("vllm") or (str(LOCAL) if os.access(LOCAL, os.X_OK) else None)
    if found is None:
        raise RunError(f"vLLM isn't here. `make serve-env`, or pip install vllm=={VLLM} in an environment of its own.")
    os.execv(found, argv(plan))


def usable(copies: Copies) -> str:
    return f"{gb(SHARE * copies.gpu.memory)} that vLLM may use"


def gb(size: float) -> str:
    return f"{size / 1e9:.0f}" if size >= 10e9 else f"{size / 1e9:.1f}"

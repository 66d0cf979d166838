"""The network on several ranks against the network on one. All factorisations run in one set of four processes."""

import json
from collections import Counter
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from unittest.mock import patch

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from model import sequence_parallel
from model.config import S2VConfig
from model.errors import InputError
from model.layout import Layout
from model.network import Conditions, S2VModel
from model.parallel import ALONE, Parallel
from model.ring import Ring
from model.sequence_parallel import Mesh, SequenceParallel, build_mesh, choose_degrees, real_keys

RANKS = 4
TINY = S2VConfig(
    dim=128,
    ffn_dim=256,
    num_heads=4,
    num_layers=4,
    freq_dim=64,
    text_dim=32,
    text_len=24,
    audio_dim=16,
    audio_inject_layers=(0, 2),
    framepack_drop_mode="drop",
)


@dataclass(frozen=True)
class Shape:
    """A clip in latent pixels. last_motion None: no motion; else 0 and 1 drop FramePack levels, 2 keeps all."""

    name: str
    frames: int
    height: int
    width: int
    last_motion: int | None
    batch: int = 1

    @property
    def layout(self):
        levels = {None: (), 0: (4,), 1: (2, 4), 2: (1, 2, 4)}[self.last_motion]
        return partial(Layout.of, self.frames, self.height // 2, self.width // 2, levels)


EVEN = Shape("even", 3, 16, 24, last_motion=2)
UNEVEN = Shape("uneven", 3, 6, 10, last_motion=None, batch=2)
ALL_UNEVEN = Shape(
    "all uneven", 4, 8, 8, last_motion=1
)  # on 3 ranks, which is when the motion frames don't divide either
IDLE_RANK = Shape("idle rank", 1, 6, 6, last_motion=None)  # 9 tokens on 4 ranks: 3, 3, 3 and 0

CASES = [
    *[(shape, ring, 4 // ring) for shape in (EVEN, UNEVEN) for ring in (1, 2, 4)],
    *[(shape, ring, 2 // ring) for shape in (EVEN, UNEVEN) for ring in (1, 2)],
    *[(IDLE_RANK, ring, 4 // ring) for ring in (1, 2)],
    (UNEVEN, 1, 1),
    (ALL_UNEVEN, 3, 1),
]


def case_name(case):
    return f"{case[0].name}, ring {case[1]}, ulysses {case[2]}"


# ---- what the four processes do


class Collectives(TorchDispatchMode):
    """Counts every call of torch.distributed, whichever function made it."""

    def __init__(self):
        super().__init__()
        self.counts = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.namespace == "c10d":
            self.counts[func._schema.name.removeprefix("c10d::")] += 1
        return func(*args, **kwargs or {})


def error(ours: Tensor, theirs: Tensor) -> float:
    return float((ours - theirs).norm() / theirs.norm().clamp(min=1e-30))


def largest_error(ours: Tensor, theirs: Tensor) -> float:
    return float((ours - theirs).abs().max() / theirs.square().mean().sqrt())


@lru_cache
def network(injects: bool = True) -> S2VModel:
    torch.manual_seed(0)
    model = S2VModel(TINY if injects else replace(TINY, audio_inject_layers=()))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return model


@lru_cache
def inputs(shape: Shape, replica: int) -> tuple[Tensor, Tensor, Conditions]:
    make = torch.Generator().manual_seed(replica)
    randn = partial(torch.randn, generator=make)
    clip = shape.batch, 16, shape.frames, shape.height, shape.width
    still = shape.batch, 16, 1, shape.height, shape.width
    text = [randn(5 + 3 * sample, 32) for sample in range(shape.batch)]
    audio = randn(shape.batch, 25, 16, 4 * shape.frames)
    motion = None if shape.last_motion is None else randn(shape.batch, 16, 19, shape.height, shape.width)
    conditions = Conditions(text, audio, randn(still), motion, randn(clip), shape.last_motion or 0)
    return randn(clip), 1000 * torch.rand(shape.batch, generator=make), conditions


def tokens_and_gradient(shape: Shape, replica: int, parallel: Parallel) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """Velocity tokens held here, those of all ranks, and this rank's part of every parameter's gradient.

    The loss has a term over the tokens held, as in training, and one over all, which each rank computes its share of.
    """
    model, (latent, timestep, conditions) = network(), inputs(shape, replica)
    model.zero_grad()
    encoded = model.encode(conditions, shape.frames, parallel)
    held = model.denoise_tokens(latent, timestep, encoded, parallel)
    whole = parallel.gather(held)[:, : encoded.layout.noisy_total]
    weights = torch.linspace(-1, 1, whole.numel()).view_as(whole)
    loss = held[:, encoded.layout.valid[: held.shape[1]]].square().sum() + (weights * whole).sum() / parallel.world
    loss.backward()
    gradient = {n: torch.zeros_like(p) if p.grad is None else p.grad.clone() for n, p in model.named_parameters()}
    return held.detach(), whole.detach(), gradient


@lru_cache
def alone(shape: Shape, replica: int) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    return tokens_and_gradient(shape, replica, ALONE)


def compare_network(shape: Shape, mesh: Mesh) -> dict[str, float | bool]:
    replica = mesh.replicas.rank()
    held, whole, gradient = tokens_and_gradient(shape, replica, SequenceParallel(mesh))
    _, expected, expected_gradient = alone(shape, replica)
    total = torch.cat([part.flatten() for part in gradient.values()])
    dist.all_reduce(total, group=mesh.sequence)
    parts = total.split([part.numel() for part in gradient.values()])
    errors = [error(p, e.flatten()) for p, e in zip(parts, expected_gradient.values(), strict=True)]
    return {"output": largest_error(whole, expected), "gradient": max(errors), "finite": bool(held.isfinite().all())}


def compare_attention(shape: Shape, mesh: Mesh, dtype: torch.dtype) -> dict[str, float]:
    """Self-attention and its gradients on random q, k, v, padded queries included, against float64."""
    parallel = SequenceParallel(mesh)
    layouts = [shape.layout(rank, parallel.world) for rank in range(parallel.world)]
    torch.manual_seed(0)
    full = torch.randn(4, parallel.world, shape.batch, layouts[0].tokens, TINY.num_heads, TINY.head_dim).to(dtype)
    *qkv, weights = full[:, parallel.rank].unbind()
    qkv = [x.clone().requires_grad_() for x in qkv]
    out = parallel.attention(layouts[parallel.rank])(*qkv)
    (out * weights).sum().backward()

    q, k, v = full[:3].double().requires_grad_()
    real = torch.stack([layout.valid for layout in layouts])
    logits = torch.einsum("rbshk,plbhk->bhrspl", q, k.movedim(2, 1)) / TINY.head_dim**0.5
    logits = logits.masked_fill(~real, -torch.inf)
    expected = torch.einsum("bhrspl,plbhk->rbshk", logits.flatten(-2).softmax(-1).view_as(logits), v.movedim(2, 1))
    gradients = torch.autograd.grad((expected * full[3].double()).sum(), [q, k, v])
    errors = {"out": error(out.detach(), expected[parallel.rank].detach())}
    for name, ours, theirs in zip(("dq", "dk", "dv"), qkv, gradients, strict=True):
        errors[name] = error(ours.grad, theirs[parallel.rank])
    return errors


def count_collectives(shape: Shape, mesh: Mesh) -> dict[str, dict[str, int]]:
    latent, timestep, conditions = inputs(shape, 0)
    counts = {}
    for name, model in {"injecting": network(), "not injecting": network(injects=False)}.items():
        with Collectives() as forward:
            velocity = model(latent, timestep, conditions, SequenceParallel(mesh))
        with Collectives() as backward:
            velocity.sum().backward()
        counts[name] = {"forward": dict(forward.counts), "backward": dict(backward.counts)}
    return counts


def stay(self: Ring, block: Tensor, step: int):
    return lambda: block


def keep_padding(layout: Layout, ring: int) -> tuple[Tensor, ...]:
    return torch.arange(layout.tokens * layout.world).view(ring, -1).unbind()


def work(rank: int, folder: Path) -> None:
    torch.set_num_threads(1)
    results = {}
    for world in (RANKS, 3):
        if rank >= world:
            break
        dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous-{world}", rank=rank, world_size=world)
        build = lru_cache(partial(build_mesh, num_heads=TINY.num_heads))
        for case in CASES:
            shape, ring, ulysses = case
            if (ring == 3) == (world == 3):
                mesh = build(ring, ulysses)
                results[case_name(case)] = {
                    "network": compare_network(shape, mesh),
                    "float32": compare_attention(shape, mesh, torch.float32),
                    "bfloat16": compare_attention(shape, mesh, torch.bfloat16),
                }
                if shape == EVEN:
                    results[case_name(case)]["collectives"] = count_collectives(shape, mesh)
        if world == RANKS:
            with patch.object(Ring, "pass_on", stay):
                results["blocks that stay"] = compare_network(EVEN, build(4, 1))
            with patch.object(sequence_parallel, "real_keys", keep_padding):
                results["padding attended"] = compare_network(UNEVEN, build(2, 2))
        dist.destroy_process_group()
    (folder / f"{rank}.json").write_text(json.dumps(results))


# ---- what is asked of them


@pytest.fixture(scope="module")
def ranks(tmp_path_factory) -> list[dict]:
    """What each of the ranks found, by case."""
    folder = tmp_path_factory.mktemp("ranks")
    torch.multiprocessing.spawn(work, (folder,), nprocs=RANKS)
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(RANKS)]


def found(ranks: list[dict], case, kind: str) -> list[dict]:
    results = [rank[case_name(case)][kind] for rank in ranks if case_name(case) in rank]
    assert len(results) == (3 if case[1] == 3 else RANKS)
    return results


@pytest.mark.parametrize("case", CASES, ids=case_name)
def test_network_equals_one_process(ranks, case):
    for errors in found(ranks, case, "network"):
        assert errors["output"] <= 1e-5
        assert errors["gradient"] <= 1e-5
        assert errors["finite"]


@pytest.mark.parametrize("case", CASES, ids=case_name)
def test_attention_equals_float64(ranks, case):
    for errors in found(ranks, case, "float32"):
        assert max(errors.values()) <= 1e-5
    for errors in found(ranks, case, "bfloat16"):
        assert max(errors.values()) <= 1e-2


@pytest.mark.parametrize("case", [c for c in CASES if c[0] == EVEN], ids=case_name)
def test_collectives_are_those_of_self_attention_and_one_gather(ranks, case):
    """Two all-to-alls and ring - 1 transfers a block. Audio injection adds none."""
    _, ring, ulysses = case
    exchanges = {"alltoall_base_": 2 * TINY.num_layers} if ulysses > 1 else {}

    def transfers(hops):
        return {"send": hops * TINY.num_layers, "recv_": hops * TINY.num_layers} if ring > 1 else {}

    for counts in found(ranks, case, "collectives"):
        assert counts["injecting"] == counts["not injecting"]
        assert counts["injecting"]["forward"] == {"allgather_": 1, **exchanges, **transfers(ring - 1)}
        there_and_back = transfers(2 * ring - 1)  # keys and values, and their gradients, which have one hop more
        assert counts["injecting"]["backward"] == {"reduce_scatter_": 1, **exchanges, **there_and_back}


@pytest.mark.parametrize("fault", ["blocks that stay", "padding attended"])
def test_comparison_finds_faults(ranks, fault):
    for rank in ranks:
        assert rank[fault]["output"] > 1e-2
        assert rank[fault]["gradient"] > 1e-2


@pytest.mark.parametrize("shape", [EVEN, UNEVEN, ALL_UNEVEN, IDLE_RANK], ids=lambda shape: shape.name)
@pytest.mark.parametrize("world", [1, 2, 3, 4, 8])
def test_ranks_hold_equally_many_tokens_and_each_real_one_once(shape, world):
    layouts = [shape.layout(rank, world) for rank in range(world)]
    assert len({(layout.split, layout.tokens) for layout in layouts}) == 1
    real = torch.cat([layout.positions[layout.valid] for layout in layouts])
    whole = shape.layout().positions
    assert len(real) == len(whole)
    assert Counter(map(tuple, real.tolist())) == Counter(map(tuple, whole.tolist()))


@pytest.mark.parametrize(
    ("ranks_and_node", "degrees"),
    [((8, 8), (1, 8)), ((16, 8), (2, 8)), ((6, 8), (3, 2)), ((3, 8), (3, 1)), ((20, 8), (4, 5)), ((1, 8), (1, 1))],
)
def test_ulysses_takes_what_heads_and_node_allow(ranks_and_node, degrees):
    chosen = choose_degrees(ranks_and_node[0], num_heads=40, ranks_per_node=ranks_and_node[1])
    assert (chosen.ring, chosen.ulysses) == degrees
    assert f"Ulysses {degrees[1]} x ring {degrees[0]}" in chosen.why


def test_degrees_that_do_not_fit_are_refused():
    with patch.object(dist, "get_world_size", return_value=8):
        with pytest.raises(InputError, match="8 ranks do not divide"):
            build_mesh(ring=3, ulysses=2, num_heads=40)
        with pytest.raises(InputError, match="12 heads do not divide over 8"):
            build_mesh(ring=1, ulysses=8, num_heads=12)


def test_ring_block_of_padding_only_is_refused():
    with pytest.raises(InputError, match="too short for a ring of 4"):
        real_keys(IDLE_RANK.layout(0, 4), ring=4)


def test_layouts_made_while_sampling_serve_training():
    shape = Shape("of its own", 2, 10, 6, last_motion=None)
    with torch.inference_mode():
        layout = shape.layout(0, 2)
        places = real_keys(layout, 2)
    assert layout is shape.layout(0, 2)
    assert not any(x.is_inference() for x in (*layout.rows, layout.positions, layout.heard, layout.owner, *places))

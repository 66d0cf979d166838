"""The planner's arithmetic: against published and derived numbers, against what the code allocates and sends."""

import io
from collections import Counter
from dataclasses import replace
from unittest.mock import patch

import pytest
import torch.distributed as dist
from rich.console import Console

from benchmarks.measuring import config_of
from benchmarks.trainer_memory import Case, allocated, counted, predicted
from dataset.errors import UsageError
from model.config import S2VConfig
from model.layout import Layout
from trainer.plan import GPUS, compare, find_gpu, parse_size, plan
from trainer.plan import Case as PlanCase
from trainer.plan_activations import Arrangement, Block, Share, Size
from trainer.plan_memory import Parameters
from trainer.plan_remedies import fewer_frames, first_that_fits, remedies
from trainer.plan_report import largest, show
from trainer.plan_time import Machines, flops
from trainer.plan_traffic import traffic
from trainer.stages import Stage, find_stage, with_changes

REAL = S2VConfig()
SPEECH = find_stage("speech")
PAPER = Size(48, 768, 1024)  # the largest size that the paper trains at
GB = 1e9


def planned(stage: Stage = SPEECH, gpu: str = "h100-80", gpus: int = 8, size: Size = PAPER, mfu: float = 0.4):
    return compare(plan_case(stage, gpu, gpus, size, mfu))


def plan_case(stage: Stage = SPEECH, gpu: str = "h100-80", gpus: int = 8, size: Size = PAPER, mfu: float = 0.4):
    return PlanCase(stage, REAL, Machines(GPUS[gpu], gpus, 8), size, mfu)


# ---------------------------------------------------------------- derived numbers


def test_tokens():
    assert PAPER.tokens(REAL) == 44_544
    assert PAPER.segments(REAL) == (36_864, 3_072, 4_608)
    assert REAL.tokens(12, 768, 1024, motion=False) == 39_936
    assert Size(80, 704, 1024).tokens(REAL) == 63_360
    share = Share.of(REAL, PAPER, 8)
    assert (share.noisy, share.tokens) == (4_608, 5_568)
    assert share.whole == 2 * 3_072  # one and a half latent frames lie in two


@pytest.mark.parametrize("ranks", [1, 2, 3, 4, 8])
@pytest.mark.parametrize("size", [PAPER, Size(12, 64, 192), Size(4, 128, 64)])
def test_share_is_that_of_the_layout(size: Size, ranks: int):
    rows, columns = size.height // 16, size.width // 16
    layouts = [Layout.of(size.latents, rows, columns, rank=rank, world=ranks) for rank in range(ranks)]
    share = Share.of(REAL, size, ranks)
    assert (share.noisy, share.tokens) == (layouts[0].split, layouts[0].tokens)
    assert share.whole == max(len(layout.heard) for layout in layouts) * size.picture


def test_flops():
    forward = REAL.flops(12, 768, 1024)
    assert sum(forward.values()) == pytest.approx(2_758e12, rel=1e-3)
    kept = {kind: flops(REAL, PAPER, Arrangement(recompute=kind)) for kind in ("all", "all-but-attention", "nothing")}
    assert [work.model for work in kept.values()] == 3 * [pytest.approx(8.27e15, rel=1e-3)]
    # With flash attention's backward pass at 2.5 times its forward.
    assert kept["all"].hardware == pytest.approx(11.85e15, rel=1e-3)
    assert kept["all-but-attention"].hardware == pytest.approx(10.23e15, rel=2e-3)
    assert kept["nothing"].hardware == pytest.approx(9.09e15, rel=1e-3)


def test_blocks_that_do_not_learn_need_no_gradient_of_weights():
    forward = REAL.flops(12, 768, 1024)
    saved = flops(REAL, PAPER, Arrangement()).model - flops(REAL, PAPER, Arrangement(), blocks_learn=False).model
    assert saved == forward["linear"] + forward["text"]


def test_what_the_paper_says_of_time():
    """100 s a step became 12 s on 8 GPUs. If that is a clip on one A100, and on eight, the efficiency is the same."""
    work, peak = flops(REAL, PAPER, Arrangement()).model, GPUS["a100-80"].flops
    assert work / (100 * peak) == pytest.approx(0.265, abs=0.001)
    assert work / (12 * 8 * peak) == pytest.approx(0.276, abs=0.001)
    assert work / (12 * 8 * GPUS["h100-80"].flops) == pytest.approx(0.087, abs=0.001)


def test_parameters():
    everything, listening = (Parameters.of(REAL, find_stage(name)) for name in ("speech", "audio-encoder"))
    groups = REAL.parameters()
    assert everything.total == everything.trained == sum(groups.values())
    assert listening.trained == groups["audio_encoder"] + groups["audio_injector"]
    assert everything.blocks_learn
    assert not listening.blocks_learn


def test_memory():
    """16 bytes a parameter of ZeRO-3, and what this trainer adds: gradients in float32, a moving average."""
    parts = plan(plan_case()).memory.parts
    zero = parts["weights"] + parts["masters and moments"] + parts["gradients"] / 2
    assert zero == pytest.approx(32.4 * GB, rel=0.01)
    assert parts["gradients"] == parts["moving average"] == pytest.approx(8.1 * GB, rel=0.01)
    share = Share.of(REAL, PAPER, 8)
    inputs, both = (
        40 * Block(REAL, share, Arrangement(1, 8, kind), 2, True).kept for kind in ("all", "all-but-attention")
    )
    assert inputs == pytest.approx(4.6 * GB, rel=0.01)
    assert both - inputs == pytest.approx(2.3 * GB, rel=0.01)


@pytest.mark.parametrize(
    ("ring", "ulysses", "gpus", "ulysses_gb", "ring_gb"),
    [(1, 8, 8, 23.9, 0), (8, 1, 8, 0, 168.8), (2, 4, 8, 20.5, 31.9), (2, 8, 16, 12.0, 16.0), (4, 8, 32, 6.0, 19.4)],
)
def test_traffic(ring: int, ulysses: int, gpus: int, ulysses_gb: float, ring_gb: float):
    sent = traffic(SPEECH, REAL, PAPER, Arrangement(ring, ulysses), gpus)
    assert sent["ulysses"] / GB == pytest.approx(ulysses_gb, rel=0.005)
    assert sent["ring"] / GB == pytest.approx(ring_gb, rel=0.005)
    if gpus == 8:
        assert sent["weights"] / GB == pytest.approx(56.7, rel=0.01)
        assert sent["gradients"] / GB == pytest.approx(28.35, rel=0.01)


# ---------------------------------------------------------------- what the code does


NARROW = replace(config_of(256, 3), text_dim=256, audio_dim=64)
WIDE = replace(config_of(512, 4), text_dim=512, audio_dim=128)
TINY = replace(NARROW, num_layers=2, text_len=32)
LISTENING = find_stage("audio-encoder").trains


@pytest.mark.parametrize("recompute", ["all", "all-but-attention", "nothing"])
@pytest.mark.parametrize(
    "case",
    [
        Case(NARROW, 16, 256, 192),
        Case(WIDE, 8, 320, 320, precision="fp32"),
        Case(NARROW, 16, 256, 192, ulysses=2),
        Case(NARROW, 16, 256, 192, ring=2),
        Case(WIDE, 24, 256, 256, ring=2, ulysses=2),
        Case(replace(NARROW, num_layers=8), 24, 256, 256, trains=LISTENING),
    ],
    ids=lambda case: f"{case.config.dim}x{case.config.num_layers} {case.precision} {case.ulysses}x{case.ring}",
)
def test_activations(case: Case, recompute: str):
    case = replace(case, recompute=recompute)
    assert predicted(case) == pytest.approx(counted(case), rel=0.1)


def test_counted_is_what_is_allocated():
    case = Case(TINY, 8, 128, 128, precision="fp32")
    assert counted(case) == pytest.approx(allocated(case), rel=0.03)


@pytest.mark.parametrize("recompute", ["all", "all-but-attention", "nothing"])
@pytest.mark.parametrize(("ring", "ulysses"), [(1, 2), (3, 1), (2, 2)])
@pytest.mark.parametrize("trains", [("*",), LISTENING], ids=["all learn", "audio learns"])
def test_sent_bytes(ring: int, ulysses: int, recompute: str, trains: tuple[str, ...]):
    """To the byte, on every rank, also where tokens don't divide."""
    for rank in range(ring * ulysses):
        case = Case(TINY, 12, 64, 192, recompute, ring, ulysses, trains, rank=rank)
        wanted = traffic(case.stage, TINY, case.size, case.arrangement, ring * ulysses, rank)
        assert sent_bytes(case) == {"ulysses": wanted["ulysses"], "ring": wanted["ring"]}


def sent_bytes(case: Case) -> dict[str, float]:
    sent = Counter({"ulysses": 0.0, "ring": 0.0})
    exchange = dist.all_to_all_single
    p2p = dist.P2POp

    def all_to_all(received, given, group):
        sent["ulysses"] += given.nbytes * (group.size() - 1) / group.size()
        return exchange(received, given, group=group)

    def transfer(operation, tensor, **options):
        sent["ring"] += tensor.nbytes * (operation is dist.isend)
        return p2p(operation, tensor, **options)

    with patch.object(dist, "all_to_all_single", all_to_all), patch.object(dist, "P2POp", transfer):
        counted(case)
    return dict(sent)


# ---------------------------------------------------------------- plans


def test_the_best_comes_first():
    plans = planned()
    fitting = [p for p in plans if p.fits]
    assert plans[: len(fitting)] == fitting
    assert 0 < len(fitting) < len(plans)
    assert plans[0].samples_per_second >= 0.98 * max(p.samples_per_second for p in fitting)
    assert plans[0].arrangement == Arrangement(1, 8, "all-but-attention") == plans[0].case.as_set


def test_plan_is_the_stage_as_it_is_set():
    stage = with_changes(SPEECH, ["sequence=4", "ulysses=2", "recompute=all"])
    assert plan(plan_case(stage, "h200-141")).arrangement == Arrangement(2, 2, "all")


def test_time_follows_from_the_assumption():
    found = plan(plan_case())
    alone = 8.27e15 / (8 * 989e12 * 0.4)
    assert found.waits["computing"] == pytest.approx(alone, rel=0.01)  # keys of the text, on every rank, come on top
    assert found.mfu == pytest.approx(0.4 * alone / found.pass_seconds, rel=0.01)
    assert found.passes == 32
    assert found.gpu_hours == pytest.approx(SPEECH.steps * 32 * found.pass_seconds * 8 / 3600)
    faster = plan(plan_case(mfu=0.5))
    assert faster.waits["computing"] == pytest.approx(0.8 * found.waits["computing"])


def test_encoding_while_training_costs_memory_and_time():
    ahead, meanwhile = (plan(replace(plan_case(gpu="h200-141"), encodes=encodes)) for encodes in (False, True))
    assert meanwhile.memory.total - ahead.memory.total == pytest.approx(13.1 * GB, rel=0.01)
    assert meanwhile.pass_seconds > 2 * ahead.pass_seconds


def test_offload_moves_the_states_to_the_host():
    found = plan(plan_case(with_changes(SPEECH, ["optimiser.offload=true"])))
    assert found.memory.host == pytest.approx(20 * 16.3 * GB, rel=0.01)
    assert not {"gradients", "masters and moments", "moving average"} & set(found.memory.parts)
    assert found.update_seconds > found.passes * found.pass_seconds


def test_remedies_fit_and_are_no_larger_than_need_be():
    case = planned(with_changes(SPEECH, ["tokens=200000", "frames=160"]), "h100-80", 8, Size(160, 768, 1280))[0].case
    found = {remedy.what: remedy for remedy in remedies(case)}
    assert all(remedy.plan.fits for remedy in found.values())
    assert {"fewer frames", "smaller pictures", "more GPUs", "larger GPUs"} <= set(found)
    frames = found["fewer frames"].plan.case.size.frames
    assert found["fewer frames"].option == f"--frames {frames}"
    assert not planned(case.stage, "h100-80", 8, Size(frames + 4, 768, 1280))[0].fits
    assert found["more GPUs"].plan.case.machines.gpus == 16


def test_a_change_that_does_not_help_is_no_remedy():
    case = planned(SPEECH, "a100-40", 8)[0].case
    assert not planned(SPEECH, "a100-40", 8)[0].fits
    assert first_that_fits(fewer_frames(case)) is None
    assert "fewer frames" not in {remedy.what for remedy in remedies(case)}


# ---------------------------------------------------------------- what is printed


def printed(*args, **options) -> str:
    console = Console(width=140, record=True, file=io.StringIO())
    show(planned(*args), console, **options)
    return console.export_text()


def test_report_of_what_fits():
    text = printed(price=2.5)
    best = planned()[0]
    assert text.startswith(f"Fits: {best.memory.total / GB:.0f} of 80 GB on each of 8 h100-80;")
    assert f"cost {2.5 * best.gpu_hours:,.0f}" in text
    assert "44,544 tokens" in text
    assert "MFU of 40%" in text
    assert "as set" in text


def test_report_of_what_does_not_fit():
    text = printed(SPEECH, "a100-40")
    assert text.startswith("Doesn't fit:")
    assert "--set optimiser.offload=true" in text
    assert "--gpus 16" in text


def test_report_names_the_better_arrangement():
    text = printed(with_changes(SPEECH, ["recompute=all"]))
    assert "The best: --set recompute=all-but-attention." in text


def test_the_size_that_is_planned_for_is_the_largest_that_the_stage_allows():
    assert largest(SPEECH, REAL, 48) == (1024, 768)
    width, height = largest(SPEECH, REAL, 96)
    assert REAL.tokens(24, height, width) <= SPEECH.tokens


def test_report_says_if_the_stage_would_cut_the_clips():
    assert "--set tokens=63360 --set frames=80" in printed(SPEECH, "h200-141", 8, Size(80, 704, 1024))


# ---------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("text", "message"),
    [("1024", "WIDTHxHEIGHT"), ("axb", "WIDTHxHEIGHT"), ("1000x768", "such as 1024x768"), ("0x64", "such as 64x64")],
)
def test_sizes(text: str, message: str):
    assert parse_size("1024x768") == (1024, 768)
    with pytest.raises(UsageError, match=message):
        parse_size(text)


def test_unknown_gpu():
    assert find_gpu("H100-80").name == "h100-80"
    with pytest.raises(UsageError, match="Did you mean 'h100-80'"):
        find_gpu("h100-8")


@pytest.mark.parametrize(
    ("changes", "gpus", "frames", "message"),
    [
        (["batch=9"], 16, 48, "batch=9 does not divide over 2 groups"),
        (["sequence=3"], 8, 48, "8 ranks do not divide into groups of 3"),
        (["sequence=3", "ulysses=3"], 3, 48, "ulysses=3 must divide"),
        ([], 8, 50, "multiple of 4"),
        ([], 0, 48, "at least one"),
        (["trains=[nothing.*]"], 8, 48, "matches no parameter"),
    ],
)
def test_what_cannot_be(changes: list[str], gpus: int, frames: int, message: str):
    with pytest.raises(Exception, match=message):
        plan(plan_case(with_changes(SPEECH, changes), gpus=gpus, size=Size(frames, 768, 1024)))

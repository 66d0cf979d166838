"""The loss by noise level and condition, and the audio-shuffle gap."""

import io
import json
import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from xml.etree import ElementTree

import pytest
import torch
from rich.console import Console

from model.flow import draw_sigmas
from model.network import S2VModel
from tests.tiny_checkpoint import CONFIG, randomise
from tests.trainer.examples import example
from trainer.draws import Draw
from trainer.gap_plot import ticks, write_gap_plot
from trainer.metrics import JsonLines
from trainer.objective import FlowMatching, elements, squared_error
from trainer.sample import Example
from trainer.stages import Drops, Stage, Timesteps, Validation
from trainer.validation import CONDITIONS, Validated, anothers_sound, asked, cells, levels, validate


def stage(count: int = 2, **settings) -> Stage:
    return Stage(name="test", steps=1, validation=Validation(levels=count), **settings)


def objective() -> FlowMatching:
    network = S2VModel(CONFIG)
    randomise(network, torch.Generator().manual_seed(0))
    return FlowMatching(network)


@pytest.fixture(scope="module")
def loss_of() -> Callable:
    """Of a random network."""
    return partial(squared_error, objective())


@pytest.fixture(scope="module")
def clips() -> list[Example]:
    return [example("a", frames=2), example("b", frames=3), example("c", frames=2, width=16)]


# ---- what is asked


@pytest.mark.parametrize("times", [Timesteps(), Timesteps(spread=None, shift=5.0), Timesteps(spread=0.5, shift=1.0)])
def test_levels_are_the_middles_of_equally_likely_parts(times):
    drawn = draw_sigmas(100_000, torch.Generator().manual_seed(0), shift=times.shift, spread=times.spread)
    expected = drawn.double().quantile(torch.tensor([0.125, 0.375, 0.625, 0.875], dtype=torch.float64))
    assert levels(stage(4, timesteps=times)) == pytest.approx(expected.tolist(), abs=0.005)


def test_cells_are_every_level_under_every_condition():
    found = cells(stage(3))
    assert len(found) == 3 * len(CONDITIONS) == len(set(found))
    assert {cell.condition for cell in found} == {"full", "no-audio", "shuffled-audio", "no-text", "no-motion"}


def test_what_is_asked_is_the_same_each_time_and_in_each_stage(clips):
    for first, second in zip(cells(stage()), cells(stage(seed=5, drops=Drops(text=0.5))), strict=True):
        (a, drawn), (b, again) = asked(clips[0], first, clips), asked(clips[0], second, clips)
        assert torch.equal(drawn.noise, again.noise)
        assert (drawn.sigma, drawn.dropped) == (again.sigma, again.dropped)
        assert torch.equal(a.audio, b.audio)


def test_noise_differs_between_clips_and_levels_but_not_between_conditions():
    noises, clips = {}, [example("a"), example("b")]
    for clip in clips:
        for cell in cells(stage()):
            noises.setdefault((clip.clip_id, cell.level), set()).add(float(asked(clip, cell, clips)[1].noise.sum()))
    assert all(len(sums) == 1 for sums in noises.values())
    assert len(set.union(*noises.values())) == 4


def test_conditions_withhold_what_their_names_say_and_always_the_pose(clips):
    dropped = {cell.condition: asked(clips[0], cell, clips)[1].dropped for cell in cells(stage(1))}
    assert dropped == {
        "full": {"pose"},
        "no-audio": {"pose", "audio"},
        "shuffled-audio": {"pose"},
        "no-text": {"pose", "text"},
        "no-motion": {"pose", "motion"},
    }


def test_shuffled_sound_is_that_of_another_clip_cut_or_repeated(clips):
    a, b, c = clips
    assert torch.equal(anothers_sound(a, clips), b.audio[..., :8])
    assert torch.equal(anothers_sound(b, clips), torch.cat([c.audio, c.audio[..., :4]], -1))
    assert torch.equal(anothers_sound(c, clips), a.audio)


def test_shuffled_sound_is_never_that_of_the_same_clip(clips):
    again = replace(clips[0], epoch=1)
    assert torch.equal(anothers_sound(clips[0], [clips[0], again, clips[2]]), clips[2].audio)
    assert torch.equal(anothers_sound(again, [clips[0], again]), clips[0].audio.roll(4, -1))
    assert torch.equal(anothers_sound(clips[0], clips[:1]), clips[0].audio.roll(4, -1))


# ---- what is found


def test_losses_are_those_of_the_objective(loss_of, clips):
    found = validate(loss_of, clips, stage())
    for cell in cells(stage()):
        with torch.no_grad():
            one = [float(loss_of(*asked(clip, cell, clips))) / elements(clip) for clip in clips]
        assert found.loss[cell.sigma][cell.condition] == pytest.approx(sum(one) / 3, rel=1e-5)
    assert found.means["full"] == pytest.approx(sum(row["full"] for row in found.loss.values()) / 2)
    assert found.gap == pytest.approx(found.means["shuffled-audio"] - found.means["full"])
    assert torch.equal(found.losses, validate(loss_of, clips, stage()).losses)


@pytest.mark.parametrize(("data_ranks", "sharing"), [(2, 1), (4, 1), (7, 1), (64, 1), (2, 2)])
def test_ranks_add_up_to_one_process_with_equally_many_passes(loss_of, clips, data_ranks, sharing):
    """sharing: ranks that have the same data rank, each with its part of the sum."""
    alone = validate(loss_of, clips, stage())
    shares, passes = [], []
    for rank in range(data_ranks * sharing):
        calls = []

        def share_of_loss(clip, drawn, calls=calls):
            calls.append(clip.clip_id)
            return loss_of(clip, drawn) / sharing

        validate(
            share_of_loss,
            clips,
            stage(),
            add_up=lambda sums: shares.append(sums) or sums,
            data_rank=rank // sharing,
            data_ranks=data_ranks,
        )
        passes.append(calls)
    together = Validated(alone.levels, sum(shares))
    torch.testing.assert_close(together.losses, alone.losses, rtol=1e-6, atol=0)
    assert len({len(calls) for calls in passes}) == 1
    if data_ranks == 2:  # what they do at a time is of one clip
        assert passes[0] == passes[-1]


def test_a_network_that_does_not_listen_has_no_gap(clips):
    deaf = objective()
    with torch.no_grad():
        for block in deaf.network.layers:
            if block.audio_injector:
                block.audio_injector.attention.o.weight.zero_()
                block.audio_injector.attention.o.bias.zero_()
    found = validate(partial(squared_error, deaf), clips, stage())
    assert found.gap == found.relative_gap == found.gap_error == 0
    full, silent, text = (found.losses[..., CONDITIONS.index(c)] for c in ("full", "no-audio", "no-text"))
    assert torch.equal(full, silent)
    assert not torch.equal(full, text)


def test_a_network_that_learns_to_listen_has_a_gap():
    """Three clips that differ in sound and picture only: nothing but the sound tells which picture it is."""
    first = example("a", frames=2)
    others = [example(name, frames=2) for name in "bc"]
    clips = [first, *(replace(first, clip_id=o.clip_id, audio=o.audio, latent=o.latent) for o in others)]
    learner, noise = objective(), torch.Generator().manual_seed(0)
    listens = partial(squared_error, learner)
    before = validate(listens, clips, stage())
    optimiser = torch.optim.AdamW(learner.parameters(), lr=2e-3)
    for _ in range(100):
        for clip in clips:
            drawn = Draw(0.7, torch.randn(clip.latent.shape, generator=noise), frozenset({"pose"}))
            (listens(clip, drawn) / elements(clip) / 3).backward()
        torch.nn.utils.clip_grad_norm_(learner.parameters(), 1.0)
        optimiser.step()
        optimiser.zero_grad()
    after = validate(listens, clips, stage())
    assert abs(before.gap) < 0.03
    assert after.means["full"] < 0.7 * before.means["full"]
    assert after.gap > 0.07
    assert after.gap > 3 * after.gap_error
    assert not any(p.grad is not None and p.grad.any() for p in learner.parameters())  # validation leaves no gradient


# ---- what is told


def known(gaps: list[float]) -> Validated:
    losses = torch.full((len(gaps), 2, len(CONDITIONS)), 0.5, dtype=torch.float64)
    losses[..., CONDITIONS.index("shuffled-audio")] += torch.tensor(gaps, dtype=torch.float64)[:, None]
    return Validated((0.6, 0.85), losses)


def test_the_gap_has_an_error_where_there_are_clips_to_tell():
    found = known([0.1, 0.2, 0.3, 0.4])
    assert found.gap == pytest.approx(0.25)
    assert found.relative_gap == pytest.approx(0.5)
    assert found.gap_error == pytest.approx(math.sqrt(0.05 / 3) / 2)
    assert known([0.1]).gap_error is None


def test_scalars_and_table():
    found = known([0.1, 0.3])
    scalars = found.scalars()
    assert scalars["validation/full"] == pytest.approx(0.5)
    assert scalars["validation/audio_gap"] == pytest.approx(0.2)
    assert scalars["validation_noise_2_at_0.85/shuffled-audio"] == pytest.approx(0.7)
    assert len(scalars) == 5 + 2 + 2 * 5
    console = Console(width=100, file=io.StringIO())
    console.print(found.table())
    told = console.file.getvalue()
    assert "audio-shuffle gap +0.2000 ± 0.1000 (+40.0% of the loss)" in told
    assert "0.85" in told
    assert all(condition in told for condition in CONDITIONS)


def test_the_gap_is_drawn_over_the_steps(tmp_path):
    assert write_gap_plot(tmp_path) is None
    with JsonLines(tmp_path / "validation.jsonl", after=0) as lines:
        lines.write(known([0.1]).row(100))  # a single clip has no error
        assert write_gap_plot(tmp_path) == tmp_path / "gap.svg"
        lines.write(known([0.1, float("nan")]).row(150))
        for step in (200, 300):
            lines.write(known([step / 1000, step / 500]).row(step))
    path = write_gap_plot(tmp_path)
    assert path is not None
    picture = ElementTree.parse(path).getroot()
    named = "{http://www.w3.org/2000/svg}"
    curves = [e.get("points").split() for e in picture.iter(f"{named}polyline")]
    assert [len(points) for points in curves] == [3, 3, 3, 3]
    heights = [float(point.split(",")[1]) for point in curves[3]]
    assert heights == sorted(heights, reverse=True)  # the gap grows: y falls
    words = {e.text for e in picture.iter(f"{named}text")}
    assert {"Audio-shuffle gap", "— no-audio", "100", "200", "300"} <= words


@pytest.mark.parametrize(("low", "high"), [(0.39, 0.51), (-0.003, 0.033), (0, 1), (-7e-9, 3e-9), (2.0, 19_000.0)])
def test_ticks_are_few_and_round(low, high):
    found = ticks(low, high)
    assert 2 <= len(found) <= 5
    assert all(low <= value <= high for value in found)
    assert all(len(f"{value:.4g}".strip("-0.").split("e")[0]) <= 4 for value in found)


def test_rows_are_json():
    row = json.loads(json.dumps(known([0.1, 0.3]).row(500)))
    assert row["step"] == 500
    assert row["gap"] == pytest.approx(0.2)
    assert row["levels"][1]["sigma"] == 0.85

"""Training on several ranks against training on one, in the processes and with the code of the benchmark."""

import pytest

pytest.importorskip("deepspeed")

from benchmarks import trainer_start
from benchmarks.trainer_parity import CLIP, LAYOUTS, alone, examples_of, measure, stage_for
from trainer.draws import CONDITIONS, draw

EXACT = 1e-5


# Ulysses, a ring, and Ulysses beside data ranks; the network's own tests have rings of Ulysses.
QUICK = [(1, 1, 2), (1, 2, 1), (2, 1, 2)]
LONG = [layout for layout in LAYOUTS if layout not in QUICK]  # for `make test-real`


@pytest.fixture(scope="module")
def rows(tiny):
    return {tuple(row["layout"]): row for row in measure(QUICK, tiny)}


@pytest.fixture(scope="module")
def long_rows(tiny):
    return {tuple(row["layout"]): row for row in measure(LONG, tiny)}


def test_the_check_withholds_every_condition_and_clips_the_gradient(tiny):
    drops = [draw(stage_for(1, 1, CLIP), e).dropped for e in examples_of(0)]
    assert set().union(*drops) == set(CONDITIONS)
    assert not set(CONDITIONS).intersection(*drops)
    gradients = alone(tiny, 1e9, 1)["gradients"].values()
    assert sum(float(g.square().sum()) for g in gradients) ** 0.5 > 2 * CLIP


def name(layout):
    return "x".join(map(str, layout))


@pytest.mark.parametrize("layout", QUICK, ids=name)
def test_loss_every_gradient_and_clipped_weights_are_those_of_one_process(rows, layout):
    check(rows[layout])


@pytest.mark.real
@pytest.mark.parametrize("layout", LONG, ids=name)
def test_so_are_those_of_rings_of_ulysses_and_of_larger_ones(long_rows, layout):
    check(long_rows[layout])
    assert_traffic(long_rows[layout])


def check(row):
    assert row["loss"] <= EXACT
    assert row["gradient"] <= EXACT, row["parameter"]
    assert row["audio"] <= EXACT  # where only a part of the network learns
    assert row["weights"] <= EXACT
    assert row["spread"] == 0  # no two ranks have other weights


def test_no_block_stays_whole_after_its_backward_pass(rows):
    assert all(row["held"] == 0 for row in rows.values())


def test_collectives_of_a_step_are_those_of_self_attention_and_of_zero(rows):
    """Injection of audio adds none: in two of four blocks, it would show."""
    clips, blocks = 2, 4
    ulysses = rows[1, 1, 2]["calls"]
    assert ulysses["alltoall_base"] == clips * blocks * (2 + 2 + 2)  # there and back: forward, recomputed, backward
    ring = rows[1, 2, 1]["calls"]
    assert ring["send"] == clips * blocks * (1 + 1 + 3)  # keys and values to one other rank; their gradients to two
    assert set(ulysses) == {"alltoall_base", "allgather_base", "reduce_scatter_base", "allreduce", "broadcast"}


@pytest.mark.parametrize("layout", QUICK, ids=name)
def test_a_rank_sends_what_the_planner_says(rows, layout):
    assert_traffic(rows[layout])


def assert_traffic(row):
    for what, size in row["sent"].items():
        assert size == pytest.approx(row["predicted"][what], rel=0.02), what


@pytest.mark.parametrize(("wrong", "layout"), [("ring", (1, 2, 1)), ("scale", (1, 1, 2))])
def test_a_broken_ring_or_a_wrong_scale_is_found(tiny, wrong, layout):
    (row,) = measure([layout], tiny, wrong)
    assert row["gradient"] > 100 * EXACT


@pytest.mark.real
def test_no_rank_holds_the_network_whole_while_it_starts():
    whole, ranks = trainer_start.measure(4)
    for peak, held in ranks:
        assert held < 0.26 * whole
        assert peak < 0.35 * whole  # its part, and the largest layer

"""The sample order and the loss grid do not depend on a trial's batch sizes."""

from __future__ import annotations

import itertools
import math
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sweepft.data.order import BLOCKS_PER_BUDGET, BlockLosses, SampleOrder, block_size

LAW = settings(deadline=None, max_examples=60)


@LAW
@given(n=st.integers(1, 50), seed=st.integers(0, 2**40), epochs=st.integers(1, 4))
def test_sample_order__each_epoch_holds_each_row_once(n: int, seed: int, epochs: int) -> None:
    sequence = SampleOrder(n, seed).indices(0, n * epochs).reshape(epochs, n)
    assert (np.sort(sequence, axis=1) == np.arange(n)).all()


@LAW
@given(
    n=st.integers(1, 40),
    seed=st.integers(0, 99),
    batch=st.integers(1, 100),
    world=st.integers(1, 4),
    steps=st.integers(1, 12),
)
def test_sample_order__independent_of_batch_and_world_size(
    n: int, seed: int, batch: int, world: int, steps: int
) -> None:
    whole = SampleOrder(n, seed).indices(0, batch * steps)
    order = SampleOrder(n, seed)
    seen = []
    for step in range(steps):
        cuts = [step * batch + batch * rank // world for rank in range(world + 1)]
        for start, stop in itertools.pairwise(cuts):
            seen.append(order.indices(start, stop))
    assert (np.concatenate(seen) == whole).all()


def test_sample_order__going_back_gives_the_same_rows() -> None:
    order = SampleOrder(7, 1)
    late, early = order.indices(70, 90), order.indices(0, 20)
    assert (order.indices(70, 90) == late).all()
    assert (order.indices(0, 20) == early).all()


def test_sample_order__sequence_is_fixed() -> None:
    """These numbers are in people's ledgers, by digest: a change of them is a change of `_ORDER_VERSION`."""
    order = SampleOrder(10, 42, "d")
    assert order.indices(0, 12).tolist() == [4, 8, 1, 9, 3, 6, 0, 7, 2, 5, 1, 2]
    assert order.digest == "3e78e95bf7c6b37e34ec58d729065819e1f48426ece3f882976fa80804fd6c2a"


@pytest.mark.parametrize(
    "other", [SampleOrder(10, 1, "a"), SampleOrder(11, 0, "a"), SampleOrder(10, 0, "b"), SampleOrder(10, 0)]
)
def test_sample_order__digest_identifies_it(other: SampleOrder) -> None:
    assert SampleOrder(10, 0, "a").digest == SampleOrder(10, 0, "a").digest != other.digest


@pytest.mark.parametrize(("n", "seed"), [(0, 0), (-1, 0), (3, -1)])
def test_sample_order__refuses_bad_arguments(n: int, seed: int) -> None:
    with pytest.raises(ValueError, match="must"):
        SampleOrder(n, seed)


@pytest.mark.parametrize(("start", "stop"), [(-1, 3), (5, 4)])
def test_sample_order__refuses_bad_positions(start: int, stop: int) -> None:
    with pytest.raises(ValueError, match="positions"):
        SampleOrder(3, 0).indices(start, stop)


@LAW
@given(st.integers(1, 10**7))
def test_block_size__gives_about_64_blocks(budget: int) -> None:
    size = block_size(budget)
    blocks = math.ceil(budget / size)
    assert size >= 1
    assert blocks <= BLOCKS_PER_BUDGET
    assert blocks == budget or blocks >= BLOCKS_PER_BUDGET / 2


@LAW
@given(data=st.data(), budget=st.integers(1, 300))
def test_block_losses__bitwise_equal_for_any_sample_order(data: st.DataObject, budget: int) -> None:
    rng = np.random.default_rng(budget)
    losses, tokens = rng.normal(size=budget) * 1e3, rng.integers(1, 50, budget)
    plain = BlockLosses(budget)
    plain.add(np.arange(budget), losses, tokens)
    shuffled = data.draw(st.permutations(range(budget)))
    cut = data.draw(st.integers(1, budget))
    grid = BlockLosses(budget)
    got: dict[int, tuple[float, int]] = {}
    for start in range(0, budget, cut):
        at = np.array(shuffled[start : start + cut])
        grid.add(at, losses[at], tokens[at])
        out = grid.drain()
        got |= dict(zip(out["index"], zip(out["loss"], out["tokens"], strict=True), strict=True))
    out = plain.drain()
    assert got == dict(zip(out["index"], zip(out["loss"], out["tokens"], strict=True), strict=True))
    assert out["index"] == list(range(math.ceil(budget / grid.size)))
    assert sum(out["tokens"]) == tokens.sum()
    weighted = sum(loss * count for loss, count in zip(out["loss"], out["tokens"], strict=True))
    assert weighted == pytest.approx(losses.sum(), rel=1e-9, abs=1e-6)


def test_block_losses__yields_a_complete_block_once() -> None:
    grid = BlockLosses(130)  # blocks of 3, the last of 1
    grid.add([0, 1], [1.0, 2.0], [1, 1])
    assert grid.drain() == {"index": [], "loss": [], "tokens": []}
    grid.add([2, 129], [3.0, 5.0], [2, 5])
    assert grid.drain() == {"index": [0, 43], "loss": [1.5, 1.0], "tokens": [4, 5]}
    assert grid.drain()["index"] == []


def test_block_losses__skips_the_block_cut_by_a_restore() -> None:
    grid = BlockLosses(640, start=15)  # blocks of 10
    grid.add(np.arange(15, 30), np.ones(15), np.ones(15, int))
    assert grid.drain()["index"] == [2]


@pytest.mark.parametrize(
    ("start", "positions"), [(0, [0, 0]), (0, [640]), (0, [-1]), (20, [19]), (0, [0, *range(10)])]
)
def test_block_losses__refuses_bad_positions(start: int, positions: list[int]) -> None:
    grid = BlockLosses(640, start=start)
    with pytest.raises(ValueError, match=r"twice|positions"):
        grid.add(positions, np.ones(len(positions)), np.ones(len(positions), int))


def test_block_losses__refuses_a_sample_twice() -> None:
    grid = BlockLosses(64)
    grid.add([3], [1.0], [1])
    with pytest.raises(ValueError, match="twice"):
        grid.add([3], [1.0], [1])


def test_block_losses__refuses_unequal_lengths() -> None:
    with pytest.raises(ValueError, match="lengths differ"):
        BlockLosses(64).add([1, 2], [1.0], [1])


def test_block_losses__keeps_non_finite_losses() -> None:
    grid = BlockLosses(3)
    grid.add([0, 1, 2], [math.nan, math.inf, 1.0], [1, 1, 0])
    loss = grid.drain()["loss"]
    assert math.isnan(loss[0])
    assert loss[1] == math.inf
    assert math.isnan(loss[2])  # no target token: there is no mean


def test_data__driver_side_loads_no_torch() -> None:
    heavy = ("torch", "transformers", "datasets", "ray")
    code = f"import sys, sweepft.data; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"

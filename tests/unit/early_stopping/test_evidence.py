"""What finished trials say of signals: the laws of the probabilities behind it."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from sweepft.early_stopping.evidence import (
    order_probability,
    persistence,
    prior_hypotheses,
    repeat_noise,
)

SCORES = st.lists(st.floats(-2.5, 2.5), min_size=2, max_size=4)


def columns(scores: list[float], hypotheses: int) -> NDArray[np.float64]:
    """(n, h): all hypotheses are about one signal."""
    return np.repeat(np.array(scores)[:, None], hypotheses, axis=1)


@settings(deadline=None, max_examples=40)
@given(scores=SCORES, rho=st.floats(-0.95, 0.95))
def test_order_probability__is_a_distribution_over_orders(scores: list[float], rho: float) -> None:
    orders = itertools.permutations(range(len(scores)))
    each = [order_probability(columns(scores, 2), np.array(o, float), np.array([rho, 0.0])) for o in orders]
    assert np.exp(each).sum(axis=0) == pytest.approx(1.0, abs=0.02)
    assert [e[1] for e in each] == pytest.approx(
        [-math.log(math.factorial(len(scores)))] * len(each), abs=0.01
    )


@settings(deadline=None, max_examples=40)
@given(scores=SCORES, rho=st.floats(-0.95, 0.95), seed=st.integers(0, 99))
def test_order_probability__turns_with_the_sign(scores: list[float], rho: float, seed: int) -> None:
    finals = np.random.default_rng(seed).permutation(len(scores)).astype(float)
    up = order_probability(columns(scores, 1), finals, np.array([rho]))
    down = order_probability(-columns(scores, 1), finals, np.array([-rho]))
    turned = order_probability(columns(scores, 1), -finals, np.array([-rho]))
    assert up == pytest.approx(down)
    assert up == pytest.approx(turned, abs=0.02)


@settings(deadline=None, max_examples=25)
@given(
    scores=st.lists(st.tuples(*[st.floats(-2, 2)] * 3), min_size=3, max_size=4),
    seen=st.booleans(),
)
def test_given__cannot_be_expected_to_turn_against_no_information(
    scores: list[tuple[float, float, float]], seen: bool
) -> None:
    """Over all orders of finished trials, the odds of any information keep their mean."""
    prior = prior_hypotheses(0.94, 1, seen)
    odds = [
        1.0 / prior.given(np.array(scores), np.array(order, float)).nothing
        for order in itertools.permutations(range(len(scores)))
    ]
    assert np.mean(odds) == pytest.approx(1.0 / prior.nothing, rel=0.05)


@pytest.mark.parametrize(
    ("finals", "information", "direction"),
    [
        ([1, 2, 3, 4, 5], 1, 1),
        ([1, 2, 2, 4, 4], 1, 1),
        ([5, 4, 3, 2, 1], 1, -1),
        ([3, 1, 5, 2, 4], -1, -1),
        ([1, 1, 1, 1, 1], 0, 0),
        ([1], 0, 0),
    ],
)
def test_given__follows_the_order(finals: list[float], information: int, direction: int) -> None:
    prior = prior_hypotheses(0.94, 0, True)
    shown = np.linspace(-1, 1, len(finals))
    found = prior.given(np.stack([shown, np.minimum(shown, 0.0)], axis=1), np.array(finals, float))
    assert found.probability.sum() == pytest.approx(1.0)
    assert np.sign(round(prior.nothing - found.nothing, 1)) == information
    assert np.sign(round(found.correlation - prior.correlation, 1)) == direction


def test_prior_hypotheses__believe_in_no_direction_of_a_loss_alone() -> None:
    assert prior_hypotheses(0.9, 2, False).correlation == pytest.approx(0.0)
    assert prior_hypotheses(0.9, 0, True).correlation > 0.3


@pytest.mark.parametrize(
    ("earlier", "later", "low", "high"),
    [
        ([], [], 0.97, 0.99),
        ([1, -1], [1, -1], 0.97, 1.0),
        ([-1, 0, 1], [0, 0, 0], 0.97, 0.99),  # all equal
        ([-2, -1, 0, 1, 2], [-2, -1, 0, 1, 2], 0.98, 1.0),
        ([-2, -1, 0, 1, 2], [2, 1, 0, -1, -2], -0.2, 0.0),
    ],
)
def test_persistence__is_shrunk_to_the_prior(
    earlier: list[float], later: list[float], low: float, high: float
) -> None:
    assert low <= persistence(np.array(earlier, float), np.array(later, float)) <= high


@pytest.mark.parametrize(
    ("values", "kinds", "noise"),
    [
        ([1, 2, 3, 4], ["a", "b", "c", "d"], math.nan),
        ([1, 2, 3, 4], [None] * 4, math.nan),
        ([1, 3, 1, 3, 1, 3], ["a", "a", "b", "b", "c", "c"], math.sqrt(2)),
        ([1, math.nan, 1, 3, 1, 3], ["a", "a", "b", "b", "c", "c"], math.nan),
        ([1, 2, 3, 2], ["a"] * 4, math.sqrt(2 / 3)),
    ],
)
def test_repeat_noise__pools_within_configurations(
    values: list[float], kinds: list[str | None], noise: float
) -> None:
    assert repeat_noise(np.array(values, float), kinds) == pytest.approx(noise, nan_ok=True)

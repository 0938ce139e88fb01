"""The report's statistics, compared with independent computations."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from sweepft.report.signals import least_squares, spearman

values = st.lists(st.floats(-100, 100), min_size=6, max_size=30)


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_spearman__equals_scipys_and_lies_in_its_interval(data: st.DataObject) -> None:
    x = data.draw(values)
    y = data.draw(st.lists(st.floats(-100, 100), min_size=len(x), max_size=len(x)))
    found = spearman(x, y)
    if len(set(x)) == 1 or len(set(y)) == 1:
        assert found is None
        return
    assert found is not None
    assert found.value == pytest.approx(stats.spearmanr(x, y).statistic, abs=1e-9)
    assert -1 <= found.low <= found.value <= found.high <= 1
    mirrored = spearman(x, [-v for v in y])
    assert (mirrored.low, mirrored.high) == pytest.approx((-found.high, -found.low))


@pytest.mark.parametrize(
    ("x", "y"),
    [
        ([], []),
        ([1, 2, 3, 4], [1, 2, 3, 4]),
        ([1, 1, 1, 1, 1], [1, 2, 3, 4, 5]),
        ([1, 2, 3, 4, math.nan], [1] * 5),
    ],
)
def test_spearman__none_for_too_few_values(x: list, y: list) -> None:
    assert spearman(x, y) is None


def test_spearman__ignores_differences_between_cohorts() -> None:
    """Two batch sizes: overall the signal looks good, within each it is reversed."""
    x = [1, 2, 3, 4, 11, 12, 13, 14]
    y = [4, 3, 2, 1, 14, 13, 12, 11]
    assert spearman(x, y).value > 0.5
    assert spearman(x, y, cohorts=[8] * 4 + [16] * 4).value == pytest.approx(-1)


def test_spearman__interval_has_its_nominal_coverage() -> None:
    rng = np.random.default_rng(0)
    rho, hits, runs = 0.6, 0, 600
    true = 6 / math.pi * math.asin(rho / 2)
    for _ in range(runs):
        a, b = rng.multivariate_normal([0, 0], [[1, rho], [rho, 1]], 25).T
        found = spearman(a, b)
        hits += found.low <= true <= found.high
    assert 0.92 <= hits / runs <= 0.98


def test_least_squares__finds_known_effects_with_nominal_coverage() -> None:
    rng = np.random.default_rng(1)
    covered = 0
    for _ in range(200):
        batch, rate = rng.integers(3, 7, 40).astype(float), rng.uniform(-4, -2, 40)
        y = 1 + 0.05 * batch - 0.2 * rate + rng.normal(0, 0.1, 40)
        found = least_squares({"batch": batch, "rate": rate}, y)
        covered += found["batch"].low <= 0.05 <= found["batch"].high
        slopes = np.linalg.lstsq(np.column_stack([np.ones(40), batch, rate]), y, rcond=None)[0]
        assert found["rate"].value == pytest.approx(slopes[2])
    assert 0.9 <= covered / 200 <= 0.99


def test_least_squares__leaves_out_collinear_columns() -> None:
    x = np.arange(20.0)
    found = least_squares({"a": x, "twice_a": 2 * x, "constant": np.ones(20)}, x + np.sin(x))
    assert list(found) == ["a"]
    assert least_squares({"a": np.arange(7.0)}, np.arange(7.0)) is None, "five degrees of freedom are too few"

"""Repeats of a configuration, and which hyperparameters vary."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sweepft.early_stopping import CalibratedRule, EarlyStopper, make_report
from sweepft.early_stopping.evidence import predict_residual
from sweepft.early_stopping.trial import configuration, loss_shifts, varies


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ({"lr": 1e-4}, {"lr": 1e-4}, True),
        ({"lr": 1e-4, "seed": 1}, {"lr": 1e-4, "seed": 2}, True),
        (
            {"lr": 1e-4, "data_seed": 1, "random_state": 3},
            {"lr": 1e-4, "data_seed": 2, "random_state": 4},
            True,
        ),
        ({"train": {"lr": 1e-4, "seed": 1}}, {"train": {"seed": 2, "lr": 1e-4}}, True),
        ({"lr": np.float64(1e-4), "batch": np.int64(8)}, {"lr": 1e-4, "batch": 8}, True),
        ({"mix": [1, 2], "nan": math.nan}, {"mix": (1, 2), "nan": math.nan}, True),
        ({"lr": 1e-4}, {"lr": 2e-4}, False),
        ({"lr": 1e-4}, {"lr": 1e-4, "warmup": None}, False),
        ({}, {}, False),  # nothing is known
        ({"seed": 1}, {"seed": 2}, False),
        ({"data": object()}, {"data": object()}, False),  # cannot be compared
    ],
)
def test_configuration__is_equal_for_repeats(one: dict[str, Any], other: dict[str, Any], same: bool) -> None:
    a, b = configuration(one), configuration(other)
    assert (a is not None and a == b) is same


@pytest.mark.parametrize(
    ("configs", "expected"),
    [
        ([{"dropout": 0.1}, {"dropout": 0.1}], False),
        ([{"lora": {"lora_dropout": 0.1}}, {"lora": {"lora_dropout": 0.0}}], True),
        ([{"label_smoothing": 0.0}, {"lr": 0.1}], False),  # one value is known only
        ([{"lr": 0.1}, {"lr": 0.2}], False),
        ([{}, {"dropout": 0.2}, {"Attention_Dropout": 0.1}], False),
        ([{"mix": [["dropout", 1]]}, {"mix": "x"}], False),
    ],
)
def test_varies__finds_hyperparameters_with_two_values(configs: list[dict[str, Any]], expected: bool) -> None:
    assert varies(loss_shifts(c) for c in configs) is expected


@settings(deadline=None, max_examples=80)
@given(
    found=st.lists(st.tuples(st.integers(0, 3), st.floats(-3, 3)), min_size=1, max_size=20),
    noise=st.floats(0.01, 5.0),
)
def test_predict_residual__shrinks_repeats_towards_what_was_found(
    found: list[tuple[int, float]], noise: float
) -> None:
    kinds = [str(k) for k, _ in found] + ["0", "1", "2", "3", None]
    missed = np.array([m for _, m in found])
    mean, variance = predict_residual(kinds, range(len(found)), missed, np.full(len(found), noise))
    assert ((variance > 0) & (variance <= 1.5 + mean**2)).all()
    assert (mean[-1], variance[-1]) == (pytest.approx(0.0), pytest.approx(1.0))
    for kind in range(4):
        own = missed[[k == kind for k, _ in found]]
        expected = mean[len(found) + kind]
        if not len(own):
            assert expected == pytest.approx(0.0)
        else:
            assert min(0.0, own.mean()) - 1e-9 <= expected <= max(0.0, own.mean()) + 1e-9


def test_predict_residual__learns_how_much_repeats_share() -> None:
    kinds = list("0001112220")
    noise = np.full(9, 0.01)
    alike = predict_residual(kinds, range(9), np.array([2, 2.1, 1.9, -2, -2.1, -1.9, 0, 0.1, -0.1]), noise)
    apart = predict_residual(kinds, range(9), np.array([3, 0.1, 2.9, -3, 3, -6, 0, 3, -3.0]), noise)
    assert alike[0][-1] > 1.7
    assert apart[0][-1] < 1.6  # of a mean of 2, too
    assert alike[1][-1] < 0.5 * apart[1][-1]


def sweep(repeat: dict[str, Any] | None) -> Any:
    """Six finished trials, each ahead of those before; the fourth, of batch 8, ended best and the last, of batch 32,
    worst. Then another one at its first rung, with a middling curve."""
    r = EarlyStopper(rule=CalibratedRule(), rungs=(0.1, 0.5), budget=100, mode="min")
    for i in range(6):
        r.add(f"t{i}", {"batch_size": 2**i, "seed": i})
        for step in (10, 50):
            r.report(
                f"t{i}", make_report(step=[step], progress=[step], loss=[5.0 - 0.1 * i], metric=5.0 - 0.1 * i)
            )
        end = 1.0 if i == 3 else 4.0 + i
        r.complete(f"t{i}", make_report(step=[100], progress=[100], loss=[end], metric=end))
    r.add("new", {"batch_size": 999} if repeat is None else repeat)
    (decision,) = r.report("new", make_report(step=[10], progress=[10], loss=[4.75], metric=4.75))
    return decision


def test_calibrated__expects_of_a_repeat_what_its_configuration_reached() -> None:
    none, best, worst = sweep(None), sweep({"batch_size": 8, "seed": 7}), sweep({"batch_size": 32, "seed": 7})
    assert worst.p_top < none.p_top < best.p_top
    assert [v.evidence["repeats"] for v in (none, best, worst)] == [0, 1, 1]
    assert "1 finished of its configuration" in best.reason
    assert "configuration" not in none.reason


def test_calibrated__repeats_mean_nothing_with_one_configuration() -> None:
    """A table often lacks the columns that were varied."""

    def probability(config: dict[str, Any]) -> float | None:
        r = EarlyStopper(rule=CalibratedRule(), rungs=(0.1,), budget=100, mode="min")
        for i in range(8):
            r.add(f"t{i}", config)
            decisions = r.report(
                f"t{i}", make_report(step=[10], progress=[10], loss=[5.0 - i], metric=5.0 - i)
            )
            r.complete(f"t{i}", make_report(step=[100], progress=[100], loss=[1.0], metric=1.0 + i % 3))
        return float(decisions[-1].p_top)

    assert probability({"model": "m"}) == probability({})

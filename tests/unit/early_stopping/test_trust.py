"""How far signals are trusted before any trial has ended."""

from __future__ import annotations

from typing import Any

import pytest

from sweepft.early_stopping import CalibratedRule, Calibration, EarlyStopper, make_report

TRIALS = 16


def judged(losses: Any, *, config: Any = None, calibration: Calibration | None = None) -> dict[str, Any]:
    """What was known when the last of 16 trials reached its rungs; its objective is the worst."""
    r = EarlyStopper(
        rule=CalibratedRule(calibration=calibration),
        rungs=(0.1, 0.25),
        budget=100,
        mode="min",
        divergence_check=False,
    )
    for step in (10, 25):
        for i in range(TRIALS):
            r.add(f"t{i}", config(i) if config else {})
            loss = losses(i)
            r.report(f"t{i}", make_report(step=[step], progress=[step], loss=[loss], metric=2.0 + i))
    evidence: dict[str, Any] = next(v for v in r.decisions if v.trial_id == f"t{TRIALS - 1}").evidence
    return evidence


def alike(i: int) -> float:
    return 1.0 + i


def mixed(i: int) -> float:
    return 1.0 + (7 * i) % TRIALS


def opposite(i: int) -> float:
    return 30.0 - i


def test_agreement__lowers_correlation_and_level() -> None:
    """The loss counts as far as, and in the direction in which, it goes with the objective."""
    full, some, against = judged(alike), judged(mixed), judged(opposite)
    assert full["agreement"] == 1.0
    assert abs(some["agreement"]) < 0.7
    assert against["agreement"] < some["agreement"]
    assert full["correlation"] > some["correlation"]
    assert full["level"] > some["level"] > 0.10
    assert full["weights"]["loss"] > some["weights"]["loss"]


def test_agreement__is_full_where_a_signal_is_missing() -> None:
    assert judged(lambda i: None)["agreement"] == 1.0


@pytest.mark.parametrize("key", ["dropout", "lora_dropout", "label_smoothing", "neftune_noise_alpha"])
def test_agreement__prior_is_lower_with_shifted_losses(key: str) -> None:
    same = judged(alike, config=lambda i: {"lr": 0.1 * i, key: 0.1})
    shifted = judged(alike, config=lambda i: {"lr": 0.1 * i, key: 0.1 * (i % 2)})
    assert same["agreement"] == 1.0
    assert 0.4 < shifted["agreement"] < 1.0


def test_agreement__does_not_correct_learned_correlations() -> None:
    taught = Calibration(0.2, 0.1, 20, ((0.1, 0.5), (0.5, 0.7)), (1.0, 0.3, 0.0))
    assert judged(mixed, calibration=taught)["agreement"] == 1.0

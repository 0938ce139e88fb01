"""How far training loss is trusted beside the objective, and what persistence of ranks is worth."""

from __future__ import annotations

from typing import Any

import pytest

from sweepft.early_stopping import CalibratedRule, EarlyStopper, make_report

TRIALS = 16


def judged(
    losses: Any, *, config: Any = None, objectives: Any = None, trials: int = TRIALS
) -> dict[str, Any]:
    """What was known at the first rung when all of 16 trials have been at both."""
    r = EarlyStopper(
        rule=CalibratedRule(), rungs=(0.1, 0.25), budget=100, mode="min", divergence_check=False, audit=1.0
    )
    for step in (10, 25):
        for i in range(trials):
            r.add(f"t{i}", config(i) if config else {})
            objective = 2.0 + i if objectives is None else objectives(step, i)
            r.report(f"t{i}", make_report(step=[step], progress=[step], loss=[losses(i)], metric=objective))
    evidence: dict[str, Any] = r.rule.summary(r.cohort)["learned"]["10%"]
    return evidence


def alike(i: int) -> float:
    return 1.0 + i


def mixed(i: int) -> float:
    return 1.0 + (7 * i) % TRIALS


def opposite(i: int) -> float:
    return 30.0 - i


def test_agreement__the_objective_decides() -> None:
    """The loss counts as far as it goes with the objective, and not at all against it."""
    full, some, against = judged(alike), judged(mixed), judged(opposite)
    assert full["agreement"] == 1.0
    assert abs(some["agreement"]) < 0.7
    assert against["agreement"] < some["agreement"]
    weights = [found["weights"]["loss"] for found in (full, some, against)]
    assert weights[0] > weights[1] >= weights[2] == 0.0
    assert full["weights"]["objective"] > 0


def test_agreement__is_full_where_a_signal_is_missing() -> None:
    assert judged(lambda i: None)["agreement"] == 1.0


@pytest.mark.parametrize("key", ["dropout", "lora_dropout", "label_smoothing", "neftune_noise_alpha"])
def test_agreement__prior_is_lower_with_shifted_losses(key: str) -> None:
    same = judged(alike, config=lambda i: {"lr": 0.1 * i, key: 0.1}, trials=5)
    shifted = judged(alike, config=lambda i: {"lr": 0.1 * i, key: 0.1 * (i % 2)}, trials=5)
    assert same["agreement"] == 1.0
    assert 0.4 < shifted["agreement"] < 1.0


def test_persistence__ranks_that_change_from_rung_to_rung_say_little() -> None:
    kept = judged(lambda i: None)
    shuffled = judged(lambda i: None, objectives=lambda step, i: float((7 * i) % TRIALS if step == 25 else i))
    assert kept["persistence"] > 0.85
    assert abs(shuffled["persistence"]) < 0.6
    assert abs(shuffled["correlation"]) < 0.8 * kept["correlation"]


def test_persistence__a_loss_counts_once_the_objective_has_followed_it() -> None:
    """The objective is evaluated from the second rung on."""
    seen = judged(alike, objectives=lambda step, i: 2.0 + i if step == 25 else None)
    unrelated = judged(mixed, objectives=lambda step, i: 2.0 + i if step == 25 else None)
    assert seen["persistence"] > 0.7 > abs(unrelated["persistence"])

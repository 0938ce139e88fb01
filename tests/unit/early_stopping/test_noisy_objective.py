"""Rules and an objective with a known standard error, such as a score on few items."""

from __future__ import annotations

import math

import pytest

from support.ledger_builder import LedgerBuilder
from sweepft.early_stopping import EarlyStopper, make_report, make_rule
from sweepft.early_stopping.from_ledger import replay_state
from sweepft.early_stopping.rungs import parse_rungs
from sweepft.early_stopping.signals import objective_and_loss, rank_stability


def stopper(rule: str, mode: str = "max") -> EarlyStopper:
    return EarlyStopper(
        rule=make_rule(rule, min_peers=2, eta=2.0),
        rungs=[0.5],
        budget=100,
        mode=mode,  # type: ignore[arg-type]
    )


def last_action(rule: str, scores: list[float], stderr: float | None, mode: str = "max") -> str:
    """What is decided on the last of these trials, after all have reported at the rung."""
    judge = stopper(rule, mode)
    for i, score in enumerate(scores):
        report = make_report(step=[50], progress=[50], loss=[1.0], metric=score, metric_stderr=stderr)
        decisions = judge.report(f"t{i}", report)
    return decisions[-1].action


@pytest.mark.parametrize("rule", ["median", "asha"])
@pytest.mark.parametrize("mode", ["max", "min"])
def test_rules__spare_a_trial_that_is_behind_by_less_than_its_noise(rule: str, mode: str) -> None:
    scores = [0.6, 0.62, 0.61, 0.58]
    scores = scores if mode == "max" else [1 - score for score in scores]
    assert last_action(rule, scores, None, mode) == "stop"
    assert last_action(rule, scores, 0.005, mode) == "stop"
    assert last_action(rule, scores, 0.05, mode) == "continue"


def test_calibrated__an_objective_that_is_all_noise_loses_its_weight() -> None:
    (rung,) = parse_rungs([0.5])
    stability = {}
    for stderr in (None, 0.001, 0.2):
        judge = stopper("none")
        for i in range(6):
            report = make_report(
                step=[50], progress=[50], loss=[1.0 + i], metric=0.5 + 0.05 * i, metric_stderr=stderr
            )
            judge.report(f"t{i}", report)
        names = judge.cohort.names_at(rung)
        scores = objective_and_loss(judge.cohort, rung, names)
        stability[stderr] = rank_stability(judge.cohort, rung, names, scores)[0]
    assert stability[None] == stability[0.001]
    assert stability[0.2] == 0.0


def test_from_ledger__a_maximized_noisy_objective_is_decided_as_live() -> None:
    spec = {"objective": {"maximize": {"task": "maths", "metric": "acc"}}, "early_stop": {"rule": "median"}}
    sweep, live = LedgerBuilder(spec=spec), stopper("median")
    scores = [(0.6, 0.02), (0.5, 0.02), (0.55, 0.02), (0.52, 0.05), (0.52, 0.01)]
    for i, (score, stderr) in enumerate(scores):
        name = f"t{i}"
        sweep.trial(name).steps(name, 5).eval(
            name, score, task={"stderr": stderr, "items": 9, "seconds": 1.0}
        )
        sweep.cost(name)
        live.report(name, make_report(
            step=range(1, 6), progress=range(10, 60, 10), loss=[1.0] * 5, metric=score, metric_stderr=stderr
        ))  # fmt: skip
    again = stopper("median")
    replay_state(again, sweep.state())
    assert [d.to_row() for d in again.decisions] == [d.to_row() for d in live.decisions]
    assert [d.action for d in live.decisions] == ["continue"] * 4 + ["stop"]
    assert math.isnan(live.cohort.trials["t0"].snapshots[parse_rungs([0.5])[0]].metric_stderr) is False

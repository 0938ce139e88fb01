"""The divergence check: what it ends, and what it must leave alone whatever the loss does."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

import pytest

from support.ledger_builder import LedgerBuilder
from sweepft.early_stopping import EarlyStopper, make_report, replay_state
from sweepft.report.stops import stop_summary

NAN, INF = math.nan, math.inf
BUDGET = 100


def early_stopper(**kw: Any) -> EarlyStopper:
    return EarlyStopper(rule=None, **{"rungs": (0.1, 0.5), "budget": BUDGET, "mode": "min", **kw})


def at(step: int, *, loss: Any = None, metric: Any = None, **kw: Any) -> Any:
    return make_report(step=[step], progress=[step], loss=[loss], metric=metric, **kw)


Curve = Callable[[int, int], dict[str, Any]]
"""(trial, step from 1) -> what the trial reports."""


def run(curve: Curve, *, trials: int = 4, order: str = "together", **kw: Any) -> EarlyStopper:
    """Trials that report each step: all together, or one after another."""
    r = early_stopper(**kw)
    steps = [(t, s) for s in range(1, BUDGET) for t in range(trials)]
    if order == "one_by_one":
        steps.sort()
    for t, s in steps:
        if s == 1:
            r.add(f"t{t}")
        r.report(f"t{t}", at(s, **curve(t, s)))
        if s == BUDGET - 1 and order == "one_by_one":
            r.complete(f"t{t}")
    return r


def statuses(r: EarlyStopper) -> list[str]:
    return [t.status for t in r.cohort.trials.values()]


def only_when(step: int, every: int, value: float) -> float:
    return value if step % every == 0 else NAN


HEALTHY: dict[str, tuple[Curve, dict[str, Any]]] = {
    "loss 0 at first": (lambda t, s: {"loss": 0.0 if s <= 5 else 3.0 - s / 50, "metric": 3.0 - s / 50}, {}),
    "loss 0 at first, no objective": (lambda t, s: {"loss": 0.0 if s <= 5 else 3.0 - s / 50}, {}),
    "a smoothed loss that starts at 0": (lambda t, s: {"loss": 2.0 * (1 - 0.9**s)}, {}),
    "reinforcement learning": (lambda t, s: {"loss": 0.001 * s * s, "metric": float(s + t)}, {"mode": "max"}),
    "reinforcement learning, reward at rungs": (
        lambda t, s: {"loss": 0.001 * s * s, "metric": float(s + t) if s % 10 == 0 else None},
        {"mode": "max"},
    ),
    "an adversarial loss": (lambda t, s: {"loss": 0.7 + s / 10, "metric": 50.0 - s / 3 + math.sin(s)}, {}),
    "an annealed bound, the objective improves": (
        lambda t, s: {"loss": 10 + 0.2 * s, "metric": 5.0 - s / 50},
        {},
    ),
    "an annealed bound that is the objective": (
        lambda t, s: {"loss": 10 + 0.3 * s + t, "metric": 10 + 0.3 * s + t},
        {},
    ),
    "NaN where nothing was evaluated": (
        lambda t, s: {"loss": 2.0, "metric": only_when(s, 10, 2.0 - s / 100)},
        {},
    ),
    "infinity before the first evaluation": (
        lambda t, s: {"loss": 2.0, "metric": INF if s < 20 else 1.0},
        {},
    ),
    "no training loss, ever": (lambda t, s: {"loss": NAN, "metric": 3.0 - s / 50}, {}),
    "a training loss now and then": (
        lambda t, s: {"loss": only_when(s, 10, 2.0), "metric": 3.0 - s / 50},
        {},
    ),
    "new data that no one announced, the objective improves": (
        lambda t, s: {"loss": 0.01 if s < 30 else 0.9, "metric": 3.0 - s / 50},
        {},
    ),
}


@pytest.mark.parametrize("name", HEALTHY)
@pytest.mark.parametrize("order", ["together", "one_by_one"])
def test_divergence__ends_no_healthy_trial(name: str, order: str) -> None:
    curve, kw = HEALTHY[name]
    found = statuses(run(curve, order=order, **kw))
    alive = {"running", "completed"}
    if name == "a smoothed loss that starts at 0" and order == "one_by_one":
        assert set(found[1:]) <= alive  # the first has neither an objective nor another trial to compare with
    else:
        assert set(found) <= alive, found


@pytest.mark.parametrize("order", ["together", "one_by_one"])
@pytest.mark.parametrize("bad", range(4))
@pytest.mark.parametrize(
    ("loss", "ended_at"),
    [
        (lambda s: 2.0 if s < 20 else 200.0, 22),  # a hundredfold
        (lambda s: 2.0 if s < 20 else 9.0, 22),  # towards the logarithm of the vocabulary
        (lambda s: 2.0 if s < 20 else NAN, 22),
        (lambda s: 2.0 if s < 20 else INF, 22),
        (lambda s: 2.0 if s < 20 else 9.0 if s < 22 else NAN, 24),
        (lambda s: NAN, 3),
    ],
)
def test_divergence__ends_the_trial_that_diverges(
    loss: Callable[[int], float], ended_at: int, bad: int, order: str
) -> None:
    """At the same step as a check that knows only this trial would; the objective of such a trial is of no use."""

    def curve(t: int, s: int) -> dict[str, Any]:
        metric = (
            (2.5 - s / 100 if math.isfinite(loss(s)) and loss(s) < 3 else NAN) if t == bad else 2.4 - s / 100
        )
        return {"loss": loss(s) if t == bad else 2.0 - s / 100, "metric": metric if s % 5 == 0 else None}

    r = run(curve, order=order)
    assert [s == "diverged" for s in statuses(r)] == [t == bad for t in range(4)]
    (decision,) = (d for d in r.decisions if d.ends_trial)
    late = decision.step - ended_at
    assert 0 <= late <= 1, "a trial that is ahead of all others waits for one of them"


def test_divergence__a_leader_by_a_fresh_objective_goes_on() -> None:
    def curve(t: int, s: int) -> dict[str, Any]:
        return {"loss": 1.0 if s < 20 or t else 3.0, "metric": 1.0 + t + s / 1000}

    assert statuses(run(curve)) == ["running"] * 4


def test_divergence__a_leader_at_the_last_rung_goes_on_until_the_next() -> None:
    def curve(t: int, s: int) -> dict[str, Any]:
        measured = {10: 1.0 + t, 50: 1.0 + t if t else 8.0}
        return {"loss": 1.0 if s < 20 or t else 3.0, "metric": measured.get(s)}

    r = run(curve)
    assert statuses(r) == ["diverged", "running", "running", "running"]
    assert [d.step for d in r.decisions if d.ends_trial] == [50]


@pytest.mark.parametrize(
    ("announced", "chunk"), [("phase_starts", 1), ("phase_starts", 33), ("phase", 1), ("phase", 7), (None, 1)]
)
def test_divergence__restarts_with_each_phase(announced: str | None, chunk: int) -> None:
    """A phase that the model knows, then new rows; one trial at a time, without an objective."""
    r = early_stopper()
    r.add("t0")
    losses = [0.012] * 30 + [2.0] * 30 + [9.0] * 39
    for first in range(0, 99, chunk):
        steps = list(range(first + 1, min(first + chunk, 99) + 1))
        kw: dict[str, Any] = {}
        if announced == "phase_starts":
            kw = {"phase_starts": [30]}
        elif announced == "phase":
            kw = {"phase": "new" if steps[-1] > 30 else "known"}
        r.report("t0", make_report(step=steps, progress=steps, loss=[losses[s - 1] for s in steps], **kw))
    ended = [d.step for d in r.decisions if d.ends_trial]
    if announced is None:
        assert [step for step in ended if step < 60]
    else:
        assert [step >= 60 for step in ended] == [True], (
            "what diverges within the second phase is still ended"
        )


def test_divergence__says_once_that_it_stands_down() -> None:
    r = run(lambda t, s: {"loss": 1.0 if s < 20 else 4.0}, trials=6)
    assert statuses(r) == ["running"] * 6
    (decision,) = (d for d in r.decisions if d.rule == "divergence_check")
    assert (decision.action, decision.rule, decision.rung) == ("continue", "divergence_check", None)
    assert decision.evidence["alike"] > decision.evidence["compared"] / 2
    assert r.summary()["divergence_check"] == {"on": True, "ended": 0, "stood_down": True}


def test_divergence__returns_when_most_trials_are_in_order() -> None:
    r = early_stopper()
    for t in range(12):
        r.add(f"t{t}")
        for s in range(1, 99):
            r.report(f"t{t}", at(s, loss=4.0 if s > 20 and t in (0, 1, 11) else 1.0))
        r.complete(f"t{t}")
    assert [i for i, s in enumerate(statuses(r)) if s == "diverged"] == [0, 11]
    assert r.summary()["divergence_check"]["stood_down"]


@pytest.mark.parametrize("on", [True, False])
def test_divergence__can_be_switched_off(on: bool) -> None:
    r = run(lambda t, s: {"loss": 2.0 if s < 20 or t else NAN}, divergence_check=on)
    assert ("diverged" in statuses(r)) is on


def test_divergence__ends_at_once_what_says_so_itself() -> None:
    r = early_stopper()
    r.add("t0")
    (decision,) = r.report("t0", at(1, loss=NAN, diverged="the gradient norm is nan at step 1"))
    assert (decision.action, decision.reason) == ("divergence_check", "the gradient norm is nan at step 1")


@pytest.mark.parametrize(
    ("last", "final", "status"),
    [
        ({"loss": 2.0, "metric": 1.5}, 1.5, "completed"),
        ({"loss": 2.0, "metric": NAN}, 1.7, "completed"),  # nothing was evaluated at the end
        ({"loss": NAN, "metric": 1.5}, 1.5, "completed"),
        ({"loss": NAN, "metric": NAN}, None, "diverged"),
    ],
)
def test_divergence__of_a_trial_that_ends_by_itself(
    last: dict[str, float], final: float | None, status: str
) -> None:
    r = early_stopper()
    r.add("t0")
    r.report("t0", at(50, loss=2.0, metric=1.7))
    r.complete("t0", at(100, **last))
    assert (r.cohort.trials["t0"].status, r.cohort.trials["t0"].final) == (status, final)


def test_divergence__survives_a_restart_at_every_report() -> None:
    def curve(t: int, s: int) -> dict[str, Any]:
        rises = {0: 1.0, 1: NAN, 2: 1.0, 3: 4.0}
        return {
            "loss": 1.0 if s < 20 else rises[t],
            "metric": 2.0 + t if s % 10 == 0 else None,
            "phase_starts": [7],
        }

    whole = run(curve)
    r = early_stopper()
    for s in range(1, BUDGET):
        for t in range(4):
            again = early_stopper()
            again.load_state_dict(json.loads(json.dumps(r.state_dict())))
            r = again
            r.add(f"t{t}")
            r.report(f"t{t}", at(s, **curve(t, s)))
    assert r.state_dict() == whole.state_dict()
    assert "diverged" in statuses(r)


# ----- in a sweep's ledger and report --------------------------------------------------------------------


@pytest.mark.parametrize("phase_starts", [[], [300]])
def test_divergence__a_replay_knows_the_phases_of_the_ledger(phase_starts: list[int]) -> None:
    """One trial of 100 steps of 10 samples: the second phase has another loss."""
    ledger = (
        LedgerBuilder(budget_samples=1000).trial("t0", start=False).start("t0", phase_starts=phase_starts)
    )
    ledger.steps("t0", 30, loss=0.012).cost("t0").steps("t0", 60, loss=2.0).cost("t0")
    r = early_stopper(budget=1000)
    decisions = replay_state(r, ledger.state())
    assert [d.action for d in decisions if d.rule == "divergence_check"] == (
        [] if phase_starts else ["divergence_check"]
    )


def test_divergence__the_report_says_that_the_check_stood_down() -> None:
    ledger = LedgerBuilder().trial("t0")
    stood_down = {"rule": "divergence_check", "rung": None, "reason": "not stopped: 3 of 4 trials"}
    ledger.steps("t0", 3).decision("t0", "continue", **stood_down).cost("t0")
    found = stop_summary(ledger.state(), [])["divergence_check"]
    assert found == {
        "on": True,
        "ended": 0,
        "stood_down": {"trial_id": "t0", "step": 3, "reason": "not stopped: 3 of 4 trials"},
    }
    off = LedgerBuilder(spec={"early_stop": {"divergence_check": False}}).trial("t0")
    assert stop_summary(off.state(), [])["divergence_check"] == {"on": False, "ended": 0, "stood_down": None}


def test_divergence__an_engine_that_ends_a_trial_is_replayed_with_its_reason() -> None:
    """Its last steps are given to `complete`, as in the live sweep, so that no rule judges them."""
    ledger = LedgerBuilder().trial("t0").steps("t0", 4, loss=1.0).cost("t0")
    ledger.steps("t0", 6, loss=[1.0, NAN], grad_norm=[1.0, NAN]).cost("t0")
    reason = "the gradient norm is nan at step 6"
    ledger.end("t0", "diverged", reason=reason)
    r = early_stopper(rungs=(0.05, 0.6))
    replay_state(r, ledger.state())
    assert [(d.action, d.reason) for d in r.decisions if d.step == 6] == [("divergence_check", reason)]
    assert statuses(r) == ["diverged"]

"""The scheduler in other people's sweeps: odd values, missing keys, wrong arguments, and what it says about them."""

from __future__ import annotations

import logging
import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from ray.tune.schedulers import ASHAScheduler, TrialScheduler

from support.errors import raises
from sweepft.early_stopping.numbers import as_number
from sweepft.schedulers import EarlyDynamicsScheduler

STOP, CONTINUE = TrialScheduler.STOP, TrialScheduler.CONTINUE
NAN = math.nan


def trial(name: str, **more: Any) -> Any:
    return SimpleNamespace(trial_id=name, **{"config": {}, **more})


def scheduler(**kw: Any) -> EarlyDynamicsScheduler:
    return EarlyDynamicsScheduler(
        **{"metric": "eval_loss", "mode": "min", "rule": "median", "budget": 100, **kw}
    )


def sweep(
    s: Any, results: Any = None, *, trials: int = 8, iterations: int = 100, slots: int = 100
) -> list[int]:
    """Drive a scheduler as Tune does, with trials in waves of so many; trial i has objective i + 1/iteration. Returns
    the iterations of each trial.
    """
    results = results or (lambda i, n: {})
    all_trials = [trial(f"r{i}") for i in range(trials)]
    for t in all_trials:
        s.on_trial_add(None, t)
    done = [0] * trials
    alive = set(range(trials))
    order = ((i, n) for n in range(1, iterations + 1) for i in range(trials))
    for i, n in sorted(order, key=lambda turn: turn[0] // slots):
        if i not in alive:
            continue
        result = {
            "training_iteration": n,
            "eval_loss": i + 1 / n,
            "time_total_s": 1.0 * n,
            "pid": 3,
            **results(i, n),
        }
        done[i] = n
        if n == iterations:
            s.on_trial_complete(None, all_trials[i], {**result, "done": True})
        elif s.on_trial_result(None, all_trials[i], result) == STOP:
            s.on_trial_complete(None, all_trials[i], {**result, "done": True})
            alive.discard(i)
    return done


@pytest.mark.parametrize(
    ("value", "number"),
    [
        (3, 3.0), (0.5, 0.5), (np.float32(0.5), 0.5), (np.int64(3), 3.0), (np.array(2.0), 2.0), (np.array([2.0]), 2.0),
        (torch.tensor(0.5), 0.5), (torch.tensor([[0.5]], requires_grad=True), 0.5), ("0.5", 0.5), ("1e-3", 0.001),
        (None, None), ("n/a", None), ("", None), ([1.0], None), ([1, 2], None), (np.array([1.0, 2.0]), None), ({}, None),
        (torch.zeros(2), None), (True, None), (np.bool_(True), None), (object(), None), (1 + 2j, None), (b"1", None),
        (10**400, None),
    ],
)  # fmt: skip
def test_as_number__reads_scalars_and_nothing_else(value: Any, number: float | None) -> None:
    assert as_number(value) == number


ODD = [
    ("loss", "n/a"), ("loss", [1.0]), ("loss", {}), ("loss", object()), ("step", None), ("step", "three"), ("step", NAN),
    ("step", math.inf), ("warmup_steps", "auto"), ("warmup_steps", NAN), ("grad_norm", [1.0, 2.0]),
    ("grad_norm", np.ones(3)), ("grad_norm", torch.ones(2)), ("data_order", [3, 1, 2]), ("data_order", {"a": 1}),
    ("eval_loss", "n/a"), ("eval_loss", [1, 2]), ("eval_loss", None), ("eval_loss", NAN), ("samples_seen", NAN),
    ("samples_seen", "many"), ("training_iteration", None), ("history", [1, 2]), ("history", {"loss": [1.0]}),
    ("history", {"step": [1, 2], "training_iteration": [1], "loss": [1, 2, 3]}), ("history", "none"),
    ("blocks", 7), ("blocks", {"index": [1], "loss": [], "tokens": [3]}), ("blocks", {"index": ["a"], "loss": [1.0], "tokens": [1]}),
    ("diverged", 0), ("diverged", 12), ("diverged", 0.0), ("diverged", NAN), ("diverged", "no"), ("diverged", []),
    ("phase", object()), ("phase", NAN), ("phase_starts", "soon"), ("phase_starts", [None]), ("phase_starts", 3),
]  # fmt: skip


@pytest.mark.parametrize(("key", "value"), ODD)
@pytest.mark.parametrize("always", [True, False])
def test_scheduler__an_odd_value_ends_no_sweep_and_no_trial(key: str, value: Any, always: bool) -> None:
    """The trial with the odd value is the best one."""
    s = scheduler(min_steps=0, rule="calibrated", audit=0.0)

    def results(i: int, n: int) -> dict[str, Any]:
        plain = {"loss": 2.0 + i + 1 / n, "grad_norm": 1.0, "step": n}
        return {**plain, key: value} if i == 0 and (always or n == 7) else plain

    done = sweep(s, results, trials=9, slots=3)
    assert done[0] == 100
    assert min(done[1:]) < 100, "the others are judged all the same"
    assert not any("error" in message for message in s.warnings)
    assert s.drain_errors() == {}


def test_scheduler__says_once_per_key_what_was_no_number(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "sweepft"):
        sweep(scheduler(), lambda i, n: {"loss": "n/a", "grad_norm": [1, 2]})
    told = [r.getMessage() for r in caplog.records if "no number" in r.getMessage()]
    assert len(told) == 2
    assert "'loss'" in told[0]
    assert "'grad_norm'" in told[1]


@pytest.mark.parametrize("value", [True, np.bool_(True), "the loss is nan"])
def test_scheduler__a_trial_may_say_that_it_diverged(value: Any) -> None:
    s = scheduler()
    sweep(s, lambda i, n: {"diverged": value if i == 3 and n == 2 else False})
    (decision,) = (d for d in s.drain_decisions() if d.action == "divergence_check")
    assert (decision.trial_id, decision.step) == ("r3", 2)
    assert decision.reason == (value if isinstance(value, str) else "the trial reported that it has diverged")


class Broken(EarlyDynamicsScheduler):
    def _hyperparameters(self, trial: Any) -> Any:
        raise RuntimeError("a bug in add")


def test_scheduler__an_exception_of_its_own_is_logged_once_and_ends_nothing(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    s = Broken("eval_loss", "min", budget=100)
    monkeypatch.setattr(s.early_stopper, "report", lambda *a: 1 / 0)
    monkeypatch.setattr(s.early_stopper, "complete", lambda *a: 1 / 0)
    with caplog.at_level(logging.ERROR, "sweepft"):
        assert sweep(s) == [100] * 8
        s.on_trial_error(None, trial("r0"))
        s.on_trial_remove(None, trial("r1"))
    told = [r for r in caplog.records if r.exc_info]
    assert [r.exc_info[0] for r in told] == [RuntimeError, ZeroDivisionError, ZeroDivisionError]  # type: ignore[index]
    assert set(s.drain_errors()) == {
        "_add: RuntimeError",
        "on_trial_result: ZeroDivisionError",
        "on_trial_complete: ZeroDivisionError",
    }


# ----- silence -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("iterations", [10, 16, 20, 50, 100, 400])
@pytest.mark.parametrize("step", [{}, {"step": 1}])
@pytest.mark.parametrize("rule", ["median", "calibrated", "asha"])
def test_scheduler__judges_by_default_whatever_the_number_of_iterations(
    iterations: int, step: dict[str, int], rule: str
) -> None:
    s = scheduler(budget=iterations, rule=rule, audit=0.0)
    done = sweep(s, lambda i, n: {"step": n} if step else {}, iterations=iterations, slots=4)
    assert done[0] == iterations
    assert min(done) < iterations
    assert s.warnings == []


def test_scheduler__takes_samples_seen_as_soon_as_a_result_has_it() -> None:
    s = scheduler(budget=800)
    done = sweep(s, lambda i, n: {"samples_seen": 8 * n} if n > 1 else {})
    assert done[0] == 100
    assert min(done) < 100
    assert {d.samples_seen % 8 for d in s.drain_decisions()} == {0.0}
    assert s.warnings == []


@pytest.mark.parametrize("metric", ["eval/loss", "eval.loss"])
@pytest.mark.parametrize("nested", [True, False])
def test_scheduler__reads_nested_and_dotted_metrics(metric: str, nested: bool) -> None:
    s = scheduler(metric=metric)
    done = sweep(s, lambda i, n: {"eval": {"loss": i + 1 / n}} if nested else {"eval/loss": i + 1 / n})
    assert min(done) < 100
    assert s.warnings == []


@pytest.mark.parametrize(
    ("kw", "results", "about", "names"),
    [
        ({"metric": "evalloss"}, {}, "metric", ["'evalloss'", "eval_loss", "train/acc"]),
        ({"metric": "eval/los"}, {}, "metric", ["'eval/los'", "eval_loss"]),
        ({"time_attr": "epoch"}, {}, "time_attr", ["'epoch'", "eval_loss"]),
        ({"loss": "train_los"}, {}, "loss", ["'train_los'"]),
        ({"budget": 10_000}, {}, "budget_large", ["10000", "100"]),
        ({"budget": 1_000}, {}, "budget_large", ["1000", "100"]),
        ({"budget": 10}, {}, "budget_small", ["10"]),
        ({"min_steps": 500}, {}, "min_steps", ["500"]),
        ({"reduction_factor": 4, "rule": "calibrated"}, {}, "reduction_factor", ["asha"]),
    ],
)
@pytest.mark.parametrize("slots", [8, 1])
def test_scheduler__says_once_why_it_does_nothing(
    kw: dict[str, Any],
    results: dict[str, Any],
    about: str,
    names: list[str],
    slots: int,
    caplog: pytest.LogCaptureFixture,
) -> None:
    s = scheduler(**kw)
    with caplog.at_level(logging.WARNING, "sweepft"):
        sweep(s, lambda i, n: {"train": {"acc": 0.5}, **results}, slots=slots)
    (message,) = s.warnings
    assert [r.getMessage() for r in caplog.records] == [message]
    for name in names:
        assert name in message
    assert "pid" not in message


@pytest.mark.parametrize(
    ("kw", "key"),
    [
        *(({"eta": eta}, "eta") for eta in (0, 1, -3, "3", NAN)),
        *(({"reduction_factor": eta, "rule": "asha"}, "eta") for eta in (0, 1)),
        *(({"budget": b}, "budget") for b in ("100", 0, -1, NAN, math.inf, None, True, [100])),
        ({"budget": 100, "max_t": 50}, "max_t"),
        ({"grace_period": 0}, "grace_period"),
        ({"grace_period": 200}, "grace_period"),
        ({"brackets": 3}, "brackets"),
        ({"min_steps": -1}, "min_steps"),
        ({"min_steps": "20"}, "min_steps"),
        ({"min_peers": -1}, "min_peers"),
        ({"keep_last": -1}, "keep_last"),
        ({"audit": 2}, "audit"),
        ({"audit": "0.1"}, "audit"),
        ({"top_fraction": 0, "rule": "calibrated"}, "top_fraction"),
        ({"max_false_discovery_rate": 2}, "max_false_discovery_rate"),
        ({"rungs": ("0.1",)}, "rungs"),
    ],
)
def test_scheduler__refuses_wrong_values(kw: dict[str, Any], key: str) -> None:
    with raises(ValueError, key):
        scheduler(**kw)


# ----- in place of ASHA ----------------------------------------------------------------------------------

ASHA = [
    {"max_t": 100},
    {"max_t": 100, "grace_period": 10},
    {"max_t": 100, "grace_period": 1, "reduction_factor": 3},
    {
        "time_attr": "training_iteration",
        "max_t": 100,
        "grace_period": 5,
        "reduction_factor": 4,
        "brackets": 1,
    },
    {"max_t": 20, "stop_last_trials": True},
]


@pytest.mark.parametrize("arguments", ASHA)
@pytest.mark.parametrize("make", [ASHAScheduler, EarlyDynamicsScheduler])
def test_scheduler__understands_the_arguments_of_asha(make: Any, arguments: dict[str, Any]) -> None:
    """Trainables that never end by themselves end at ``max_t``, and nothing ends before ``grace_period``."""
    s = make(metric="eval_loss", mode="min", **arguments)
    done = sweep(s, iterations=300, trials=12, slots=4)
    assert max(done) == arguments["max_t"]
    assert done[0] == arguments["max_t"]
    assert min(done) < arguments["max_t"]
    assert min(done) >= arguments.get("grace_period", 1)


def test_scheduler__stop_last_trials_lets_trials_go_on() -> None:
    s = EarlyDynamicsScheduler("eval_loss", "min", max_t=100, stop_last_trials=False)
    assert max(sweep(s, iterations=120)) == 120


# ----- more than one sweep, and names --------------------------------------------------------------------


def test_scheduler__a_second_sweep_starts_from_nothing() -> None:
    s = scheduler()
    runs = []
    for _ in range(2):
        assert s.set_search_properties("eval_loss", "min")
        runs.append((sweep(s), s.summary(), s.drain_decisions()))
    assert runs[0] == runs[1]
    fresh = scheduler()
    assert sweep(fresh) == runs[0][0]


def test_scheduler__keeps_a_loaded_state_for_its_sweep() -> None:
    first = scheduler()
    sweep(first)
    second = scheduler()
    second.load_state_dict(first.state_dict())
    assert second.set_search_properties("eval_loss", "min")
    assert second.summary()["trials"] == 8
    second.on_trial_add(None, trial("new"))
    assert second.summary()["trials"] == 9


def test_scheduler__one_name_for_all_trials_does_not_make_them_one() -> None:
    s = scheduler()
    for i in range(4):
        s.on_trial_add(None, trial(f"r{i}", config={"trial_id": "mine", "x": i}))
        s.on_trial_result(None, trial(f"r{i}"), {"training_iteration": 5, "eval_loss": float(i)})
    assert list(s.early_stopper.cohort.trials) == ["mine", "r1", "r2", "r3"]
    assert len(s.warnings) == 1


def test_scheduler__repeats_of_rays_repeater_are_repeats() -> None:
    s = scheduler()
    for i in range(2):
        s.on_trial_add(None, trial(f"r{i}", config={"lr": 0.1, "__trial_index__": i}))
    first, second = s.early_stopper.cohort.trials.values()
    assert first.configuration == second.configuration is not None


def test_scheduler__knows_the_trials_of_a_restored_experiment() -> None:
    s = scheduler()
    last = {"training_iteration": 100, "eval_loss": 0.5, "config": {"x": 1}, "done": True}
    s.on_trial_add(None, trial("ended", status="TERMINATED", last_result=last))
    s.on_trial_add(
        None, trial("stopped", status="TERMINATED", last_result={**last, "training_iteration": 10})
    )
    s.on_trial_add(None, trial("failed", status="ERROR", last_result={**last, "training_iteration": 30}))
    going_on = trial("half", status="PENDING", last_result={**last, "training_iteration": 60, "done": False})
    s.on_trial_add(None, going_on)
    s.on_trial_add(None, trial("new", status="PENDING", last_result={}))
    found = {t.trial_id: (t.status, t.final) for t in s.early_stopper.cohort.trials.values()}
    assert found == {
        "ended": ("completed", 0.5),
        "stopped": ("removed", None),
        "failed": ("failed", None),
        "half": ("running", None),
        "new": ("running", None),
    }
    assert s.on_trial_result(None, going_on, {"training_iteration": 61, "eval_loss": 9.0}) == CONTINUE
    assert s.drain_decisions() == [], (
        "its values at the rungs behind it are not known, and nobody is compared with it"
    )

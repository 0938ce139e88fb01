"""The scheduler at Ray's interface, with Ray's own Trial objects but no session."""

from __future__ import annotations

import json
import math
import pickle
import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import pytest
from ray.tune.result import DEFAULT_METRIC
from ray.tune.schedulers import TrialScheduler
from ray.tune.utils import flatten_dict

from support.errors import raises
from support.ledger_builder import LedgerBuilder
from sweepft.ledger import SweepState
from sweepft.schedulers import EarlyDynamicsScheduler

STOP, CONTINUE = TrialScheduler.STOP, TrialScheduler.CONTINUE


def scheduler(**kw: Any) -> EarlyDynamicsScheduler:
    base: dict[str, Any] = {
        "metric": "eval_loss",
        "mode": "min",
        "budget": 100,
        "rungs": (0.1, 0.5),
        "min_steps": 0,
        "min_peers": 2,
        "rule": "median",
        "audit": 0.0,
    }
    return EarlyDynamicsScheduler(**{**base, **kw})


def trial(name: str, **config: Any) -> Any:
    return SimpleNamespace(trial_id=name, config=config)


@pytest.mark.parametrize(
    ("one", "other", "repeats"),
    [
        ({"lr": 0.1, "seed": 1}, {"lr": 0.1, "seed": 2}, True),
        ({"lr": 0.1, "betas": [0.9, 0.95]}, {"lr": 0.1, "betas": [0.9, 0.95]}, True),
        ({"lr": 0.1, "betas": [0.9, 0.95]}, {"lr": 0.1, "betas": [0.9, 0.99]}, False),
        ({"lr": 0.1, "data": range(3)}, {"lr": 0.1, "data": range(3)}, True),  # by what they show
        ({"lr": 0.1, "data": range(3)}, {"lr": 0.1, "data": range(4)}, False),
    ],
)
def test_scheduler__repeats_have_equal_hyperparameters_but_seeds(
    one: dict[str, Any], other: dict[str, Any], repeats: bool
) -> None:
    s = scheduler()
    for name, config in (("a", one), ("b", other)):
        s.on_trial_add(None, trial(name, **config))
    a, b = (s.early_stopper.cohort.trials[n].configuration for n in "ab")
    assert a is not None
    assert (a == b) is repeats
    json.dumps(s.state_dict())


def test_scheduler__judges_results_with_missing_keys() -> None:
    s = scheduler()
    decisions = []
    for i, value in enumerate([1.0, 2.0, 3.0]):
        t = trial(f"r{i}")
        s.on_trial_add(None, t)
        assert s.on_trial_result(None, t, {"loss": 2.0}) == CONTINUE  # no progress reported: nothing to do
        decisions.append(s.on_trial_result(None, t, {"samples_seen": 10, "eval_loss": value}))
    assert decisions == [CONTINUE, CONTINUE, STOP]
    decisions = s.drain_decisions()
    assert [v.trial_id for v in decisions] == ["r0", "r1", "r2"]
    assert s.drain_decisions() == []


def bulk(i: int, value: float, *, rung: float | None = 0.1, start: int = 1, stop: int = 10) -> dict[str, Any]:
    steps = list(range(start, stop + 1))
    return {
        "step": stop,
        "samples_seen": stop,
        "loss": value,
        "grad_norm": 1.0,
        "eval_loss": value,
        "rung": rung,
        "history": {
            "step": steps,
            "samples_seen": steps,
            "loss": [value] * len(steps),
            "grad_norm": [1.0 + i] * len(steps),
        },
        "blocks": {"index": [start // 10], "loss": [value + 0.5], "tokens": [100]},
        "warmup_steps": 3,
        "data_order": "abc",
        "training_iteration": 1,
    }


@pytest.mark.parametrize("flat", [True, False])
def test_scheduler__reads_flat_and_nested_results(flat: bool) -> None:
    s = scheduler(min_steps=10)
    for i, value in enumerate([1.0, 2.0, 3.0]):
        t = trial(f"ray{i}", trial_id=f"t00{i}", batch_size=8)
        s.on_trial_add(None, t)
        result = bulk(i, value)
        decision = s.on_trial_result(None, t, flatten_dict(result) if flat else result)
    assert decision == STOP
    decision = s.drain_decisions()[-1]
    assert (decision.trial_id, decision.step, decision.samples_seen, decision.rung) == ("t002", 10, 10.0, 0.1)
    snap = s.early_stopper.cohort.at(s.early_stopper.rungs[0])["t002"]
    assert snap.block_loss == 3.5
    assert snap.data_order == "abc"
    assert snap.log_grad_norm == pytest.approx(math.log(3.0))


def test_scheduler__takes_metric_and_mode_from_tune_config() -> None:
    s = EarlyDynamicsScheduler(budget=100, rule="median")
    with raises(ValueError, "mode"):
        s.on_trial_add(None, trial("a"))
    assert s.set_search_properties("eval_loss", "min")
    s.on_trial_add(None, trial("a"))
    assert s.set_search_properties("eval_loss", "min")  # saying it twice is no contradiction
    assert not s.set_search_properties("eval_loss", "max")
    assert not s.set_search_properties("accuracy", "min")
    assert s.metric == DEFAULT_METRIC  # so that Tune lets results without the objective pass


@pytest.mark.parametrize(
    ("kw", "key"),
    [
        ({"rule": "tea-leaves"}, "rule"),
        ({"mode": "up"}, "mode"),
        ({"budget": 0}, "budget"),
        ({"rungs": (2.0,)}, "rungs"),
        ({"pause": True}, "pause"),
        ({"prior_sweeps": "no/such/run"}, "prior_sweeps.absent"),
    ],
)
def test_scheduler__refuses_wrong_arguments(kw: dict[str, Any], key: str) -> None:
    with raises(ValueError, key):
        scheduler(**kw)


def test_scheduler__takes_the_final_objective_from_a_done_result() -> None:
    s = scheduler()
    a = trial("a")
    s.on_trial_add(None, a)
    s.on_trial_complete(None, a, {"samples_seen": 100, "eval_loss": 0.7, "done": True})
    assert dict(s.early_stopper.cohort.finals) == {"a": 0.7}


def test_scheduler__no_final_objective_when_tune_ends_a_trial() -> None:
    s = scheduler()
    a = trial("a")
    s.on_trial_add(None, a)
    s.on_trial_result(None, a, {"samples_seen": 30, "eval_loss": 0.7})
    s.on_trial_complete(None, a, {"samples_seen": 30, "eval_loss": 0.7})
    assert dict(s.early_stopper.cohort.finals) == {}
    assert s.summary()["statuses"] == {"removed": 1}


def test_scheduler__a_diverged_end_is_a_divergence_check() -> None:
    s = scheduler(rule="none")
    a = trial("a")
    s.on_trial_add(None, a)
    s.on_trial_complete(None, a, {"samples_seen": 30, "diverged": "loss is nan at step 3", "done": True})
    (decision,) = s.drain_decisions()
    assert (decision.action, decision.reason) == ("divergence_check", "loss is nan at step 3")
    assert s.on_trial_result(None, a, {"samples_seen": 40}) == CONTINUE


def test_scheduler__errors_retries_and_removals() -> None:
    s = scheduler()
    a, b = trial("a"), trial("b")
    s.on_trial_add(None, a)
    s.on_trial_add(None, b)
    s.on_trial_error(None, a)
    s.on_trial_remove(None, b)
    assert s.summary()["statuses"] == {"failed": 1, "removed": 1}
    s.on_trial_add(None, a)
    assert s.summary()["statuses"] == {"running": 1, "removed": 1}


def start_sweep(s: EarlyDynamicsScheduler) -> list[dict[str, Any]]:
    """A small sweep as the tuner would run it; returns the rows its recorder would write."""
    ledger = LedgerBuilder(samples_per_step=1)
    trials = [trial(f"ray{i}", trial_id=f"t00{i}", batch_size=8) for i in range(6)]
    for i, t in enumerate(trials):
        s.on_trial_add(None, t)
        ledger.trial(f"t00{i}", start=False, params={"batch_size": 8}, train_config={}, warmup_steps=3)
    alive = dict(enumerate(trials))
    for rung, start, stop in ((0.1, 1, 10), (0.5, 11, 50), (1.0, 51, 100)):
        for i, t in list(alive.items()):
            value = [1.0, 5.0, 3.0, 0.5, math.nan, 4.0][i] / rung
            result = bulk(i, value, rung=rung, start=start, stop=stop)
            if rung == 1.0:
                s.on_trial_complete(None, t, flatten_dict({**result, "done": True}))
                decision = "done"
            else:
                decision = s.on_trial_result(None, t, flatten_dict(result))
            name = f"t00{i}"
            ledger.write(
                "steps", trial_id=name, attempt=1, history=result["history"], blocks=result["blocks"]
            )
            ledger.eval(name, value, step=stop, rung=rung)
            for made in s.drain_decisions():
                ledger.write("decision", **made.to_row())
            if decision != CONTINUE:
                del alive[i]
                status = "completed" if decision == "done" else ledger.row["action"]
                status = {"stop": "stopped", "divergence_check": "diverged"}.get(status, status)
                ledger.end(name, status, value)
    return ledger.rows


@pytest.mark.parametrize("rule", ["median", "recipe", "asha", "calibrated"])
def test_scheduler__rebuilt_from_a_ledger_decides_and_knows_the_same(rule: str) -> None:
    live = scheduler(rule=rule)
    rows = start_sweep(live)
    recorded = [
        {k: v for k, v in r.items() if k not in ("seq", "time", "kind")}
        for r in rows
        if r["kind"] == "decision"
    ]
    assert {"continue", "divergence_check"} <= {r["action"] for r in recorded}
    for cut in range(len(rows) + 1):
        rebuilt = scheduler(rule=rule)
        state = SweepState.from_rows(rows[:cut])
        decisions = [json.loads(json.dumps(v.to_row())) for v in rebuilt.load_ledger(state)]
        assert decisions[: len(decisions) - 1] == recorded[: max(0, len(decisions) - 1)]
    assert decisions == recorded
    assert rebuilt.drain_decisions() == []
    assert rebuilt.summary() == live.summary()


def test_scheduler__state_survives_pickle_json_and_files(tmp_path: Any) -> None:
    live = scheduler()
    start_sweep(live)
    loaded, restored = scheduler(), scheduler()
    loaded.load_state_dict(json.loads(json.dumps(live.state_dict())))
    live.save(str(tmp_path / "state.json"))
    restored.restore(str(tmp_path / "state.json"))
    for other in (pickle.loads(pickle.dumps(live)), loaded, restored):
        assert other.state_dict() == live.state_dict()
        assert other.drain_decisions() == []


def test_schedulers__import_loads_nothing_heavy() -> None:
    code = (
        "import sys, sweepft.schedulers\n"
        "names = {'torch', 'deepspeed', 'transformers', 'datasets', 'optuna', 'sweepft.spec'}\n"
        "heavy = names & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)

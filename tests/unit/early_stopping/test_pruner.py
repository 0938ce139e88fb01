"""The rules as an Optuna pruner, in real studies."""

from __future__ import annotations

import json
import logging
import math
import pickle
import random
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import optuna
import pytest
import torch

from support.errors import raises
from sweepft.pruners import EarlyDynamicsPruner, observe
from sweepft.schedulers import EarlyDynamicsScheduler

STATES = optuna.trial.TrialState


def run(
    pruner: Any, direction: str = "minimize", trials: int = 30, storage: str | None = None, jobs: int = 1
):  # type: ignore[no-untyped-def]
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    sampler = optuna.samplers.RandomSampler(seed=1)
    study = optuna.create_study(direction=direction, pruner=pruner, sampler=sampler, storage=storage)
    sign = 1.0 if direction == "minimize" else -1.0

    def objective(trial: optuna.Trial) -> float:
        x = trial.suggest_float("x", 0, 1)
        for step in range(1, 21):
            value = x + 2.0 / step
            observe(trial, step, metric=sign * value if step % 2 == 0 else None, loss=value, grad_norm=1.0)
            if trial.should_prune():
                raise optuna.TrialPruned
        return sign * x

    study.optimize(objective, n_trials=trials, n_jobs=jobs)
    return study


@pytest.mark.parametrize("rule", ["calibrated", "median", "asha"])
@pytest.mark.parametrize("direction", ["minimize", "maximize"])
def test_pruner__prunes_poor_trials_and_keeps_the_best(rule: str, direction: str) -> None:
    study = run(EarlyDynamicsPruner(budget=20, rungs=(0.1, 0.5), rule=rule), direction)
    states = [t.state for t in study.trials]
    assert states.count(STATES.PRUNED) > 8
    best = min(study.trials, key=lambda t: t.params["x"])
    assert best.state is STATES.COMPLETE
    assert study.best_trial.number == best.number
    pruned = [t.params["x"] for t in study.trials if t.state is STATES.PRUNED]
    assert min(pruned) > sorted(t.params["x"] for t in study.trials)[2]


def test_pruner__a_new_process_continues_from_the_storage(tmp_path) -> None:  # type: ignore[no-untyped-def]
    storage = f"sqlite:///{tmp_path / 'study.db'}"
    study = run(EarlyDynamicsPruner(budget=20, rungs=(0.1,), rule="median"), trials=10, storage=storage)
    fresh = EarlyDynamicsPruner(budget=20, rungs=(0.1,), rule="median")
    again = optuna.load_study(study_name=study.study_name, storage=storage, pruner=fresh)
    trial = again.ask()
    trial.suggest_float("x", 0, 1)
    observe(trial, 2, metric=99.0, loss=99.0)
    assert trial.should_prune()
    assert fresh.decisions[-1].evidence["peers"] == 10


def test_pruner__judges_again_between_rungs() -> None:
    study = optuna.create_study(pruner=EarlyDynamicsPruner(budget=20, rungs=(0.1,)))
    for i in range(4):  # results follow the objective at the rung
        ended = study.ask()
        observe(ended, 2, metric=10.0 + i, loss=10.0 + i)
        study.tell(ended, 10.0 + i)
    first = study.ask()
    observe(first, 2, metric=9.0, loss=9.0)
    assert not first.should_prune()
    for i in range(8):
        other = study.ask()
        observe(other, 2, metric=1.0 + i / 10, loss=1.0 + i / 10)
    observe(first, 3, loss=9.0)
    assert first.should_prune()


def test_pruner__does_not_prune_an_audited_trial() -> None:
    study = run(EarlyDynamicsPruner(budget=20, rungs=(0.1, 0.5), rule="median", audit=1.0))
    assert all(t.state is STATES.COMPLETE for t in study.trials)


@pytest.mark.parametrize("bad", [math.nan, math.inf, 200.0])
def test_pruner__prunes_what_diverges(bad: float) -> None:
    """With no rule at all; its objective, reported at the same points, is of no use."""
    pruner = EarlyDynamicsPruner(budget=20, rungs=(0.5,), rule="none")
    study = optuna.create_study(pruner=pruner)
    trial = study.ask()
    for step in range(1, 11):
        observe(trial, step, loss=2.0 if step < 5 else bad, metric=None if step < 5 else math.nan)
        if trial.should_prune():
            break
    assert step == 7
    assert trial.should_prune(), "asked again, it gives the same answer"
    assert [d.action for d in pruner.decisions] == ["divergence_check"]


@pytest.mark.parametrize(
    "kw", [{"loss": math.nan}, {"loss": math.inf}, {"metric": math.nan}, {"metric": math.inf}]
)
def test_pruner__one_value_that_is_not_finite_ends_no_trial(kw: dict[str, float]) -> None:
    study = optuna.create_study(pruner=EarlyDynamicsPruner(budget=20, rungs=(0.5,), rule="none"))
    trial = study.ask()
    for step in range(1, 20):
        observe(trial, step, **({"loss": 1.0, "metric": 1.0} | (kw if step == 4 else {})))
        assert not trial.should_prune()


def curve(number: int, step: int) -> dict[str, float | None]:
    """What trial ``number`` reports: some good, some bad, one that diverges, one without an objective."""
    noise = random.Random(f"{number}:{step}").gauss(0, 0.1)
    quality = random.Random(number).uniform(0, 2)
    loss: float | None = quality + 3.0 / step + noise
    metric: float | None = quality + 2.5 / step + noise if step % 3 == 0 and number != 11 else None
    if number == 9 and step > 12:
        loss = math.nan
        metric = None
    if number == 13 and step > 20:
        loss = metric = 400.0
    return {"loss": loss, "grad_norm": 1.0 + abs(noise), "metric": metric}


RULES = ["none", "median", "asha", "recipe", "calibrated"]
SETTINGS: dict[str, Any] = {"budget": 40, "rungs": (0.1, 0.25, 0.5, 1.0), "audit": 0.1, "min_peers": 3}


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("at_once", [1, 4])
@pytest.mark.parametrize("mode", ["min", "max"])
def test_pruner__decides_as_the_scheduler(rule: str, at_once: int, mode: str) -> None:
    """The same curves, one or four trials at a time: the same decisions, reasons and evidence included."""
    sign = 1.0 if mode == "min" else -1.0
    scheduler = EarlyDynamicsScheduler("m", mode, time_attr="step", min_steps=0, rule=rule, **SETTINGS)  # type: ignore[arg-type]
    pruner = EarlyDynamicsPruner(rule=rule, **SETTINGS)
    direction = "minimize" if mode == "min" else "maximize"
    study = optuna.create_study(direction=direction, pruner=pruner)
    waiting, running, count = list(range(30)), {}, {}
    while waiting or running:
        while waiting and len(running) < at_once:
            number = waiting.pop(0)
            ours, theirs = study.ask(), SimpleNamespace(trial_id=str(number), config={"lr": 0.1 * number})
            ours.suggest_float("lr", 0.1 * number, 0.1 * number)
            scheduler.on_trial_add(None, theirs)  # type: ignore[arg-type]
            running[number], count[number] = (ours, theirs), 0
        for number in list(running):
            ours, theirs = running[number]
            count[number] += 1
            step, values = count[number], curve(number, count[number])
            if values["metric"] is not None:
                values["metric"] *= sign
            observe(ours, step, **values)
            prune = ours.should_prune()
            result = {
                "step": step,
                "loss": values["loss"],
                "grad_norm": values["grad_norm"],
                "m": values["metric"],
            }
            if step == 40:
                scheduler.on_trial_complete(None, theirs, {**result, "done": True})  # type: ignore[arg-type]
                assert not prune, "nothing is left to save"
                last = curve(number, 39)["metric"]  # number 11 has none: neither has a final result
                study.tell(ours, math.inf if last is None else sign * last)
                del running[number]
                continue
            stop = scheduler.on_trial_result(None, theirs, result) == "STOP"  # type: ignore[arg-type]
            assert prune == stop, (number, step)
            if stop:
                scheduler.on_trial_complete(None, theirs, {**result, "done": True})  # type: ignore[arg-type]
                study.tell(ours, state=STATES.PRUNED)
                del running[number]
    assert pruner.decisions == scheduler.early_stopper.decisions
    assert len({d.action for d in pruner.decisions}) >= (2 if rule != "none" else 1)


def test_pruner__prunes_no_trial_at_its_full_budget() -> None:
    """Better trials arrive while one makes its last step; steps from 1 or, as in Optuna's examples, from 0."""
    for first in (0, 1):
        study = optuna.create_study(pruner=EarlyDynamicsPruner(budget=10, rungs=(0.1, 0.5, 1.0)))
        slow = study.ask()
        for step in range(first, 9 + first):
            slow.report(9.0, step)
            assert not slow.should_prune()
        for i in range(8):
            other = study.ask()
            for step in range(first, 10 + first):
                other.report(1.0 + i / 10, step)
                other.should_prune()
            study.tell(other, 1.0 + i / 10)
        slow.report(9.0, 9 + first)
        assert not slow.should_prune()


def test_observe__a_second_call_at_one_point_adds_to_the_first() -> None:
    pruner = EarlyDynamicsPruner(budget=10, rungs=(0.5,), rule="median")
    study = optuna.create_study(pruner=pruner)
    for asked in (False, True):
        trial = study.ask()
        observe(trial, 4, loss=1.2)
        if asked:
            trial.should_prune()
        observe(trial, 4, grad_norm=0.3)
        observe(trial, 4, metric=2.0)
        trial.should_prune()
        observe(trial, 5, grad_norm=0.3)
        trial.should_prune()
    known = next(iter(pruner._studies.values()))._early_stopper
    for record in known.cohort.trials.values():
        (snap,) = record.snapshots.values()
        assert (snap.loss, snap.metric, snap.metric_step) == (1.2, 2.0, 4)
        assert snap.log_grad_norm == pytest.approx(math.log(0.3))


@pytest.mark.parametrize("storage", ["sqlite", "journal"])
def test_pruner__keeps_little_in_the_storage(storage: str, tmp_path: Path) -> None:
    """2,000 observations: the attributes of a trial fit into a TEXT column, and a journal does not explode."""
    made: Any = f"sqlite:///{tmp_path / 'study.db'}"
    if storage == "journal":
        backend = optuna.storages.journal.JournalFileBackend(str(tmp_path / "journal"))
        made = optuna.storages.JournalStorage(backend)
    study = optuna.create_study(
        storage=made, pruner=EarlyDynamicsPruner(budget=2000, rungs=(0.05, 0.1, 0.25, 0.5))
    )
    trial = study.ask()
    steps = 2000 if storage == "journal" else 100
    for step in range(1, steps + 1):
        observe(
            trial,
            np.int64(step * 2000 // steps),
            loss=np.float32(1.0 + 1 / step),
            grad_norm=torch.tensor(0.5),
        )
        if step % 25 == 0:
            trial.report(1.0 + 1 / step, step * 2000 // steps)
            assert not trial.should_prune()
    (frozen,) = study.get_trials()
    attributes = {**frozen.system_attrs, **frozen.user_attrs}
    assert len(json.dumps(attributes)) < 4_000
    assert len(next(iter(frozen.system_attrs.values()))["snapshots"]) == 4
    if storage == "journal":
        assert (tmp_path / "journal").stat().st_size < 200_000


@pytest.mark.parametrize("rule", ["median", "calibrated"])
def test_pruner__a_new_process_knows_what_the_old_one_did(rule: str) -> None:
    """A new pruner after every trial and, for a rule without training signals, within trials: the same trials end."""
    storage = optuna.storages.InMemoryStorage()

    def states(restart: bool, name: str) -> list[Any]:
        pruner = EarlyDynamicsPruner(budget=20, rungs=(0.1, 0.25, 0.5), rule=rule)
        study = optuna.create_study(study_name=name, storage=storage, pruner=pruner)
        for number in range(14):
            trial = study.ask()
            for step in range(1, 21):
                observe(trial, step, **{k: v for k, v in curve(number, step).items() if k != "grad_norm"})
                if trial.should_prune():
                    study.tell(trial, state=STATES.PRUNED)
                    break
                if restart and (step == 20 or (step == 5 and rule == "median")):
                    fresh = EarlyDynamicsPruner(budget=20, rungs=(0.1, 0.25, 0.5), rule=rule)
                    study = optuna.load_study(study_name=name, storage=storage, pruner=fresh)
                    trial = optuna.Trial(study, trial._trial_id)
            else:
                study.tell(trial, curve(number, 18)["metric"] or 3.0)
        return [(t.state, t.last_step) for t in study.get_trials()]

    assert states(True, "restarted") == states(False, "undisturbed")


@pytest.mark.parametrize("value", ["n/a", [1, 2], {}, object()])
def test_observe__what_is_no_number_counts_as_not_reported(value: Any) -> None:
    study = optuna.create_study(pruner=EarlyDynamicsPruner(budget=10))
    trial = study.ask()
    observe(trial, 5, loss=value, grad_norm=value, metric=value)
    assert not trial.should_prune()
    with raises(ValueError, "progress"):
        observe(trial, value, loss=1.0)


def test_pruner__an_exception_of_its_own_ends_nothing(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sweepft.early_stopping.early_stopper.EarlyStopper.judge", lambda *a: 1 / 0)
    with caplog.at_level(logging.ERROR, "sweepft"):
        study = run(EarlyDynamicsPruner(budget=20))
    assert all(t.state is STATES.COMPLETE for t in study.trials)
    assert len([r for r in caplog.records if r.exc_info]) == 1


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
def test_pruner__works_wrapped_in_threads_and_pickled() -> None:
    pickled = pickle.loads(pickle.dumps(EarlyDynamicsPruner(budget=20, rungs=(0.1, 0.5), rule="median")))
    patient = optuna.pruners.PatientPruner(pickled, patience=0)  # asks only where a trial does not improve
    for pruner, at_least in ((pickled, 4), (patient, 0)):
        study = run(pruner, jobs=4)
        states = [t.state for t in study.trials]
        assert states.count(STATES.PRUNED) >= at_least
        assert states.count(STATES.FAIL) == 0


def test_pruner__one_object_in_two_studies_keeps_them_apart() -> None:
    pruner = EarlyDynamicsPruner(budget=20, rungs=(0.1,), rule="median")
    first = [t.state for t in run(pruner).trials]
    assert [t.state for t in run(pruner).trials] == first


@pytest.mark.parametrize(
    ("kw", "key"),
    [({"budget": "100"}, "budget"), ({"eta": 1}, "eta"), ({"rungs": (2,)}, "rungs"), ({"rule": "x"}, "rule")],
)
def test_pruner__refuses_wrong_values(kw: dict[str, Any], key: str) -> None:
    with raises(ValueError, key):
        EarlyDynamicsPruner(**{"budget": 10, **kw})

"""The searcher as Tune calls it, and in a real Tuner."""

from __future__ import annotations

import math
import pickle
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from optuna.trial import TrialState
from ray import cloudpickle, tune
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from support.ray_session import local_ray
from support.search_material import BUDGET, FINITE, RUNGS, loss, make_spec
from sweepft.search import STUDY_FILE, Proposer
from sweepft.search.ray_searcher import OptunaSearcher, Outcome, SearchControl
from sweepft.slot.jobs import TrialJob, job_of
from sweepft.spec import TrainConfig

pytestmark = pytest.mark.filterwarnings(
    "ignore::ResourceWarning", "ignore::FutureWarning", "ignore::pytest.PytestUnraisableExceptionWarning"
)


LAST = {"samples_seen": BUDGET, "rung": 1.0, "objective": 2.5, "done": True}


class Control(SearchControl):
    """What a driver would answer, as the test sets it."""

    def __init__(self) -> None:
        self.is_ending, self.limit, self.worth, self.restarted = False, False, [], dict[str, int]()
        self.trained: TrainConfig | None = None
        self.most: int | None = None

    def most_trials(self) -> int | None:
        return self.most

    def proven(self, trial_id: str) -> TrainConfig | None:
        return self.trained

    def ending(self) -> bool:
        return self.is_ending

    def may_propose(self) -> bool:
        return not self.limit

    def resume_candidates(self) -> list[str]:
        return self.worth

    def restarts(self, trial_id: str) -> int:
        return self.restarted.get(trial_id, 0)


def searcher(control: SearchControl | None = None, **search: Any) -> OptunaSearcher:
    return OptunaSearcher(Proposer(make_spec(**search), None), BUDGET, control)


def test_optuna_searcher__proposes_no_more_trials_than_have_room() -> None:
    control = Control()
    found = searcher(control)
    assert found.suggest("ray_1") is not None
    control.most = 1  # the other slot's GPU is given up
    assert found.suggest("ray_2") is None
    found.on_trial_complete("ray_1", LAST)
    assert job(found.suggest("ray_3")).trial_id == "t001"


def job(suggestion: Any) -> TrialJob:
    assert isinstance(suggestion, dict)
    (found,) = suggestion.values()
    assert isinstance(found, TrialJob)
    return found


def test_optuna_searcher__suggests_a_complete_job() -> None:
    found = job(searcher().suggest("ray_1"))
    assert (found.trial_id, found.number, found.origin, found.resumed) == ("t000", 0, "sampler", False)
    assert found.train_config.micro_batch == 8
    assert {key: getattr(found.train_config, key) for key in found.params} == found.params
    assert found.study_number == 0


def test_optuna_searcher__says_finished_when_nothing_is_left() -> None:
    found = searcher(trials=1)
    assert job(found.suggest("a"))
    assert found.suggest("b") is None, "a running trial may lose its slot and be proposed again"
    found.on_trial_complete("a", LAST)
    assert found.suggest("b") == Searcher.FINISHED
    control = Control()
    limited = searcher(control)
    assert job(limited.suggest("a"))
    control.limit = True
    limited.on_trial_complete("a", LAST)
    assert limited.suggest("b") == Searcher.FINISHED
    control = Control()
    ending = searcher(control)
    assert job(ending.suggest("a"))
    control.is_ending = True
    assert ending.suggest("b") == Searcher.FINISHED


def test_optuna_searcher__lost_trial_comes_first_despite_limit() -> None:
    control = Control()
    control.restarted = {"t000": 1}
    found = searcher(control)
    first = job(found.suggest("a"))
    found.on_trial_result("a", {"samples_seen": 104, "rung": 0.1, "objective": 9.0})
    found.outcomes["t000"] = Outcome("lost", reason="its coordinator died", delay=0.05)
    found.on_trial_complete("a", error=True)
    assert found.proposer.study.trials[0].state == TrialState.RUNNING
    control.limit = True
    assert found.suggest("b") is None, "it waits, and nothing is proposed before it"
    time.sleep(0.1)
    assert job(found.suggest("b")) == replace(first, resumed=True, reported_samples=104, restarts=1)
    found.outcomes["t000"] = Outcome("lost", reason="again, before it had reported anything")
    found.on_trial_complete("b", error=True)
    assert job(found.suggest("c")).reported_samples == 104
    del found.outcomes["t000"]
    found.on_trial_complete("c", LAST)
    assert found.proposer.study.trials[0].value == 2.5
    assert found.suggest("d") == Searcher.FINISHED


def test_optuna_searcher__trial_that_was_set_aside_comes_last() -> None:
    control = Control()
    found = searcher(control, trials=2)
    first = job(found.suggest("a"))
    found.outcomes["t000"] = Outcome("lost", reason="it could not start", last=True)
    found.on_trial_complete("a", error=True)
    second = job(found.suggest("b"))
    assert (second.trial_id, second.proven) == ("t001", None)
    assert found.suggest("c") is None, "whether t001 can start is not known yet"
    control.trained = second.train_config
    assert job(found.suggest("c")) == replace(first, resumed=True, proven=second.train_config)


@pytest.mark.parametrize(
    ("outcome", "result", "error", "state", "value", "status"),
    [
        (None, LAST, False, TrialState.COMPLETE, 2.5, "completed"),
        (None, {**LAST, "samples_seen": BUDGET + 7}, False, TrialState.COMPLETE, 2.5, "completed"),
        (None, {**LAST, "objective": math.nan}, False, TrialState.PRUNED, None, "diverged"),
        (
            None,
            {"samples_seen": 500, "rung": 0.5, "objective": 4.0},
            False,
            TrialState.FAIL,
            None,
            "interrupted",
        ),
        (None, {"samples_seen": 500}, False, TrialState.FAIL, None, "interrupted"),
        (None, {"samples_seen": 500, "done": True}, False, TrialState.PRUNED, None, "stopped"),
        (None, {**LAST, "diverged": "nan"}, False, TrialState.PRUNED, None, "diverged"),
        (None, LAST, True, TrialState.FAIL, None, "failed"),
        (None, None, True, TrialState.FAIL, None, "failed"),
        (None, None, False, TrialState.FAIL, None, "failed"),
        (("stopped", None, "median"), {"samples_seen": 500}, False, TrialState.PRUNED, None, "stopped"),
        (("diverged", None, "nan"), None, True, TrialState.PRUNED, None, "diverged"),
        (("completed", 2.25, None), LAST, False, TrialState.COMPLETE, 2.25, "completed"),
        (("failed", None, "out of memory"), LAST, False, TrialState.FAIL, None, "failed"),
    ],
)
def test_optuna_searcher__tells_study_how_a_trial_ended(
    outcome: tuple[str, float | None, str | None] | None,
    result: dict[str, Any] | None,
    error: bool,
    state: TrialState,
    value: float | None,
    status: str,
) -> None:
    found = searcher()
    found.suggest("ray_1")
    found.on_trial_result("ray_1", {"samples_seen": 104, "rung": 0.1, "objective": 9.0})
    found.on_trial_result("ray_1", {"samples_seen": 150, "loss": 9.0})  # a report point that is no rung
    found.on_trial_result("ray_1", {"samples_seen": 256, "rung": 0.25, "objective": math.nan})
    if outcome is not None:
        found.outcomes["t000"] = Outcome(*outcome)
    found.on_trial_complete("ray_1", result, error)
    (trial,) = found.proposer.study.trials
    assert (trial.state, trial.user_attrs["status"]) == (state, status)
    last = {round(result["rung"] * BUDGET): result["objective"]} if result and "rung" in result else {}
    assert trial.intermediate_values == {100: 9.0} | {k: v for k, v in last.items() if math.isfinite(v)}
    if state == TrialState.COMPLETE:
        assert trial.value == value
    if outcome is not None and outcome[2] is not None:
        assert trial.user_attrs["reason"] == outcome[2]
    found.on_trial_complete("ray_1", LAST)  # Tune may say it twice
    found.on_trial_result("ray_1", LAST)
    assert found.proposer.study.trials[0].state == state


def test_optuna_searcher__resumes_paused_trial_when_nothing_new_is_left() -> None:
    control = Control()
    found = searcher(control, trials=2)
    first = job(found.suggest("a"))
    found.on_trial_result("a", {"samples_seen": 104, "rung": 0.1, "objective": 9.0})
    found.outcomes["t000"] = Outcome("paused", reason="poor")
    found.on_trial_complete("a", {"samples_seen": 256, "rung": 0.25, "objective": 8.0, "done": True})
    assert found.proposer.study.trials[0].state == TrialState.RUNNING
    control.worth = ["t000"]
    assert job(found.suggest("b")).trial_id == "t001", "new trials come before paused ones"
    control.worth = ["t009"]  # not paused here
    assert found.suggest("c") is None, "t001 is running: its end may make t000 worth resuming"
    control.worth = ["t009", "t000"]
    assert job(found.suggest("c")) == replace(first, resumed=True, reported_samples=256)
    control.worth = []
    found.on_trial_complete("b", LAST)
    found.outcomes["t000"] = Outcome("paused", reason="poor again")
    found.on_trial_complete("c", {"samples_seen": 512, "rung": 0.5, "objective": 7.0, "done": True})
    assert found.suggest("d") == Searcher.FINISHED
    found.proposer.tell("t000", "stopped", reason="not worth it")
    (stopped, _) = found.proposer.study.trials
    assert (stopped.state, stopped.intermediate_values) == (TrialState.PRUNED, {100: 9.0, 250: 8.0, 500: 7.0})
    assert found.proposer.paused == {}


def test_optuna_searcher__resumes_no_paused_trial_after_limit() -> None:
    control = Control()
    control.worth = ["t000"]
    found = searcher(control, trials=1)
    found.suggest("a")
    found.outcomes["t000"] = Outcome("paused", reason="poor")
    found.on_trial_complete("a", {"samples_seen": 256, "rung": 0.25, "objective": 8.0, "done": True})
    control.limit = True
    assert found.suggest("b") == Searcher.FINISHED


def test_optuna_searcher__ignores_unknown_trials() -> None:
    found = searcher()
    found.on_trial_result("unknown", LAST)
    found.on_trial_complete("unknown", LAST)
    assert found.proposer.proposed == 0


def test_optuna_searcher__pickles(tmp_path: Path) -> None:
    proposer = Proposer(make_spec(), tmp_path / STUDY_FILE)
    found = OptunaSearcher(proposer, BUDGET)
    found.suggest("ray_1")
    copy = pickle.loads(cloudpickle.dumps(found))
    copy.on_trial_complete("ray_1", LAST)
    assert copy.proposer.study.trials[0].value == 2.5


class StopsEverySecond(FIFOScheduler):  # type: ignore[misc]
    """Stops trials with an odd number at half of the budget, and notes so for the searcher, as the driver does."""

    def __init__(self, found: OptunaSearcher) -> None:
        super().__init__()
        self.found = found

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        trial_job = job_of(trial.config)
        if trial_job.number % 2 == 0 or result.get("rung") != 0.5:
            return str(TrialScheduler.CONTINUE)
        self.found.outcomes[trial_job.trial_id] = Outcome("stopped", reason="odd")
        return str(TrialScheduler.STOP)


class Trainable(tune.Trainable):  # type: ignore[misc]
    """Reports the made objective at the rungs; trial 3 raises, trial 4 ends in nan."""

    def setup(self, config: dict[str, Any]) -> None:
        self.job, self.at = job_of(config), 0

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self.setup(new_config)
        return True

    def step(self) -> dict[str, Any]:
        rung = (*RUNGS, 1.0)[self.at]
        self.at += 1
        number = self.job.number
        if number == 3 and rung == 0.25:
            raise RuntimeError("a rank died")
        diverged = number == 4 and rung == 0.5
        value = math.nan if diverged else loss(self.job.params, rung)
        result = {"rung": rung, "samples_seen": rung * BUDGET, "objective": value}
        if diverged:
            result |= {"diverged": "the loss is nan", "done": True}
        return {**result, "done": result.get("done", rung == 1.0)}


class PausesEverySecond(StopsEverySecond):
    """Pauses them instead; the even numbered trials hold the search open until the last of them has ended."""

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        super().on_trial_add(tune_controller, trial)
        self.found.outcomes.pop(
            job_of(trial.config).name, None
        )  # as the driver does where a trial starts again

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        trial_job = job_of(trial.config)
        if trial_job.resumed or trial_job.number % 2 == 0 or result.get("rung") != 0.5:
            return str(TrialScheduler.CONTINUE)
        self.found.outcomes[trial_job.trial_id] = Outcome("paused", reason="odd")
        return str(TrialScheduler.STOP)


class GoesOn(tune.Trainable):  # type: ignore[misc]
    """As `Slot` does it: from where the trial had reported."""

    def setup(self, config: dict[str, Any]) -> None:
        self.job = job_of(config)
        self.left = [w for w in (*RUNGS, 1.0) if w * BUDGET > self.job.reported_samples]

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self.setup(new_config)
        return True

    def step(self) -> dict[str, Any]:
        rung = self.left.pop(0)
        result = {"rung": rung, "samples_seen": rung * BUDGET, "done": rung == 1.0}
        return {**result, "objective": loss(self.job.params, rung)}


@pytest.fixture(scope="module")
def session() -> Iterator[None]:
    for name in (__name__, "support.search_material"):  # workers cannot import test files
        cloudpickle.register_pickle_by_value(sys.modules[name])
    with local_ray():
        yield


@pytest.mark.full  # every end-to-end sweep is one
@pytest.mark.ray
def test_optuna_searcher__in_a_real_tuner(session: None, tmp_path: Path) -> None:
    """Completed, stopped, failed and diverged trials end in the study as what they are; none stays RUNNING."""
    proposer = Proposer(make_spec(FINITE, trials=10, concurrent=2), tmp_path / STUDY_FILE)
    found = OptunaSearcher(proposer, BUDGET)
    tuner = tune.Tuner(
        tune.with_resources(Trainable, {"cpu": 1}),
        tune_config=tune.TuneConfig(
            search_alg=found,
            scheduler=StopsEverySecond(found),
            num_samples=-1,
            max_concurrent_trials=2,
            reuse_actors=True,
        ),
        run_config=tune.RunConfig(
            storage_path=str(tmp_path / "ray"),
            verbose=0,
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
        ),
    )
    tuner.fit()
    trials = {t.user_attrs["trial_id"]: t for t in proposer.study.trials if "trial_id" in t.user_attrs}
    assert sorted(trials) == [f"t{i:03d}" for i in range(10)]
    early = [round(rung * BUDGET) for rung in RUNGS]
    for number, trial in enumerate(trials[name] for name in sorted(trials)):
        values = {step: loss(trial.user_attrs["params"], step / BUDGET) for step in early}
        if number == 3:
            assert (trial.state, trial.intermediate_values) == (TrialState.FAIL, {100: values[100]})
        elif number == 4:
            assert (trial.state, trial.intermediate_values) == (
                TrialState.PRUNED,
                {k: values[k] for k in early[:2]},
            )
            assert trial.user_attrs["reason"] == "the loss is nan"
        elif number % 2 == 1:
            assert (trial.state, trial.intermediate_values) == (TrialState.PRUNED, values)
        else:
            assert (trial.state, trial.value) == (TrialState.COMPLETE, loss(trial.user_attrs["params"]))
            assert trial.intermediate_values == {**values, BUDGET: trial.value}
    assert not any(t.state == TrialState.RUNNING for t in proposer.study.trials)


@pytest.mark.full  # as test_park is one
@pytest.mark.ray
def test_optuna_searcher__resumes_paused_trials_in_a_real_tuner(session: None, tmp_path: Path) -> None:
    """Two slots: Tune waits while a trial may still be paused, and takes a trial again under another id of its own."""
    proposer = Proposer(make_spec(FINITE, trials=6, concurrent=2), tmp_path / STUDY_FILE)
    asked = []

    class Resumes(SearchControl):
        def resume_candidates(self) -> list[str]:
            asked.append(sorted(proposer.paused))
            return [name for name in ("t005", "t001") if name in proposer.paused]

        def __getstate__(self) -> dict[str, Any]:
            return {}

    found = OptunaSearcher(proposer, BUDGET, Resumes())
    tune.Tuner(
        tune.with_resources(GoesOn, {"cpu": 1}),
        tune_config=tune.TuneConfig(
            search_alg=found,
            scheduler=PausesEverySecond(found),
            num_samples=-1,
            max_concurrent_trials=2,
            reuse_actors=True,
            trial_name_creator=lambda trial: job_of(trial.config).name,
            trial_dirname_creator=lambda trial: job_of(trial.config).name,
        ),
        run_config=tune.RunConfig(
            storage_path=str(tmp_path / "ray"),
            verbose=0,
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
        ),
    ).fit()
    states = {t.user_attrs["trial_id"]: t.state for t in proposer.study.trials if "trial_id" in t.user_attrs}
    assert states == {f"t00{i}": TrialState.COMPLETE for i in range(6)} | {"t003": TrialState.RUNNING}
    assert list(proposer.paused) == ["t003"], "open until the driver gives it up"
    for trial in proposer.study.trials:
        if trial.state == TrialState.COMPLETE:
            assert set(trial.intermediate_values) == {round(w * BUDGET) for w in (*RUNGS, 1.0)}
    assert asked

"""The searcher as Tune calls it, and in a real Tuner."""

from __future__ import annotations

import math
import pickle
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
from optuna.trial import TrialState
from ray import cloudpickle, tune
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from support.search_material import BUDGET, FINITE, RUNGS, loss, make_spec
from sweepft.search import STUDY_FILE, Proposer
from sweepft.search.ray_searcher import OptunaSearcher

pytestmark = pytest.mark.filterwarnings(
    "ignore::ResourceWarning", "ignore::FutureWarning", "ignore::pytest.PytestUnraisableExceptionWarning"
)


LAST = {"samples_seen": BUDGET, "rung": 1.0, "eval_loss": 2.5, "done": True}


def searcher(**search: Any) -> OptunaSearcher:
    return OptunaSearcher(Proposer(make_spec(**search), None), BUDGET)


def test_a_suggestion_is_all_that_a_trial_needs() -> None:
    found = searcher()
    params = found.suggest("ray_1")
    assert isinstance(params, dict)
    assert (params["trial_id"], params["number"], params["origin"], params["resumed"]) == (
        "t000",
        0,
        "sampler",
        False,
    )
    assert params["train_config"].micro_batch == 8
    assert {key: getattr(params["train_config"], key) for key in params["params"]} == params["params"]
    assert params["study_number"] == 0


def test_tune_hears_that_there_is_no_more() -> None:
    found = searcher(trials=1)
    assert isinstance(found.suggest("a"), dict)
    assert found.suggest("b") is None, "a trial under way may lose its slot, and come back"
    found.on_trial_complete("a", LAST)
    assert found.suggest("b") == Searcher.FINISHED
    stop = False
    limited = OptunaSearcher(Proposer(make_spec(), None), BUDGET, should_stop=lambda: stop)
    assert isinstance(limited.suggest("a"), dict)
    stop = True
    limited.on_trial_complete("a", LAST)
    assert limited.suggest("b") == Searcher.FINISHED
    ending = searcher()
    assert isinstance(ending.suggest("a"), dict)
    ending.ending = lambda: True
    assert ending.suggest("b") == Searcher.FINISHED


def test_a_lost_trial_comes_back_before_anything_new_whatever_limit_is_reached() -> None:
    found = searcher()
    found.faults = {"t000": 1}.get
    first = found.suggest("a")
    found.on_trial_result("a", {"samples_seen": 104, "rung": 0.1, "eval_loss": 9.0})
    found.set_outcome("t000", "lost", None, "its coordinator died")
    found.on_trial_complete("a", error=True)
    assert found.proposer.study.trials[0].state == TrialState.RUNNING
    found.should_stop = lambda: True
    found.hold_until = math.inf
    assert found.suggest("b") is None, "it waits before it comes back, and nothing overtakes it"
    found.hold_until = 0.0
    back = found.suggest("b")
    assert isinstance(first, dict)
    assert back == {**first, "resumed": True, "reported_samples": 104, "faults": 1}
    found.set_outcome("t000", "lost", None, "again, before it had reported anything")
    found.on_trial_complete("b", error=True)
    again = found.suggest("c")
    assert isinstance(again, dict)
    assert again["reported_samples"] == 104
    found.on_trial_complete("c", LAST)
    assert found.proposer.study.trials[0].value == 2.5
    assert found.suggest("d") == Searcher.FINISHED


@pytest.mark.parametrize(
    ("outcome", "result", "error", "state", "value", "status"),
    [
        (None, LAST, False, TrialState.COMPLETE, 2.5, "completed"),
        (None, {**LAST, "samples_seen": BUDGET + 7}, False, TrialState.COMPLETE, 2.5, "completed"),
        (None, {**LAST, "eval_loss": math.nan}, False, TrialState.PRUNED, None, "diverged"),
        (
            None,
            {"samples_seen": 500, "rung": 0.5, "eval_loss": 4.0},
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
def test_how_a_trial_ends(
    outcome: tuple[str, float | None, str | None] | None,
    result: dict[str, Any] | None,
    error: bool,
    state: TrialState,
    value: float | None,
    status: str,
) -> None:
    found = searcher()
    found.suggest("ray_1")
    found.on_trial_result("ray_1", {"samples_seen": 104, "rung": 0.1, "eval_loss": 9.0})
    found.on_trial_result("ray_1", {"samples_seen": 150, "loss": 9.0})  # a report point that is no window
    found.on_trial_result("ray_1", {"samples_seen": 256, "rung": 0.25, "eval_loss": math.nan})
    if outcome is not None:
        found.set_outcome("t000", *outcome)
    found.on_trial_complete("ray_1", result, error)
    (trial,) = found.proposer.study.trials
    assert (trial.state, trial.user_attrs["status"]) == (state, status)
    last = {round(result["rung"] * BUDGET): result["eval_loss"]} if result and "rung" in result else {}
    assert trial.intermediate_values == {100: 9.0} | {k: v for k, v in last.items() if math.isfinite(v)}
    if state == TrialState.COMPLETE:
        assert trial.value == value
    if outcome is not None and outcome[2] is not None:
        assert trial.user_attrs["reason"] == outcome[2]
    found.on_trial_complete("ray_1", LAST)  # Tune may say it twice
    found.on_trial_result("ray_1", LAST)
    assert found.proposer.study.trials[0].state == state


def test_a_parked_trial_stays_open_and_comes_back_when_nothing_new_is_left() -> None:
    found = searcher(trials=2)
    worth: list[str] = []
    found.resume_candidates = lambda: worth
    first = found.suggest("a")
    found.on_trial_result("a", {"samples_seen": 104, "rung": 0.1, "eval_loss": 9.0})
    found.set_outcome("t000", "paused", None, "poor")
    found.on_trial_complete("a", {"samples_seen": 256, "rung": 0.25, "eval_loss": 8.0, "done": True})
    assert found.proposer.study.trials[0].state == TrialState.RUNNING
    worth = ["t000"]
    second = found.suggest("b")
    assert isinstance(first, dict)
    assert isinstance(second, dict)
    assert second["trial_id"] == "t001", "what is new comes before what was parked"
    worth = ["t009"]  # nothing that is parked here
    assert found.suggest("c") is None, "t001 is under way: its end may make t000 worth coming back"
    worth = ["t009", "t000"]
    back = found.suggest("c")
    assert isinstance(back, dict)
    assert back == {**first, "resumed": True, "reported_samples": 256}
    worth = []
    found.on_trial_complete("b", LAST)
    found.set_outcome("t000", "paused", None, "poor again")
    found.on_trial_complete("c", {"samples_seen": 512, "rung": 0.5, "eval_loss": 7.0, "done": True})
    assert found.suggest("d") == Searcher.FINISHED
    found.proposer.tell("t000", "stopped", reason="not worth it")
    (told, _) = found.proposer.study.trials
    assert (told.state, told.intermediate_values) == (TrialState.PRUNED, {100: 9.0, 250: 8.0, 500: 7.0})
    assert found.proposer.paused == {}


def test_no_parked_trial_comes_back_once_a_limit_is_reached() -> None:
    found = searcher(trials=1)
    found.resume_candidates = lambda: ["t000"]
    found.suggest("a")
    found.set_outcome("t000", "paused", None, "poor")
    found.on_trial_complete("a", {"samples_seen": 256, "rung": 0.25, "eval_loss": 8.0, "done": True})
    found.should_stop = lambda: True
    assert found.suggest("b") == Searcher.FINISHED


def test_trials_of_others_are_passed_over() -> None:
    found = searcher()
    found.on_trial_result("unknown", LAST)
    found.on_trial_complete("unknown", LAST)
    assert found.proposer.proposed == 0


def test_it_pickles_as_a_tuner_does(tmp_path: Path) -> None:
    proposer = Proposer(make_spec(), tmp_path / STUDY_FILE)
    found = OptunaSearcher(proposer, BUDGET, should_stop=lambda: False)
    found.suggest("ray_1")
    copy = pickle.loads(cloudpickle.dumps(found))
    copy.on_trial_complete("ray_1", LAST)
    assert copy.proposer.study.trials[0].value == 2.5
    assert copy.should_stop is None


class StopsEverySecond(FIFOScheduler):  # type: ignore[misc]
    """Stops trials with an odd number at half of the budget, and says so to the searcher, as the driver does."""

    def __init__(self, found: OptunaSearcher) -> None:
        super().__init__()
        self.found = found

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        if trial.params["number"] % 2 == 0 or result.get("rung") != 0.5:
            return str(TrialScheduler.CONTINUE)
        self.found.set_outcome(trial.params["trial_id"], "stopped", None, "odd")
        return str(TrialScheduler.STOP)


class Trainable(tune.Trainable):  # type: ignore[misc]
    """Reports the made objective at the windows; trial 3 raises, trial 4 ends in nan."""

    def setup(self, params: dict[str, Any]) -> None:
        self.params, self.at = params, 0

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self.setup(new_config)
        return True

    def step(self) -> dict[str, Any]:
        rung = (*RUNGS, 1.0)[self.at]
        self.at += 1
        number = self.params["number"]
        if number == 3 and rung == 0.25:
            raise RuntimeError("a rank died")
        diverged = number == 4 and rung == 0.5
        value = math.nan if diverged else loss(self.params["params"], rung)
        result = {"rung": rung, "samples_seen": rung * BUDGET, "eval_loss": value}
        if diverged:
            result |= {"diverged": "the loss is nan", "done": True}
        return {**result, "done": result.get("done", rung == 1.0)}


class PausesEverySecond(StopsEverySecond):
    """Parks them instead; the even numbered trials hold the search open until the last of them has ended."""

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        if trial.params["resumed"] or trial.params["number"] % 2 == 0 or result.get("rung") != 0.5:
            return str(TrialScheduler.CONTINUE)
        self.found.set_outcome(trial.params["trial_id"], "paused", None, "odd")
        return str(TrialScheduler.STOP)


class GoesOn(tune.Trainable):  # type: ignore[misc]
    """As `Slot` does it: from where the trial had reported."""

    def setup(self, params: dict[str, Any]) -> None:
        self.params = params
        self.left = [w for w in (*RUNGS, 1.0) if w * BUDGET > params["reported_samples"]]

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self.setup(new_config)
        return True

    def step(self) -> dict[str, Any]:
        rung = self.left.pop(0)
        result = {"rung": rung, "samples_seen": rung * BUDGET, "done": rung == 1.0}
        return {**result, "eval_loss": loss(self.params["params"], rung)}


@pytest.fixture(scope="module")
def session() -> Iterator[None]:
    for name in (__name__, "support.search_material"):  # workers cannot import test files
        cloudpickle.register_pickle_by_value(sys.modules[name])
    mine = not ray.is_initialized()
    if mine:
        ray.init(
            address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, configure_logging=False
        )
    yield
    if mine:
        ray.shutdown()


@pytest.mark.full  # every end-to-end sweep is one
@pytest.mark.ray
def test_in_a_real_tuner(session: None, tmp_path: Path) -> None:
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
def test_parked_trials_come_back_in_a_real_tuner(session: None, tmp_path: Path) -> None:
    """Two slots: Tune waits while a trial may yet be parked, and takes a trial again under another id of its own."""
    proposer = Proposer(make_spec(FINITE, trials=6, concurrent=2), tmp_path / STUDY_FILE)
    found = OptunaSearcher(proposer, BUDGET)
    asked = []

    def resume_candidates() -> list[str]:
        asked.append(sorted(proposer.paused))
        return [name for name in ("t005", "t001") if name in proposer.paused]

    found.resume_candidates = resume_candidates
    tune.Tuner(
        tune.with_resources(GoesOn, {"cpu": 1}),
        tune_config=tune.TuneConfig(
            search_alg=found,
            scheduler=PausesEverySecond(found),
            num_samples=-1,
            max_concurrent_trials=2,
            reuse_actors=True,
            trial_name_creator=lambda trial: trial.params["trial_id"],
            trial_dirname_creator=lambda trial: trial.params["trial_id"],
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

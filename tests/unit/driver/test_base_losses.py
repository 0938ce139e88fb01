"""The base model's losses that bounds need: measured first, once, and by a resume where that failed."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from support.ledger_builder import HEADER
from support.search_material import BUDGET, make_spec
from sweepft.driver.control import SweepControl
from sweepft.driver.final_stage import FinalStage
from sweepft.driver.ledger_listeners import say_when_bounds_are_not_met
from sweepft.ledger import EventLog, Ledger, SweepState
from sweepft.search import Proposer
from sweepft.search.ray_searcher import OptunaSearcher, SearchControl
from sweepft.slot.jobs import EvalJob, TrialJob, job_of
from sweepft.spec import from_dict

BOUND = {"own": {"at_most": 0.5, "above": "base"}}


def begin(run: Path, bounds: dict[str, Any] = BOUND) -> tuple[FinalStage, EventLog]:
    spec = make_spec(subject_to=bounds)
    event_log = EventLog(Ledger.create(run), SweepState())
    event_log.write("sweep", **HEADER | {"spec": spec.to_dict(), "budget_samples": BUDGET})
    held = SimpleNamespace(name="own", data=SimpleNamespace(digest="d", path="cache/own"))
    prepared: Any = SimpleNamespace(validation=[held], tokenizer="tok")
    return FinalStage(spec, prepared, run, event_log=event_log, control=SweepControl()), event_log


def score(event_log: EventLog, **fields: Any) -> None:
    fields = {"metrics": {}} | fields
    event_log.write("score", trial_id=None, what="validation", name="own", digest="d", **fields)


def test_base_job__is_given_out_until_the_loss_is_known(tmp_path: Path) -> None:
    stage, event_log = begin(tmp_path / "run")
    job = stage.base_job()
    assert job is not None
    assert [(item.name, item.cache) for item in job.items] == [("own", "cache/own")]
    assert stage.base_job() is None, "it runs"
    stage.on_left(job.name)
    assert stage.base_job() is not None, "its slot was lost"
    score(event_log, metrics={"loss": {"value": 1.0, "stderr": 0.1, "higher_is_better": False}})
    stage.on_left(job.name)
    assert stage.base_job() is None
    assert event_log.state.bounds.limits == {"own": 1.5}


def test_base_job__lost_too_often_is_a_bound_that_does_not_apply(tmp_path: Path) -> None:
    stage, event_log = begin(tmp_path / "run")
    for _ in range(2):
        job = stage.base_job()
        assert job is not None
        stage.on_left(job.name)
    assert stage.base_job() is None
    (bound,) = event_log.state.bounds.entries
    assert (bound.problem, event_log.state.bounds.pending) == ("its slot was lost 2 times", False)


def test_base_job__is_not_needed_by_absolute_bounds(tmp_path: Path) -> None:
    stage, event_log = begin(tmp_path / "run", {"own": {"at_most": 2.0}})
    assert stage.base_job() is None
    assert event_log.state.bounds.limits == {"own": 2.0}


def test_searcher__runs_the_base_model_first_and_trials_meanwhile(tmp_path: Path) -> None:
    stage, event_log = begin(tmp_path / "run")

    class Control(SearchControl):
        def next_before_search(self) -> Any:
            return stage.base_job()

        def limits(self) -> Any:
            return None if event_log.state.bounds.pending else event_log.state.bounds.limits

    searcher = OptunaSearcher(Proposer(make_spec(subject_to=BOUND), None), BUDGET, Control())
    first, second = (job_of(searcher.suggest(name) or {}) for name in "ab")
    assert isinstance(first, EvalJob)
    assert isinstance(second, TrialJob)
    last = {"samples_seen": BUDGET, "rung": 1.0, "objective": 2.0, "eval_sets/own/loss": 1.2, "done": True}
    searcher.on_trial_complete("b", last)
    assert [t.state.name for t in searcher.proposer.study.trials] == ["RUNNING"], "the limit is not known"
    score(event_log, metrics={"loss": {"value": 1.0, "stderr": 0.1, "higher_is_better": False}})
    searcher.on_trial_complete("a", {})
    searcher.suggest("c")
    (trial, _) = searcher.proposer.study.trials
    assert (trial.state.name, trial.constraints["own"]) == ("COMPLETE", 1.2 - 1.5)


def test_driver__says_once_that_no_trial_meets_the_bounds(tmp_path: Path) -> None:
    _, event_log = begin(tmp_path / "run", {"own": {"at_most": 0.5}})
    said: list[str] = []
    event_log.listeners.append(
        say_when_bounds_are_not_met(
            make_spec(subject_to={"own": {"at_most": 0.5}}), event_log.state, said.append
        )
    )
    for i in range(7):
        name = f"t{i}"
        event_log.write("trial", trial_id=name, number=i, params={}, train_config={}, origin="sampler",
                        planned_steps=1, warmup_steps=0)  # fmt: skip
        event_log.write("eval", trial_id=name, attempt=1, step=1, samples_seen=BUDGET, rung=1.0, final=True,
                        objective=2.0, sets={"own": {"loss": 0.75 + i}})  # fmt: skip
        event_log.write("end", trial_id=name, attempt=1, status="completed", reason=None, objective=2.0, step=1,
                        samples_seen=BUDGET, tokens_seen=1)  # fmt: skip
    assert len(said) == 1
    assert (
        "none of 5 completed trials meets the bounds; t0 comes nearest, 0.25 nats above (own 0.75, allowed at most 0.5)"
        in said[0]
    )
    assert "--set search.subject_to.own.at_most=VALUE" in said[0]


# --- bounds on tasks -------------------------------------------------------------------------------------

GSM = {"task": "gsm", "metric": "acc", "limit": 50}


def begin_with_task(run: Path, bounds: dict[str, Any], **objective: Any) -> tuple[FinalStage, EventLog]:
    plain = make_spec().to_dict()
    search = plain["search"] | {"subject_to": bounds}
    spec = from_dict(plain | {"search": search, "objective": objective})
    event_log = EventLog(Ledger.create(run), SweepState())
    event_log.write("sweep", **HEADER | {"spec": spec.to_dict(), "budget_samples": BUDGET})
    held = SimpleNamespace(name="own", data=SimpleNamespace(digest="d", path="cache/own"))
    prepared: Any = SimpleNamespace(validation=[held], tokenizer="tok")
    return FinalStage(spec, prepared, run, event_log=event_log, control=SweepControl()), event_log


@pytest.mark.parametrize(
    ("objective", "bound", "limit"),
    [
        ({"measure": [GSM]}, {"at_least": 0.3}, 0.3),
        ({"measure": [GSM]}, {"at_most": 0.05, "below": "base"}, 0.35),
        ({"maximize": GSM}, {"at_most": 0.05, "below": "base"}, 0.35),
    ],
)
def test_base_job__measures_a_bounded_task_as_trials_are(
    tmp_path: Path, objective: dict[str, Any], bound: dict[str, Any], limit: float
) -> None:
    stage, event_log = begin_with_task(tmp_path / "run", {"gsm": bound}, **objective)
    job = stage.base_job()
    assert job is not None
    (item,) = job.items
    assert item.measured is not None
    assert (item.what, item.name, item.measured.task.limit) == ("measured", "measured: gsm", 50)
    assert event_log.state.bounds.pending
    event_log.write("score", trial_id=None, what="measured", name=item.name, digest=item.digest, items=50,
                    metrics={"acc": {"value": 0.4, "stderr": 0.07, "higher_is_better": True}})  # fmt: skip
    stage.on_left(job.name)
    assert stage.base_job() is None
    (entry,) = event_log.state.bounds.entries
    assert entry.worst == pytest.approx(limit)


def test_base_job__measures_only_tasks_that_are_bounded(tmp_path: Path) -> None:
    stage, _ = begin_with_task(tmp_path / "run", {"own": {"at_most": 2.0}}, measure=[GSM])
    assert stage.base_job() is None

"""The trial of ``search.baseline`` is a finalist, kept and replicated whatever its place."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from support.ledger_builder import HEADER
from support.search_material import BUDGET
from support.specs import spec
from sweepft.driver.control import SweepControl
from sweepft.driver.final_stage import FinalStage
from sweepft.ledger import EventLog, Ledger, SweepState
from sweepft.plan.cost import replicate_count
from sweepft.slot.jobs import TrialJob
from sweepft.slot.weight_retention import KeepPolicy


@pytest.mark.parametrize(
    ("baseline", "losses", "chosen", "replicated"),
    [
        (True, [3.0, 2.0, 1.0], [("t002", "top"), ("t001", "top"), ("t000", "baseline")], ["t002", "t000"]),
        (True, [1.0, 2.0, 3.0], [("t000", "top"), ("t001", "top")], ["t000"]),
        (False, [3.0, 2.0, 1.0], [("t002", "top"), ("t001", "top")], ["t002"]),
    ],
)
def test_final_stage__replicates_winner_and_baseline_alike(
    tmp_path: Path, baseline: bool, losses: list[float], chosen: list[tuple[str, str]], replicated: list[str]
) -> None:
    named = {"baseline": {"batch_size": 8}} if baseline else {"start_with": [{"batch_size": 8}]}
    evaluate = {"finalists": {"top": 2}, "replicates": {"top": 1, "seeds": 2}}
    made = spec(train={"budget": {"samples": BUDGET}, "micro_batch": 4}, search=named, evaluate=evaluate)
    event_log = EventLog(Ledger.create(tmp_path / "run"), SweepState())
    event_log.write("sweep", **HEADER | {"spec": made.to_dict(), "budget_samples": BUDGET})
    for i, loss in enumerate(losses):
        name, config = f"t00{i}", made.train_config({"batch_size": 8}, BUDGET).to_dict()
        event_log.write("trial", trial_id=name, number=i, params={"batch_size": 8}, train_config=config,
                        origin="sampler" if i else "start_with", planned_steps=1, warmup_steps=0)  # fmt: skip
        event_log.write("end", trial_id=name, attempt=1, status="completed", reason=None, objective=loss, step=1,
                        samples_seen=BUDGET, tokens_seen=1)  # fmt: skip
    prepared: Any = SimpleNamespace(validation=[], tokenizer="tok")
    stage = FinalStage(made, prepared, tmp_path / "run", event_log=event_log, control=SweepControl())
    jobs = []
    while isinstance(job := stage.next_job(), TrialJob):
        jobs.append(job.trial_id)
    assert event_log.state.finalists is not None
    assert [(row["trial_id"], row["why"]) for row in event_log.state.finalists["chosen"]] == chosen
    assert jobs == [f"{name}-seed{i}" for name in replicated for i in (1, 2)]
    assert replicate_count(made) >= len(jobs)


def test_keep_policy__keeps_the_baseline() -> None:
    policy = KeepPolicy("", "", top=1, baseline="t000")
    assert policy.chosen({"t000": (0.0, 3.0), "t001": (0.0, 2.0), "t002": (0.0, 1.0)}) == {"t000", "t002"}
    assert policy.chosen({"t001": (0.0, 2.0)}) == {"t001"}

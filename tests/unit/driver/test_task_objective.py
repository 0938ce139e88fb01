"""At which rungs the objective's task is measured: chosen once, recorded, said."""

from __future__ import annotations

from typing import Any

import pytest

from support.ledger_builder import LedgerBuilder
from support.specs import spec
from sweepft.driver.task_objective import objective_rungs, say_where_objective_is_measured

RUNGS = [0.1, 0.25, 0.5]


def sweep_of(seconds: float) -> tuple[Any, LedgerBuilder]:
    """A sweep with one completed trial that trained 90 seconds, and whose task took so many each time."""
    wanted = {"task": "maths", "metric": "acc"}
    asked = spec(objective={"maximize": wanted, "max_share": 0.1}, early_stop={"rungs": RUNGS})
    sweep = LedgerBuilder(spec=asked.to_dict())
    return asked, completed(sweep, "t000", seconds)


def completed(sweep: LedgerBuilder, name: str, seconds: float, **fields: Any) -> LedgerBuilder:
    sweep.trial(name, **fields).steps(name, 10)
    sweep.eval(name, 0.5, task={"stderr": 0.1, "items": 20, "seconds": seconds})
    sweep.cost(name, seconds=90.0).cost(name, "evaluate", seconds)
    return sweep.end(name, "completed", 0.5)


def test_objective_rungs__all_until_a_trial_has_shown_the_cost() -> None:
    asked, sweep = sweep_of(3.0)
    assert objective_rungs(asked, LedgerBuilder(spec=asked.to_dict()).state(), "t000") is None
    assert objective_rungs(asked, sweep.state(), "t001") == (0.25, 0.5)
    assert objective_rungs(spec(), sweep.state(), "t001") is None, (
        "a validation loss is computed at every rung"
    )


def test_objective_rungs__hold_for_all_later_trials_and_for_a_resumed_one() -> None:
    asked, sweep = sweep_of(3.0)
    sweep.trial("t001", objective_rungs=None).trial("t002", objective_rungs=[0.25, 0.5])
    for i in range(3, 6):  # the task has become ten times slower since
        completed(sweep, f"t00{i}", 30.0, objective_rungs=[0.25, 0.5])
    state = sweep.state()
    assert objective_rungs(asked, state, "t009") == (0.25, 0.5)
    assert objective_rungs(asked, state, "t001") is None
    assert objective_rungs(asked, state, "t002") == (0.25, 0.5)


def test_driver__says_once_what_is_left_out() -> None:
    asked, sweep = sweep_of(3.0)
    said: list[str] = []
    listener = say_where_objective_is_measured(asked, sweep.state(), said.append)
    for name in ("t001", "t002"):
        listener(sweep.trial(name, start=False, objective_rungs=[0.25, 0.5]).row)
    assert len(said) == 1
    assert "from t001 on it is not measured at 10%" in said[0]
    again = say_where_objective_is_measured(asked, sweep.state(), said.append)
    again(sweep.trial("t003", start=False, objective_rungs=[0.25, 0.5]).row)
    assert len(said) == 1, "a resumed sweep has said it"


def test_objective_rungs__further_tasks_count_together_also_beside_a_validation_loss() -> None:
    gsm, typos = {"task": "gsm", "metric": "acc"}, {"task": "typos", "metric": "acc"}
    asked = spec(objective={"measure": [gsm, typos], "max_share": 0.1}, early_stop={"rungs": RUNGS})
    sweep = LedgerBuilder(spec=asked.to_dict()).trial("t000").steps("t000", 10)
    one = {"value": 0.5, "stderr": 0.1, "items": 20, "seconds": 1.5, "higher_is_better": True}
    sweep.eval("t000", 0.5, tasks={"gsm": one, "typos": one})
    sweep.cost("t000", seconds=90.0).cost("t000", "evaluate", 3.0).end("t000", "completed", 0.5)
    assert objective_rungs(asked, sweep.state(), "t001") == (0.25, 0.5)
    said: list[str] = []
    listener = say_where_objective_is_measured(asked, sweep.state(), said.append)
    listener(sweep.trial("t001", start=False, objective_rungs=[0.25, 0.5]).row)
    assert said[0].startswith("gsm, typos together take 3 s")


@pytest.mark.parametrize(
    ("at", "bounds", "kept", "said_so"),
    [
        ("best", {"gsm": {"at_least": 0.3}}, [], True),
        ("best", {"gsm": {"at_least": 0.3}}, [0.5], False),
        ("best", {}, [], False),
        ("end", {"gsm": {"at_least": 0.3}}, [], False),
    ],
)
def test_driver__says_where_only_the_end_can_be_the_best_evaluation(
    at: str, bounds: dict[str, Any], kept: list[float], said_so: bool
) -> None:
    asked = spec(
        {"search.subject_to": bounds, "objective": {"at": at, "measure": [{"task": "gsm", "metric": "acc"}]}},
        early_stop={"rungs": RUNGS},
    )
    sweep = LedgerBuilder(spec=asked.to_dict()).trial("t000").steps("t000", 10)
    one = {"value": 0.5, "stderr": 0.1, "items": 20, "seconds": 30.0, "higher_is_better": True}
    sweep.eval("t000", 0.5, tasks={"gsm": one}).cost("t000", seconds=90.0).cost("t000", "evaluate", 30.0)
    sweep.end("t000", "completed", 0.5)
    said: list[str] = []
    say_where_objective_is_measured(asked, sweep.state(), said.append)(
        sweep.trial("t001", start=False, objective_rungs=kept).row
    )
    assert ("is then the only evaluation that can be its best one" in said[0]) is said_so

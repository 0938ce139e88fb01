"""The sampler's view of bounds on validation losses: Optuna's constraints, also after a resume."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from optuna.trial import TrialState

from support.ledger_builder import LedgerBuilder
from support.search_material import BUDGET, make_spec
from sweepft.search import STUDY_FILE, Proposer

BOUND = {"own": {"at_most": 0.5, "above": "base"}}
LIMITS = {"own": 1.5}


def end(proposer: Proposer, status: str, own: float) -> str:
    proposal = proposer.ask()
    assert proposal is not None
    value = 2.0 if status == "completed" else None
    proposer.report(proposal.trial_id, BUDGET, 2.0, {"own": own})
    proposer.tell(proposal.trial_id, status, value)
    return proposal.trial_id


def constraints(proposer: Proposer) -> list[tuple[str, dict[str, float]]]:
    return [(t.state.name, t.constraints) for t in proposer.study.get_trials(deepcopy=False)]


def test_proposer__gives_ended_trials_their_constraints_once_limits_are_known() -> None:
    proposer = Proposer(make_spec(subject_to=BOUND), None)
    proposer.limits = None
    end(proposer, "completed", 1.0)
    assert constraints(proposer) == [("RUNNING", {})]
    proposer.limits = LIMITS
    end(proposer, "stopped", 2.5)
    assert constraints(proposer) == [("COMPLETE", {"own": -0.5}), ("PRUNED", {"own": 1.0})]
    proposer.limits = None
    end(proposer, "completed", 1.0)
    proposer.close()
    assert [t.state for t in proposer.study.trials].count(TrialState.RUNNING) == 0


@pytest.mark.parametrize("sampler", ["tpe", "gp"])
def test_proposer__samples_where_the_bounds_are_met(sampler: str) -> None:
    """The objective is best at high rates, which break the bound."""
    space = {"learning_rate": {"log_uniform": [1e-4, 1e-1]}}
    rates = []
    proposer = Proposer(make_spec(space, sampler=sampler, trials=16, subject_to=BOUND), None)
    proposer.limits = {"own": 1.0}
    while (proposal := proposer.ask()) is not None:
        rate = proposal.params["learning_rate"]
        proposer.report(proposal.trial_id, BUDGET, 1 / rate, {"own": rate / 1e-3})
        proposer.tell(proposal.trial_id, "completed", 1 / rate)
        rates.append(rate)
    assert sum(rate < 5e-3 for rate in rates[-6:]) >= 4, rates


@pytest.mark.parametrize("known", [True, False])
def test_rebuild__has_the_constraints_of_the_ledger(tmp_path: Path, known: bool) -> None:
    spec = make_spec(subject_to=BOUND)
    ledger = LedgerBuilder(budget_samples=BUDGET, samples_per_step=100, spec=spec.to_dict())
    if known:
        ledger.score(None, "own", {"loss": 1.0}, what="validation")
    first = Proposer(spec, tmp_path / STUDY_FILE)
    first.limits = {"own": 9.0} if known else None  # bounds that have changed since
    for status, own in (("completed", 1.0), ("stopped", 2.5)):
        proposal = first.ask()
        assert proposal is not None
        name, sets = proposal.trial_id, {"own": {"loss": own}}
        last = 10 if status == "completed" else 5
        ledger.trial(name, params=proposal.params, study_number=proposal.study_number, number=proposal.number)
        ledger.steps(name, last).eval(name, 2.0, sets=sets).cost(name)
        value = 2.0 if status == "completed" else None
        first.report(name, BUDGET if status == "completed" else BUDGET // 2, 2.0, {"own": own})
        first.tell(name, status, value)
        ledger.end(name, status, value)
    proposer = Proposer(spec, tmp_path / STUDY_FILE)
    assert proposer.rebuild(ledger.state()) == []
    wanted: list[Any] = [("COMPLETE", {"own": -0.5}), ("PRUNED", {"own": 1.0})]
    assert constraints(proposer) == (wanted if known else [("RUNNING", {}), ("RUNNING", {})])
    proposer.limits = LIMITS
    proposer.ask()
    assert constraints(proposer)[:2] == wanted


def test_proposer__a_stopped_trial_has_constraints_only_where_all_that_is_bounded_was_measured() -> None:
    """A task is not measured at every rung: unknown is not infeasible. It keeps its last value."""
    proposer = Proposer(make_spec(), None)
    proposer.limits = {"own": 1.5, "gsm": -0.3}
    for losses, status in (([{"own": 1.0}], "stopped"), ([{"own": 1.0, "gsm": -0.2}, {"own": 0.9}], "stopped"),
                           ([{"own": 1.0, "gsm": -0.5}], "completed")):  # fmt: skip
        proposal = proposer.ask()
        assert proposal is not None
        for i, known in enumerate(losses):
            proposer.report(proposal.trial_id, i + 1, 2.0, known)
        proposer.tell(proposal.trial_id, status, 2.0 if status == "completed" else None)
    assert constraints(proposer) == [
        ("PRUNED", {}),
        ("PRUNED", {"own": pytest.approx(-0.6), "gsm": pytest.approx(0.1)}),
        ("COMPLETE", {"own": -0.5, "gsm": pytest.approx(-0.2)}),
    ]

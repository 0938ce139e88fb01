"""Clones and additional trials that a user requests while the search runs."""

from __future__ import annotations

from pathlib import Path

import pytest
from ray.tune.search import Searcher

from support.search_material import BUDGET, FINITE, make_spec, new_ledger, propose
from sweepft.search import STUDY_FILE, Proposer
from sweepft.search.ray_searcher import OptunaSearcher

CONFIG = {"batch_size": 16, "learning_rate": 1e-3, "warmup": 0.0, "schedule": "cosine"}


@pytest.mark.parametrize("sampler", ["tpe", "random", "qmc", "grid", "cmaes"])
def test_clone__comes_next_and_on_top_of_the_trials(sampler: str, tmp_path: Path) -> None:
    proposer = Proposer(make_spec(FINITE, sampler=sampler, trials=3), tmp_path / STUDY_FILE)
    first = proposer.ask()
    assert first is not None
    params = CONFIG if first.params != CONFIG else {**CONFIG, "batch_size": 8}
    proposer.clone(params)
    clone = proposer.ask()
    assert clone is not None
    assert (clone.trial_id, clone.origin, clone.params) == ("t001", "clone", params)
    rest = [proposer.ask() for _ in range(3)]
    assert [p.trial_id if p else None for p in rest] == ["t002", "t003", None]


@pytest.mark.parametrize(
    ("params", "words"),
    [
        ({**CONFIG, "batch_size": 12}, "not one of"),
        ({**CONFIG, "learning_rate": 1.0}, "not in"),
        ({**CONFIG, "seed": 1}, "not in the space: seed"),
        ({"batch_size": 16}, "not complete: learning_rate, schedule, warmup"),
    ],
)
def test_clone__outside_the_space_is_refused(params: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Proposer(make_spec(), None).clone(params)


def test_clone__of_tried_or_waiting_params_is_refused() -> None:
    proposer = Proposer(make_spec(), None)
    proposer.clone(CONFIG)
    with pytest.raises(ValueError, match="a clone that is waiting"):
        proposer.clone(CONFIG)
    proposer.ask()
    with pytest.raises(ValueError, match="tried already: t000"):
        proposer.clone(CONFIG)


def test_proposer__trials_can_be_raised_after_the_last(tmp_path: Path) -> None:
    proposer = Proposer(make_spec(trials=1), tmp_path / STUDY_FILE)
    assert proposer.ask()
    assert proposer.ask() is None
    proposer.trials = 2
    assert proposer.ask()
    assert proposer.ask() is None


def test_rebuild__clones_do_not_count_as_trials(tmp_path: Path) -> None:
    ledger = new_ledger()
    proposer = Proposer(make_spec(trials=2), tmp_path / STUDY_FILE)
    for _ in range(2):
        proposal = proposer.ask()
        assert proposal is not None
        propose(ledger, proposal)
        ledger.end(proposal.trial_id, "completed", 1.0, reason=None)
        if proposal.origin != "clone":
            proposer.clone(CONFIG)
    again = Proposer(make_spec(trials=2), tmp_path / "again")
    assert again.rebuild(ledger.state()) == []
    proposal = again.ask()
    assert proposal is not None
    assert (proposal.trial_id, proposal.origin) == ("t002", "sampler")
    assert again.ask() is None


def test_recall__paused_trial_comes_next_unless_stopped() -> None:
    proposer = Proposer(make_spec(), None)
    first, second = proposer.ask(), proposer.ask()
    assert first is not None
    assert second is not None
    for proposal in (first, second):
        proposer.pause(proposal)
        proposer.recall(proposal.trial_id)
    assert proposer.waiting == 2
    proposer.tell("t000", "stopped", reason="stopped by ada@host")
    back = proposer.ask()
    assert back is not None
    assert (back.trial_id, back.resumed) == ("t001", True)
    assert not proposer.paused


def test_searcher__waits_for_the_last_trial_as_a_clone_may_follow() -> None:
    searcher = OptunaSearcher(Proposer(make_spec(trials=1), None), BUDGET)
    assert isinstance(searcher.suggest("a"), dict)
    assert searcher.suggest("b") is None
    searcher.proposer.clone(CONFIG)
    clone = searcher.suggest("b")
    assert isinstance(clone, dict)
    assert clone["job"].origin == "clone"
    for name in ("a", "b"):
        searcher.on_trial_complete(name, {"samples_seen": BUDGET, "objective": 2.5, "done": True})
    assert searcher.suggest("c") == Searcher.FINISHED

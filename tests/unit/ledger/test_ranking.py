"""The order of finalists, and when the first of them is the winner."""

from __future__ import annotations

from typing import Any

import pytest

from support.ledger_builder import LedgerBuilder
from sweepft.ledger import SweepState, finalists, metric_of, missing_scores, ranking, winner

ITEMS = [
    {"what": "task", "name": "maths", "digest": "d-maths"},
    {"what": "test", "name": "test_set", "digest": "d-test_set"},
    {"what": "validation", "name": "own", "digest": "d-own"},
]


def completed(**objectives: float) -> LedgerBuilder:
    """A sweep of completed trials, all of which are finalists."""
    sweep = LedgerBuilder(time=1.0, tick=0.0)
    for name, objective in objectives.items():
        sweep.completed(name, objective)
    return choose(sweep, *objectives)


def choose(sweep: LedgerBuilder, *names: str, rank_by: dict[str, float] | None = None) -> LedgerBuilder:
    return sweep.finalists(*names, items=ITEMS, rank_by=rank_by or {"maths": 1.0})


def score(
    sweep: LedgerBuilder, name: str | None, accuracy: float | None, loss: float = 1.0, **fields: Any
) -> LedgerBuilder:
    """Scores of a trial on the task, or None with a reason, and on the test set."""
    if accuracy is None:
        sweep.score(name, "maths", reason="broken", **fields)
    else:
        sweep.score(name, "maths", {"acc": accuracy}, **fields)
    return sweep.score(name, "test_set", {"loss": (loss, 0.01)}, what="test")


def order(sweep: LedgerBuilder) -> list[str]:
    return [f.trial.trial_id for f in finalists(sweep.state())]


def winner_of(sweep: LedgerBuilder) -> str:
    best = winner(sweep.state())
    assert best is not None
    return best.trial_id


def missing(state: SweepState, name: str | None, since: float = 0.0) -> list[str]:
    return [item["name"] for item in missing_scores(state, name, since)]


def test_finalists__ordered_by_rank_by_where_a_loss_counts_negative() -> None:
    sweep = score(score(completed(a=1.0, b=2.0), "a", 0.3, loss=0.5), "b", 0.4, loss=0.7)
    assert order(sweep) == ["b", "a"]
    assert order(choose(sweep, "a", "b", rank_by={"test_set.loss": 1.0})) == ["a", "b"]
    assert order(choose(sweep, "a", "b", rank_by={"objective": 1.0})) == ["a", "b"]
    choose(sweep, "a", "b", rank_by={"maths.acc": 1.0, "test_set.loss": 2.0})
    assert order(sweep) == ["a", "b"]
    standing = finalists(sweep.state())[0].standing
    assert standing is not None
    assert standing.value == pytest.approx((0.3 - 2 * 0.5) / 3)
    assert standing.stderr == pytest.approx((0.02**2 + (2 * 0.01) ** 2) ** 0.5 / 3)


def test_winner__first_finalist_once_all_have_every_score_or_a_reason() -> None:
    sweep = score(completed(a=1.0, b=2.0), "b", 0.4)
    assert winner_of(sweep) == "a", "by the objective until then"
    assert winner_of(score(sweep, "a", 0.3)) == "b"
    failed = score(score(completed(a=1.0, b=2.0), "b", 0.1), "a", None)
    assert order(failed) == ["b", "a"], "a finalist without a score comes last"
    assert winner_of(failed) == "b"


def test_finalists__with_replicates_count_by_these_alone() -> None:
    sweep = score(score(completed(a=1.0, b=2.0), "a", 0.9), "b", 0.5)
    sweep.completed("a-1", 1.2, replicate_of="a").trial("a-2", replicate_of="a")
    score(sweep, "a-1", 0.2)
    assert winner_of(sweep) == "a", "a replicate still trains: by the objective"
    sweep.end("a-2", "completed", 1.1)
    assert missing(sweep.state(), "a-2") == ["maths", "test_set"]
    state = score(sweep, "a-2", 0.4).state()
    (a, b) = finalists(state)
    assert a.standing is not None
    assert b.standing is not None
    assert a.standing.replicates == 2
    assert a.standing.value == pytest.approx(0.3)
    assert a.standing.stderr == pytest.approx(0.1)
    assert (a.trial.trial_id, b.standing.replicates) == ("a", 0)
    assert b.standing.value > a.standing.value, "a single run does not overtake a mean over replicates"
    assert winner(state) is a.trial
    assert [r.trial.trial_id for r in ranking(state) if r.rank] == ["a", "b"], "replicates are not ranked"


def test_scores__with_another_digest_do_not_count() -> None:
    state = score(completed(a=1.0), "a", 0.9, digest="of another limit").state()
    assert missing(state, "a") == ["maths"]
    assert finalists(state)[0].standing is None


def test_missing_scores__asks_again_after_a_reason_of_an_earlier_session() -> None:
    state = score(completed(a=1.0), "a", None).state()
    assert missing(state, "a") == []
    assert missing(state, "a", since=1.0) == [], "all rows here are written at 1 s"
    assert missing(state, "a", since=2.0) == ["maths"]


def test_missing_scores__validation_sets_are_for_the_base_model_only() -> None:
    state = score(score(completed(a=1.0), "a", 0.9), None, 0.1).state()
    assert missing(state, "a") == []
    assert missing(state, None) == ["own"]


METRICS = {"gsm8k": ["exact_match,strict", "exact_match,loose", "f1,loose"], "gsm8k.hard": ["acc"]}


@pytest.mark.parametrize(
    ("key", "found"),
    [
        ("gsm8k", ("gsm8k", "exact_match,strict")),
        ("gsm8k.exact_match,loose", ("gsm8k", "exact_match,loose")),
        ("gsm8k.f1", ("gsm8k", "f1,loose")),
        ("gsm8k.hard.acc", ("gsm8k.hard", "acc")),
    ],
)
def test_metric_of__finds_the_item_and_its_metric(key: str, found: tuple[str, str]) -> None:
    assert metric_of(key, METRICS, METRICS) == found


@pytest.mark.parametrize(
    ("key", "choice"),
    [
        ("gsm8k.exact_match", "gsm8k.exact_match,strict, gsm8k.exact_match,loose"),
        ("gsm8k.hard.f1", "gsm8k.hard.acc"),
        ("mmlu", "gsm8k, gsm8k.hard"),
    ],
)
def test_metric_of__lists_the_choice_for_an_unknown_or_ambiguous_key(key: str, choice: str) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        metric_of(key, METRICS, METRICS)
    assert str(caught.value).startswith(f"{key} ")
    assert str(caught.value).endswith(choice)

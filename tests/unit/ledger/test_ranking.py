"""Finalists from ledger rows: what counts, in which order, and when the first of them is the winner."""

from __future__ import annotations

from typing import Any

import pytest

from sweepft.ledger import SweepState, finalists, metric_of, missing_scores
from sweepft.ledger.rows import complete_fields

PARTS = [
    {"what": "task", "name": "maths", "digest": "d1"},
    {"what": "test", "name": "test_set", "digest": "d2"},
    {"what": "validation", "name": "own", "digest": "d3"},
]


class Rows:
    """A sweep of completed trials, scored by hand."""

    def __init__(self, **objectives: float) -> None:
        self.view = SweepState()
        self.tell("sweep", name="s", spec={}, spec_digest="", seed=0, budget_samples=10, sweepft_version="0")
        for name, value in objectives.items():
            self.trial(name, value)

    def tell(self, kind: str, **fields: Any) -> Rows:
        self.view.apply({"seq": self.view.rows, "time": 1.0, "kind": kind, **complete_fields(kind, fields)})
        return self

    def trial(self, name: str, objective: float | None, replicate_of: str | None = None) -> Rows:
        self.tell("trial", trial_id=name, number=len(self.view.trials), params={}, train_config={}, origin="sampler",
                  planned_steps=1, warmup_steps=0, replicate_of=replicate_of)  # fmt: skip
        if objective is None:
            return self
        return self.tell("end", trial_id=name, attempt=1, status="completed", reason=None, objective=objective, step=1,
                         samples_seen=10, tokens_seen=10)  # fmt: skip

    def chosen(self, *names: str, rank_by: dict[str, float] | None = None, parts: Any = PARTS) -> Rows:
        entries = [{"trial_id": name, "why": "top"} for name in names]
        return self.tell("finalists", chosen=entries, parts=parts, rank_by=rank_by or {"maths": 1.0})

    def scored(self, name: str | None, accuracy: float | None, loss: float = 1.0, digest: str = "d1") -> Rows:
        found = (
            {} if accuracy is None else {"acc": {"value": accuracy, "stderr": 0.02, "higher_is_better": True}}
        )
        loss_found = {"loss": {"value": loss, "stderr": 0.01, "higher_is_better": False}}
        reason = "broken" if accuracy is None else None
        self.tell(
            "score", trial_id=name, what="task", name="maths", digest=digest, metrics=found, reason=reason
        )
        return self.tell(
            "score", trial_id=name, what="test", name="test_set", digest="d2", metrics=loss_found
        )

    def order(self) -> list[str]:
        return [f.trial.trial_id for f in finalists(self.view)]


def test_they_are_ordered_by_what_ranks_them_more_is_better_and_a_loss_counts_negative() -> None:
    rows = Rows(a=1.0, b=2.0).chosen("a", "b").scored("a", 0.3, loss=0.5).scored("b", 0.4, loss=0.7)
    assert rows.order() == ["b", "a"]
    assert rows.chosen("a", "b", rank_by={"sealed.loss": 1.0}).order() == ["a", "b"]
    assert rows.chosen("a", "b", rank_by={"objective": 1.0}).order() == ["a", "b"]
    both = rows.chosen("a", "b", rank_by={"maths.acc": 1.0, "sealed.loss": 2.0})
    assert both.order() == ["a", "b"]
    assert finalists(both.view)[0].standing.value == pytest.approx((0.3 - 2 * 0.5) / 3)
    assert finalists(both.view)[0].standing.stderr == pytest.approx((0.02**2 + (2 * 0.01) ** 2) ** 0.5 / 3)


def test_the_first_is_the_winner_once_every_finalist_has_every_score_or_a_reason() -> None:
    rows = Rows(a=1.0, b=2.0).chosen("a", "b").scored("b", 0.4)
    assert rows.view.best.trial_id == "a", "by the objective until then"
    assert rows.scored("a", 0.3).view.best.trial_id == "b"
    failed = Rows(a=1.0, b=2.0).chosen("a", "b").scored("b", 0.1).scored("a", None)
    assert failed.order() == ["b", "a"], "who cannot be scored stands last"
    assert failed.view.best.trial_id == "b"


def test_a_configuration_counts_by_its_fresh_seeds_and_not_by_the_run_it_was_chosen_for() -> None:
    rows = Rows(a=1.0, b=2.0).chosen("a", "b").scored("a", 0.9).scored("b", 0.5)
    rows.trial("a-1", 1.2, replicate_of="a").trial("a-2", None, replicate_of="a")
    rows.scored("a-1", 0.2)
    assert rows.view.best.trial_id == "a", "a seed is still being trained: by the objective"
    rows.tell("end", trial_id="a-2", attempt=1, status="completed", reason=None, objective=1.1, step=1, samples_seen=10,
              tokens_seen=10)  # fmt: skip
    assert [p["name"] for p in missing_scores(rows.view, "a-2")] == ["maths", "test_set"]
    rows.scored("a-2", 0.4)
    (a, b) = finalists(rows.view)
    assert a.standing.seeds == 2
    assert a.standing.value == pytest.approx(0.3)
    assert a.standing.stderr == pytest.approx(0.1)
    assert (a.trial.trial_id, b.standing.seeds) == ("a", 0)
    assert b.standing.value > a.standing.value, "one run, for which it was chosen, does not overtake a mean"
    assert rows.view.best.trial_id == "a"
    assert [r.trial.trial_id for r in rows.view.ranking() if r.rank] == ["a", "b"], "seeds are not ranked"


def test_a_score_under_other_settings_does_not_count() -> None:
    rows = Rows(a=1.0).chosen("a").scored("a", 0.9, digest="of another limit")
    assert [p["name"] for p in missing_scores(rows.view, "a")] == ["maths"]
    assert finalists(rows.view)[0].standing is None


def test_a_reason_of_an_earlier_session_is_asked_again() -> None:
    rows = Rows(a=1.0).chosen("a").scored("a", None)
    assert missing_scores(rows.view, "a") == []
    assert missing_scores(rows.view, "a", since=1.0) == [], "rows here are told at 1 s"
    assert [p["name"] for p in missing_scores(rows.view, "a", since=2.0)] == ["maths"]


def test_held_out_sets_are_asked_of_the_base_model_alone() -> None:
    rows = Rows(a=1.0).chosen("a").scored("a", 0.9).scored(None, 0.1)
    assert missing_scores(rows.view, "a") == []
    assert [p["name"] for p in missing_scores(rows.view, None)] == ["own"]


@pytest.mark.parametrize(
    ("key", "found"),
    [
        ("gsm8k", ("gsm8k", "exact_match,strict")),
        ("gsm8k.exact_match,loose", ("gsm8k", "exact_match,loose")),
        ("gsm8k.f1", ("gsm8k", "f1,loose")),
        ("gsm8k.hard.acc", ("gsm8k.hard", "acc")),
        (
            "gsm8k.exact_match",
            "gsm8k.exact_match is ambiguous: use one of gsm8k.exact_match,strict, gsm8k.exact_match,l",
        ),
        ("gsm8k.hard.f1", "gsm8k.hard.f1 is not measured: use one of gsm8k.hard.acc"),
        ("mmlu", "mmlu is none of gsm8k, gsm8k.hard"),
    ],
)
def test_a_key_names_a_part_and_one_of_its_metrics(key: str, found: Any) -> None:
    metrics = {"gsm8k": ["exact_match,strict", "exact_match,loose", "f1,loose"], "gsm8k.hard": ["acc"]}
    if isinstance(found, tuple):
        assert metric_of(key, metrics, metrics) == found
    else:
        with pytest.raises(ValueError, match="^" + found.replace(".", r"\.")):
            metric_of(key, metrics, metrics)

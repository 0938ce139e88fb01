"""The early stopper with the simple rules: decisions, divergence checks, restarts."""

from __future__ import annotations

import json
import math
import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support.errors import raises
from support.ledger_builder import LedgerBuilder
from sweepft.early_stopping import EarlyStopper, StopDecision, make_report, make_rule, replay_state

NAN = math.nan


def early_stopper(rule: str = "median", **kw: Any) -> EarlyStopper:
    settings_ = {"rungs": (0.1, 0.5), "budget": 100, "mode": "min", **kw}
    peers = settings_.pop("min_peers", 2)
    return EarlyStopper(rule=make_rule(rule, min_peers=peers), **settings_)


def at(step: float, *, loss: Any = None, grad_norm: Any = None, metric: Any = None, **kw: Any) -> Any:
    return make_report(
        step=[int(step)], progress=[step], loss=[loss], grad_norm=[grad_norm], metric=metric, **kw
    )


def actions(r: EarlyStopper, values: list[Any], step: float = 10) -> list[str]:
    """Each trial reports its objective at the first rung, in order."""
    out = []
    for i, value in enumerate(values):
        r.add(f"t{i}", {})
        out += [v.action for v in r.report(f"t{i}", at(step, metric=value))]
    return out


@pytest.mark.parametrize(
    ("mode", "values", "expected"),
    [
        ("min", [1.0], ["continue"]),
        ("min", [1.0, 1.0, 1.0, 1.0], ["continue"] * 4),
        ("min", [1.0, 2.0, 3.0, 1.4, 9.0], ["continue", "continue", "stop", "continue", "stop"]),
        ("max", [1.0, 2.0, 3.0, 1.4, 9.0], ["continue", "continue", "continue", "stop", "continue"]),
        ("min", [1.0, None, 2.0, 3.0], ["continue"] * 3 + ["stop"]),
        ("min", [1.0, 2.0, 1.5], ["continue", "continue", "continue"]),  # equal to the median of two
    ],
)
def test_median__stops_what_is_worse_than_the_median_of_others(
    mode: str, values: list[Any], expected: list[str]
) -> None:
    assert actions(early_stopper(mode=mode), values) == expected


def test_early_stopper__never_stops_the_best_trial_at_a_rung() -> None:
    r = early_stopper("recipe", rungs=(0.1,))
    for i in range(4):
        r.add(f"t{i}")
        (decision,) = r.report(f"t{i}", at(10, loss=10.0 - i, metric=10.0 - i))
    assert decision.action == "continue"
    assert "best objective" in decision.reason


def test_early_stopper__keeps_the_last_trials() -> None:
    r = early_stopper(keep_last=4)
    assert actions(r, [1.0, 2.0, 3.0, 4.0]) == ["continue"] * 3 + ["continue"]
    assert "remain" in r.decisions[-1].reason


@pytest.mark.parametrize(
    ("loss", "norm", "expected"),
    [(1.0, 5.0, "stop"), (9.0, 0.1, "continue"), (1.0, None, "stop"), (None, 5.0, "stop")],
)
def test_recipe__stops_high_gradient_norm_and_low_loss(loss: Any, norm: Any, expected: str) -> None:
    r = early_stopper("recipe")
    for i in range(3):
        r.add(f"t{i}", {"batch_size": 8})
        r.report(f"t{i}", at(10, loss=4.0 + i, grad_norm=1.0 + i))
    r.add("x", {"batch_size": 8})
    (decision,) = r.report("x", at(10, loss=loss, grad_norm=norm))
    assert decision.action == expected
    assert set(decision.evidence["ranks"]) == {k for k, v in (("loss", loss), ("log_grad_norm", norm)) if v}


def test_recipe__never_compares_across_batch_sizes() -> None:
    r = early_stopper("recipe")
    for i in range(5):
        r.add(f"t{i}", {"batch_size": 8})
        r.report(f"t{i}", at(10, loss=4.0, grad_norm=1.0))
    r.add("x", {"batch_size": 64})
    (decision,) = r.report("x", at(10, loss=1.0, grad_norm=9.0))
    assert decision.action == "continue"
    assert decision.reason.startswith("0 comparable")


def test_early_stopper__skips_rungs_before_min_steps_or_in_warmup() -> None:
    r = early_stopper(min_steps=20)
    assert actions(r, [1.0, 2.0, 3.0, 4.0]) == []
    for i in range(4):
        r.report(f"t{i}", at(50, metric=float(i), warmup_steps=20))
    assert [v.action for v in r.decisions] == ["continue"] * 2 + ["stop"] * 2
    assert {v.rung for v in r.decisions} == {0.5}


def test_early_stopper__judges_a_bulk_report_like_single_steps() -> None:
    single, bulk = early_stopper("recipe", rungs=(0.1,)), early_stopper("recipe", rungs=(0.1,))
    rng = random.Random(0)
    for t in range(6):
        losses = [rng.uniform(1, 2) for _ in range(12)]
        for r in (single, bulk):
            r.add(f"t{t}")
        for i, loss in enumerate(losses):
            single.report(f"t{t}", at(i + 1, loss=loss))
        bulk.report(f"t{t}", make_report(step=range(1, 11), progress=range(1, 11), loss=losses[:10]))
    assert [(v.trial_id, v.action) for v in single.decisions] == [
        (v.trial_id, v.action) for v in bulk.decisions
    ]
    assert {v.action for v in bulk.decisions} == {"continue", "stop"}


def test_early_stopper__ignores_repeated_and_unordered_reports() -> None:
    r = early_stopper("none")
    r.add("t0")
    r.report("t0", at(10, loss=1.0))
    before = r.state_dict()
    r.report("t0", at(5, loss=77.0))
    r.report("t0", at(10, loss=77.0))
    assert r.state_dict() == before


def test_early_stopper__judges_a_late_trial_against_earlier_ones() -> None:
    r = early_stopper()
    actions(r, [1.0, 2.0, 3.0])
    r.add("late")
    assert [v.action for v in r.report("late", at(60, metric=8.0))] == ["stop"]


@pytest.mark.parametrize("rule", ["median", "calibrated"])
@pytest.mark.parametrize("end", [5, 30])
def test_early_stopper__completes_a_trial_shorter_than_the_budget(rule: str, end: int) -> None:
    """Before the first rung or between two: its final result counts, and no one is judged against it where it
    never was.
    """
    r = early_stopper(rule)
    for i in range(4):
        r.add(f"t{i}")
        r.report(f"t{i}", at(10, metric=1.0 + i / 10, loss=1.0 + i / 10))
    r.add("short")
    for step in range(5, end, 5):
        r.report("short", at(step, metric=0.5, loss=0.5))
    assert r.complete("short", at(end, metric=0.4, loss=0.4)) == []
    assert dict(r.cohort.finals) == {"short": 0.4}
    assert r.cohort.trials["short"].status == "completed"
    assert {w.fraction for w in r.cohort.trials["short"].snapshots} == ({0.1} if end > 10 else set())
    (decision,) = r.report("t0", at(50, metric=1.0, loss=1.0))
    assert (decision.rung, decision.action) == (0.5, "continue")
    assert r.report("short", at(60, metric=9.0)) == []


def test_early_stopper__judges_one_report_at_several_rungs() -> None:
    r = early_stopper(rungs=(0.1, 0.2))
    r.add("t0")
    assert [v.rung for v in r.report("t0", at(30, metric=1.0))] == [0.1, 0.2]


def test_early_stopper__does_not_judge_at_the_full_budget() -> None:
    r = early_stopper(rungs=(0.5, 1.0))
    r.add("t0")
    r.report("t0", at(50, metric=3.0))
    assert r.report("t0", at(100, metric=2.0)) == []
    r.complete("t0")
    assert dict(r.cohort.finals) == {"t0": 2.0}


def test_early_stopper__a_failed_trial_continues_its_curve() -> None:
    r = early_stopper()
    r.add("t0")
    r.report("t0", at(10, metric=1.0))
    r.fail("t0")
    assert r.report("t0", at(20, metric=1.0)) == [] if r.cohort.trials["t0"].status != "running" else True
    r.add("t0")
    assert r.report("t0", at(10, metric=9.0)) == []  # that rung has been judged
    assert [v.rung for v in r.report("t0", at(50, metric=1.0))] == [0.5]


def test_early_stopper__counts_savings_of_stopped_trials() -> None:
    r = early_stopper()
    actions(r, [1.0, 2.0, 3.0])
    assert r.report("t2", at(20, metric=0.0)) == []
    r.complete("t2", at(20, metric=0.0))
    assert dict(r.cohort.finals) == {}
    summary = r.summary()
    assert summary["trials_saved"] == pytest.approx(0.9)
    assert summary["statuses"] == {"running": 2, "stopped": 1}
    json.dumps(summary)


@pytest.mark.parametrize(("rule", "expected"), [("calibrated", ["stop"]), ("median", [])])
def test_early_stopper__judges_again_between_rungs_with_new_peers(rule: str, expected: list[str]) -> None:
    """The first trial at a rung has no peers; better ones that arrive there later flag it."""
    r = early_stopper(rule)
    assert actions(r, [9.0]) == ["continue"]
    assert r.report("t0", at(15, metric=9.0, loss=9.0)) == []  # nothing new is known: nothing to say
    for i in range(1, 14):
        r.add(f"t{i}")
        r.report(f"t{i}", at(10, metric=1.0 + i / 10, loss=1.0 + i / 10))
        if i > 3:
            r.complete(f"t{i}", at(100, metric=1.0 + i / 10))
    found = r.report("t0", at(20, metric=9.0, loss=9.0))
    assert [v.action for v in found] == expected
    assert [(v.rung, v.samples_seen) for v in found] == [(0.1, 20.0)] * len(expected)
    assert r.report("t1", at(15, metric=1.1, loss=1.1)) == []  # judged again, and silently let go


@pytest.mark.parametrize("kw", [{"audit": 1.0}, {"pause": True}])
def test_early_stopper__flagged_trials_wait_for_the_next_rung(kw: dict[str, Any]) -> None:
    r = early_stopper("calibrated", **kw)
    for i in range(9):
        r.add(f"t{i}")
        r.report(f"t{i}", at(10, metric=1.0 + i, loss=1.0 + i))
        if i < 6:
            r.complete(f"t{i}", at(100, metric=1.0 + i))
    assert r.cohort.trials["t8"].flagged_at == "10%"
    r.add("late")
    r.report("late", at(10, metric=0.5, loss=0.5))
    assert r.report("t8", at(15, metric=9.0, loss=9.0)) == []
    assert r.cohort.trials["t8"].status == "running"


def test_stop_decision__survives_its_row() -> None:
    v = StopDecision("t0", 3, 24.0, 0.1, "stop", "median", "because", None, {"peers": 3})
    row = {"kind": "decision", "seq": 4, **json.loads(json.dumps(v.to_row()))}
    assert StopDecision.from_row(row) == v


def test_early_stopper__refuses_a_state_of_another_version_or_mode() -> None:
    state = early_stopper().state_dict()
    with raises(ValueError, "state_dict"):
        early_stopper().load_state_dict({**state, "version": 0})
    with raises(ValueError, "state_dict"):
        early_stopper(mode="max").load_state_dict(state)


EVENTS = st.lists(
    st.tuples(
        st.integers(0, 7),
        st.sampled_from([5, 10, 30, 50, 80, 100]),
        st.one_of(st.none(), st.floats(0, 5)),
        st.one_of(st.none(), st.floats(0.01, 5)),
        st.booleans(),
    ),
    min_size=5,
    max_size=60,
)


@settings(deadline=None, max_examples=60)
@given(
    events=EVENTS, cut=st.integers(0, 60), rule=st.sampled_from(["median", "recipe", "asha", "calibrated"])
)
def test_early_stopper__decides_the_same_after_a_restart(events: list[Any], cut: int, rule: str) -> None:
    def feed(r: EarlyStopper, part: list[Any]) -> None:
        for trial, step, metric, loss, done in part:
            name = f"t{trial}"
            r.add(name, {"batch_size": trial % 2})
            if done and step == 100:
                r.complete(name, at(step, metric=metric, loss=loss))
            else:
                r.report(name, at(step, metric=metric, loss=loss, grad_norm=loss))

    whole = early_stopper(rule)
    feed(whole, events)
    first = early_stopper(rule)
    feed(first, events[:cut])
    second = early_stopper(rule)
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    feed(second, events[cut:])
    assert second.decisions == whole.decisions
    assert second.state_dict() == whole.state_dict()
    assert second.summary() == whole.summary()


def test_early_stopper__stops_a_pinned_trial_only_if_it_diverges() -> None:
    r = early_stopper()
    r.pin("t4", "ada@host")
    assert actions(r, [1.0, 2.0, 3.0, 1.4, 9.0])[-1] == "continue"
    assert r.decisions[-1].reason.endswith("not stopped: pinned by ada@host")
    assert r.cohort.trials["t4"].flagged_at is None, "it counts in no error rate"
    (decision,) = r.report("t4", at(20, loss=NAN, diverged="loss scale underflow"))
    assert decision.action == "divergence_check"


def test_early_stopper__a_user_stop_withdraws_the_trial() -> None:
    r = early_stopper()
    actions(r, [1.0, 2.0])
    decision = r.stop("t1", "stopped by ada@host")
    assert (decision.action, decision.rule, decision.reason, decision.rung) == (
        "stop", "user", "stopped by ada@host", None,
    )  # fmt: skip
    assert decision.ends_trial
    assert r.cohort.trials["t1"].status == "removed"
    assert r.cohort.ended_before(r.rungs[-1]) == 0, "nor does it count among the flagged ones"


def test_early_stopper__pins_survive_state_and_replay() -> None:
    ledger = LedgerBuilder().trial("t0").command("pin", "t0", who="ada@host")
    ledger.command("pin", "t1", who="ada@host", accepted=False)
    replayed = early_stopper()
    replay_state(replayed, ledger.state())
    loaded = early_stopper()
    loaded.load_state_dict(json.loads(json.dumps(replayed.state_dict())))
    for r in (replayed, loaded):
        assert r.state_dict()["pinned"] == {"t0": "ada@host"}

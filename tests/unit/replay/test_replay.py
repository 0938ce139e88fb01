"""Replays: the clock, the scores, and every judge on the same made-up runs."""

from __future__ import annotations

import math

import numpy as np
import pytest
from synthetic_studies import make_study

from sweepft.early_stopping import RULES, EarlyStopper, make_rule
from sweepft.replay.calibrate import calibrate
from sweepft.replay.clock import replay_study
from sweepft.replay.policies import EarlyStopperPolicy, ForesightPolicy, OraclePolicy
from sweepft.replay.runner import OTHERS, Replay, make_policy, replay_all
from sweepft.replay.score import bootstrap, repeat_noise, score_outcome, top_runs

pytestmark = pytest.mark.filterwarnings(
    "ignore::FutureWarning", "ignore::optuna.exceptions.ExperimentalWarning"
)


@pytest.mark.parametrize(("slots", "makespan"), [(1, 600.0), (2, 300.0), (4, 200.0), (9, 100.0)])
def test_replay_study__without_stops_takes_the_time_of_the_slots(slots: int, makespan: float) -> None:
    study = make_study(runs=6)
    policy = make_policy("none", study, Replay(), 0)
    outcome = replay_study(study, policy, slots=slots, order=range(6))
    assert outcome.makespan == pytest.approx(makespan)
    score = score_outcome(study, outcome, full_makespan=makespan)
    assert (score.saved, score.best_kept, score.false_stop, score.regret) == (0.0, 1.0, 0.0, 0.0)


def test_oracle__keeps_the_best_run_and_pays_the_others_up_to_its_rung() -> None:
    study = make_study(runs=10)
    outcome = replay_study(study, OraclePolicy(study, rung=0.1), slots=3, order=range(10))
    score = score_outcome(study, outcome, full_makespan=400.0)
    assert score.best_kept == 1.0
    assert score.saved == pytest.approx(0.9 * 0.9)
    assert score.false_stop == 0.5  # one of the two good ones


@pytest.mark.parametrize(("keep", "spent"), [(1, 100 + 5 * 5), (2, 200 + 4 * 5)])
def test_foresight__stops_runs_worse_than_enough_seen_so_far(keep: int, spent: float) -> None:
    """From the best to the worst, one after another; to keep two costs the second one too."""
    study = make_study(runs=6)
    best_first = np.argsort(-study.values).tolist()
    policy = ForesightPolicy(study, rung=0.05, keep=keep)
    outcome = replay_study(study, policy, slots=1, order=best_first)
    assert sum(o.spent for o in outcome.runs.values()) == pytest.approx(spent)
    worst_first = replay_study(
        study, ForesightPolicy(study, rung=0.05, keep=1), slots=1, order=best_first[::-1]
    )
    assert all(o.status == "completed" for o in worst_first.runs.values())


@pytest.mark.parametrize("rule", [*RULES, *OTHERS])
def test_policies__all_run_and_are_repeatable(rule: str) -> None:
    study = make_study(seed=1, runs=16, bad=True)
    settings = Replay(orders=2, slots=3)
    first = replay_all([study], [rule], settings)
    assert first == replay_all([study], [rule], settings)
    score = first[0].score
    assert 0.0 <= score.saved < 1.0
    assert score.regret >= 0.0
    if rule not in (
        "none",
        "recipe",
        "random",
        "asha",
        "asha4",
        "ray-asha",
        "ray-asha4",
        "optuna-percentile",
    ):
        assert score.regret_scaled < 0.5
    if rule not in ("none",):
        assert score.saved > 0.05
        assert all(s.reason for s in first[0].stops)


def test_replay_study__decides_as_a_live_early_stopper() -> None:
    """Slot by slot the same object is driven: a replay of one slot is the live sweep run one by one."""
    study = make_study(seed=3, runs=12)
    rule = make_rule("median")
    live = EarlyStopper(rule=rule, rungs=(0.1, 0.5), budget=100, mode="min")
    for run in study.runs:
        live.add(run.run_id, run.params)
        for row in range(len(run.progress) - 1):
            decisions = live.report(run.run_id, run.report(row, row + 1))
            if decisions and decisions[-1].ends_trial:
                break
        else:
            live.complete(run.run_id, run.report(len(run.progress) - 1, len(run.progress)))
    policy = EarlyStopperPolicy(
        EarlyStopper(rule=make_rule("median"), rungs=(0.1, 0.5), budget=100, mode="min")
    )
    replay_study(study, policy, slots=1, order=range(12))
    replayed = [(v.trial_id, v.rung, v.action, v.reason) for v in policy.early_stopper.decisions]
    assert replayed == [(v.trial_id, v.rung, v.action, v.reason) for v in live.decisions]
    assert "stop" in {v.action for v in live.decisions}


def test_study__budget_counts_for_runs_that_ended_early() -> None:
    study = make_study(runs=4)
    short = study.runs[0]
    cut = type(short)(
        **{
            **short.__dict__,
            **{
                k: getattr(short, k)[:3]
                for k in ("step", "progress", "seconds", "loss", "grad_norm", "metric")
            },
            "final": 0.0,
        }
    )
    shorter = type(study)(study.name, study.source, study.mode, study.budget, [cut, *study.runs[1:]])
    policy = make_policy("median", shorter, Replay(rungs=(0.1,)), 0)
    assert isinstance(policy, EarlyStopperPolicy)
    outcome = replay_study(shorter, policy, slots=4, order=range(4))
    assert outcome.runs["r0"].status == "completed"
    assert policy.early_stopper.cohort.finals["r0"] == cut.last_metric != cut.final
    assert len(policy.early_stopper.cohort.trials["r0"].snapshots) == 0  # 7.5% of the budget: before its rung


def test_replay_all__audits_cost_compute() -> None:
    study = make_study(seed=2, runs=24)
    plain = replay_all([study], ["median"], Replay(orders=4))[0].score.saved
    audited = replay_all([study], ["median"], Replay(orders=4, audit=0.5))[0].score.saved
    everything = replay_all([study], ["median"], Replay(orders=4, audit=1.0))[0].score.saved
    assert plain > audited > everything == 0.0


@pytest.mark.parametrize("rule", ["median", "asha", "calibrated"])
def test_replay_all__resumed_runs_cost_compute_and_are_kept(rule: str) -> None:
    study = make_study(seed=5, runs=24, noise=2.0)
    plain = replay_all([study], [rule], Replay(orders=4))[0]
    paused = replay_all([study], [rule], Replay(orders=4, pause=True))[0]
    assert paused.score.saved < plain.score.saved
    assert paused.score.false_stop <= plain.score.false_stop
    assert paused.score.best_kept >= plain.score.best_kept
    assert all(s.reason.startswith("paused, not resumed: ") for s in paused.stops)


def test_policy__resumes_when_all_have_started_and_slots_are_free() -> None:
    study = make_study(seed=5, runs=12, noise=2.0)
    policy = make_policy("median", study, Replay(pause=True, top_fraction=0.6), 0)
    assert isinstance(policy, EarlyStopperPolicy)
    outcome = replay_study(study, policy, slots=2, order=range(12))
    paused = [v.trial_id for v in policy.early_stopper.decisions if v.action == "pause"]
    back = [n for n in dict.fromkeys(paused) if outcome.runs[n].status == "completed"]
    assert back
    latest_start = max(outcome.runs[n].finished_at or 0.0 for n in outcome.runs if n not in paused)
    assert min(outcome.runs[n].finished_at or 0.0 for n in back) > latest_start - study.runs[0].cost
    assert policy.resume(free=0) == ()
    full = {n: r for n, r in outcome.runs.items() if r.status == "completed"}
    assert all(r.spent == study.runs[int(n[1:])].cost for n, r in full.items())


def test_calibrate__bounds_the_false_stops_of_new_sweeps() -> None:
    earlier = [make_study(seed=s, name=f"s{s:02d}", points=20, noise=1.5) for s in range(30)]
    assert calibrate(earlier[:8], max_false_stop_rate=0.10, orders=1) is None
    found = calibrate(earlier, max_false_stop_rate=0.10, orders=1)
    assert found is not None
    assert found.sweeps == 30
    fresh = [make_study(seed=1000 + s, name=f"n{s:02d}", points=20, noise=1.5) for s in range(30)]
    rows = replay_all(fresh, ["calibrated"], Replay(orders=1, prior_sweeps=found))
    lost = float(np.mean([r.score.false_stop for r in rows]))
    assert lost <= 0.10 + 0.03  # 150 good runs: two standard errors of the mean over sweeps
    assert float(np.mean([r.score.saved for r in rows])) > 0.1


def test_score_outcome__of_a_small_table() -> None:
    study = make_study(runs=10)
    assert len(top_runs(study, 0.2)) == 2
    assert top_runs(study, 0.2) < top_runs(study, 0.2, noise=10.0)
    low, high = bootstrap([0.0, 1.0, 1.0, 1.0])
    assert 0.0 <= low < 0.75 < high <= 1.0
    assert repeat_noise(study) == 0.0  # no configuration was repeated
    assert math.isinf(-make_study(runs=4, bad=True).values[-1])

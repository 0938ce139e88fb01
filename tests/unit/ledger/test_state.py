"""``SweepState``: from ledger rows to the state of a sweep."""

from __future__ import annotations

import math
import tempfile
from pathlib import Path

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from support.ledger_builder import LedgerBuilder
from sweepft.ledger import Ledger, SweepState, TrialState, ranking, read_ledger, winner


def ranks(state: SweepState) -> list[tuple[int | None, str]]:
    return [(r.rank, r.trial.trial_id) for r in ranking(state)]


def trial_of(sweep: LedgerBuilder, name: str = "t0") -> TrialState:
    return sweep.state().trials[name]


def test_ranking__completed_trials_first_then_others_by_progress() -> None:
    sweep = LedgerBuilder().completed("t0", 2.0).completed("t1", 1.0)
    sweep.completed("t2", math.nan).completed("t3", None)
    sweep.trial("t4").steps("t4", 2).eval("t4", 0.1).end("t4", "stopped", 0.1)
    sweep.trial("t5").steps("t5", 5).end("t5", "failed")
    state = sweep.completed("t6", 1.0).trial("t7", start=False).state()
    expected = [(1, "t1"), (2, "t6"), (3, "t0"), *((None, t) for t in ("t2", "t3", "t5", "t4", "t7"))]
    assert ranks(state) == expected
    assert winner(state) is state.trials["t1"]
    assert state.trials["t4"].objective is None, "a partial value is never the objective"
    assert state.trials["t4"].progress == 0.2


def test_winner__none_without_a_completed_trial() -> None:
    assert winner(LedgerBuilder().trial("t0").end("t0", "stopped").state()) is None
    assert winner(SweepState()) is None
    assert ranking(SweepState()) == []


def test_leader__is_the_first_of_the_ranking_after_a_restart() -> None:
    sweep = LedgerBuilder().completed("t0", 2.0).completed("t1", 1.0)
    assert sweep.state().leader.trial_id == "t1"
    assert sweep.start("t1").state().leader.trial_id == "t0"
    assert sweep.start("t0").state().leader is None


def test_status__open_trial_runs_until_the_sweep_finishes() -> None:
    sweep = LedgerBuilder().trial("t0").steps("t0", 3)
    assert (trial_of(sweep).status, sweep.state().status) == ("running", "running")
    state = sweep.finish("interrupted", "Ctrl-C").state()
    assert (state.trials["t0"].status, state.status) == ("interrupted", "interrupted")
    state = sweep.sweep(spec={"trials": 9}).state()
    assert state.finish is None
    assert state.spec == {"trials": 9}
    assert state.trials["t0"].status == "interrupted", "resumed, but not yet started again"
    assert trial_of(sweep.start("t0", from_step=2)).status == "running"


def test_restart__keeps_the_steps_before_it() -> None:
    sweep = LedgerBuilder().trial("t0").steps("t0", 4, loss=9.0)
    sweep.eval("t0", 5.0, step=2).eval("t0", 4.0, step=4).start("t0", slot=1, from_step=2)
    trial = trial_of(sweep)
    assert trial.history["step"].tolist() == [1, 2]
    assert [e["step"] for e in trial.evals] == [2]
    trial = trial_of(sweep.steps("t0", 5, loss=1.0).eval("t0", 3.0, step=4))
    assert trial.history["step"].tolist() == [1, 2, 3, 4, 5]
    assert trial.history["loss"].tolist() == [9, 9, 1, 1, 1]
    assert [(e["step"], e["objective"]) for e in trial.evals] == [(2, 5.0), (4, 3.0)]
    assert [a.slot for a in trial.attempts] == [0, 1]


def test_restart__from_the_beginning_drops_everything_measured() -> None:
    sweep = LedgerBuilder().trial("t0").steps("t0", 4).eval("t0", 4.0).end("t0", "interrupted")
    trial = trial_of(sweep.start("t0", from_step=0))
    assert (trial.step, trial.evals, trial.reports, trial.status, trial.reason) == (
        0,
        [],
        [],
        "running",
        None,
    )


def test_restart__drops_decisions_on_steps_that_are_trained_again() -> None:
    sweep = LedgerBuilder().trial("t0").steps("t0", 3).decision("t0", "pause").start("t0", from_step=2)
    trial = trial_of(sweep)
    assert (trial.decisions, trial.status, trial.is_paused) == ([], "running", False)


def test_steps__reported_again_replace_the_earlier_ones() -> None:
    sweep = LedgerBuilder().trial("t0").steps("t0", 5, loss=9.0).steps("t0", 6, first=4, loss=1.0)
    trial = trial_of(sweep)
    assert trial.history["step"].tolist() == [1, 2, 3, 4, 5, 6]
    assert trial.history["loss"].tolist() == [9, 9, 9, 1, 1, 1]


def test_steps__missing_columns_are_nan_and_all_have_one_length() -> None:
    trial = trial_of(LedgerBuilder().trial("t0").steps("t0", 3, grad_norm=None))
    assert {len(v) for v in trial.history.values()} == {3}
    assert np.isnan(trial.history["grad_norm"]).all()


def test_reports__one_a_steps_row_with_its_blocks() -> None:
    blocks = [
        {"index": [0], "loss": [2.0], "tokens": [9]},
        {"index": [1, 2], "loss": [1.0, 0.5], "tokens": [9, 9]},
    ]
    sweep = LedgerBuilder().trial("t0").steps("t0", 2, blocks=blocks[0]).steps("t0", 5, blocks=blocks[1])
    trial = trial_of(sweep)
    assert [(r.seq, r.step) for r in trial.reports] == [(3, 2), (4, 5)]
    assert trial.blocks == {0: (2.0, 9), 1: (1.0, 9), 2: (0.5, 9)}


def test_costs__are_summed_by_trial_and_phase() -> None:
    sweep = LedgerBuilder().trial("t0")
    for phase, seconds in [("train", 2.0), ("train", 3.0), ("evaluate", 1.0)]:
        sweep.cost("t0", phase, seconds, gpus=2)
    state = sweep.cost(None, "idle", 7.0, gpus=2).fault("t0").fault(None).state()
    assert state.trials["t0"].costs == {"train": 5.0, "evaluate": 1.0}
    assert state.trials["t0"].gpu_costs == {"train": 10.0, "evaluate": 2.0}
    assert state.phases == {"train": 5.0, "evaluate": 1.0, "idle": 7.0}
    assert (len(state.costs), len(state.faults), len(state.trials["t0"].faults)) == (1, 2, 1)


def test_stopped_by__is_the_stopping_decision_and_audits_are_marked() -> None:
    sweep = LedgerBuilder().trial("t0").trial("t1")
    for t, action in [("t0", "continue"), ("t0", "stop"), ("t1", "audit"), ("t1", "continue")]:
        sweep.decision(t, action, step=1)
    state = sweep.end("t0", "stopped").end("t1", "completed", 1.0).state()
    assert state.trials["t0"].stopped_by["action"] == "stop"
    assert state.trials["t1"].stopped_by is None
    assert (state.trials["t0"].audited, state.trials["t1"].audited) == (False, True)
    assert [d["action"] for d in state.decisions] == ["continue", "stop", "audit", "continue"]


def test_pause__trial_stays_open_until_it_restarts_or_is_given_up() -> None:
    sweep = LedgerBuilder().trial("t0").steps("t0", 3).decision("t0", "pause", reason="poor")
    sweep.trial("t1").steps("t1", 3).decision("t1", "pause").finish("interrupted")
    state = sweep.state()
    trial = state.trials["t0"]
    assert (trial.status, trial.reason, trial.open, trial.pauses) == ("paused", "poor", True, 1)
    assert trial.stopped_by is trial.decisions[0]
    assert state.status == "interrupted", "and the trial is not interrupted itself"
    held = trial.attempts[0].last
    sweep.start("t0").steps("t0", 10).eval("t0", 1.0).end("t0", "completed", 1.0).end("t1", "stopped")
    back, given_up = sweep.state().trials.values()
    assert (back.status, back.pauses, [a.paused for a in back.attempts]) == ("completed", 1, [True, False])
    assert back.attempts[0].last == held, "it held no slot while it was paused"
    assert len(back.history["step"]) == 10
    assert (given_up.status, given_up.stopped_by["action"]) == ("stopped", "pause")
    assert given_up.ended > given_up.attempts[0].last


def test_lost_slot__trial_runs_on_and_keeps_what_it_reported() -> None:
    sweep = LedgerBuilder().trial("t0").steps("t0", 3).fault("t0", lost_seconds=4.0).cost("t0", "lost", 4.0)
    trial = trial_of(sweep)
    assert (trial.status, trial.step, trial.costs) == ("running", 3, {"lost": 4.0})
    trial = trial_of(sweep.start("t0", slot=1).steps("t0", 10))
    assert trial.history["step"].tolist() == list(range(1, 11))
    assert len(trial.attempts) == 2


def test_partial_result__is_dropped_at_a_resume_whatever_follows() -> None:
    """Its steps have no cost row; that of the slot lost after the resume does not close it."""
    sweep = LedgerBuilder().trial("t0").result("t0", 2).steps("t0", 5).eval("t0", 1.0).decision("t0", "pause")
    assert (trial_of(sweep).step, trial_of(sweep).status) == (5, "paused")
    trial = trial_of(sweep.sweep().cost("t0", "lost", slot=1))
    assert (trial.step, trial.samples_seen, trial.status) == (2, 20, "interrupted")
    assert (trial.evals, trial.decisions, trial.is_paused) == ([], [], False)
    assert [r.step for r in trial.reports] == [2]


def test_partial_result__is_dropped_on_request_from_an_open_sweep() -> None:
    state = LedgerBuilder().trial("t0").result("t0", 2).steps("t0", 5).completed("t1", 1.0).state()
    state.drop_partial_results()
    assert {name: trial.step for name, trial in state.trials.items()} == {"t0": 2, "t1": 10}


def test_apply__ignores_unknown_kinds_and_trials() -> None:
    sweep = LedgerBuilder().completed("t0", 1.0)
    before = ranks(sweep.state())
    sweep.rows.append({"seq": 99, "time": 1.0, "kind": "future", "trial_id": "t0"})
    sweep.end("t9", "completed", 0.1)
    assert ranks(sweep.state()) == before


def test_load__open_trials_run_while_the_driver_lives(tmp_path: Path) -> None:
    sweep = LedgerBuilder(tmp_path / "r").trial("t0")
    assert SweepState.load(tmp_path / "r").trials["t0"].status == "running"
    sweep.close()
    state = SweepState.load(tmp_path / "r")
    assert state.trials["t0"].status == "interrupted"
    assert state.status == "crashed"


@st.composite
def sweeps(draw: st.DrawFn) -> LedgerBuilder:
    """Sweeps of several trials whose rows interleave, with restarts, evals and ends of every kind."""
    sweep = LedgerBuilder()
    done: dict[str, int] = {}
    for _ in range(draw(st.integers(0, 25))):
        t = f"t{draw(st.integers(0, 4))}"
        if t not in done:
            sweep.trial(t)
            done[t] = 0
            continue
        act = draw(st.sampled_from(["steps", "eval", "restart", "end", "finish"]))
        if act == "steps" and done[t] < 10:
            done[t] = draw(st.integers(done[t] + 1, 10))
            sweep.steps(t, done[t])
        elif act == "eval":
            sweep.eval(t, draw(st.floats(0, 9)))
        elif act == "restart":
            done[t] = draw(st.integers(0, done[t]))
            sweep.start(t, from_step=done[t])
        elif act == "end":
            status = draw(st.sampled_from(["completed", "stopped", "diverged", "failed", "interrupted"]))
            sweep.end(t, status, draw(st.none() | st.floats()))
        elif act == "finish":
            sweep.finish()
    return sweep


@settings(deadline=None, max_examples=80)
@given(sweeps())
def test_state__history_has_no_gaps_and_the_ranking_is_complete(sweep: LedgerBuilder) -> None:
    state = sweep.state()
    for trial in state.trials.values():
        steps = trial.history["step"].tolist()
        assert steps == list(range(1, len(steps) + 1))
        assert all(e["step"] <= max(trial.step, 0) or not steps for e in trial.evals)
        assert (trial.objective is None) or trial.status == "completed"
    order = ranking(state)
    assert sorted(r.trial.trial_id for r in order) == sorted(state.trials)
    ranked = [r for r in order if r.rank is not None]
    assert [r.rank for r in ranked] == list(range(1, len(ranked) + 1))
    assert order[: len(ranked)] == ranked
    values = [r.trial.objective for r in ranked]
    assert values == sorted(values)
    assert np.isfinite(values).all()
    assert state.leader is (ranked[0].trial if ranked else None)


@settings(deadline=None, max_examples=20)
@given(sweeps())
def test_state__folded_while_writing_equals_folded_from_the_file(sweep: LedgerBuilder) -> None:
    with tempfile.TemporaryDirectory() as folder:
        live = SweepState()
        with Ledger.create(folder) as ledger:
            for row in sweep.rows:
                fields = {k: v for k, v in row.items() if k not in ("seq", "time", "kind")}
                live.apply(ledger.append(row["kind"], **fields))
        later = SweepState.from_rows(read_ledger(folder))
    assert repr(live) == repr(later)
    for name, trial in live.trials.items():
        for key, values in trial.history.items():
            np.testing.assert_array_equal(values, later.trials[name].history[key])

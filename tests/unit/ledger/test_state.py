"""The fold from rows to the state of a sweep, told as small stories of rows."""

from __future__ import annotations

import math
from itertools import count
from pathlib import Path

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from sweepft.ledger import Ledger, SweepState, complete_results, read_ledger
from sweepft.ledger.rows import complete_fields


class Story:
    """Writes rows as a driver would, without a disk."""

    def __init__(self, budget: int = 100) -> None:
        self.rows: list[dict] = []
        self._clock = count(1000)
        self.tell(
            "sweep", name="s", spec={}, spec_digest="", seed=0, budget_samples=budget, sweepft_version="0"
        )

    def tell(self, kind: str, **fields: object) -> Story:
        row = {"seq": len(self.rows), "time": float(next(self._clock)), "kind": kind}
        self.rows.append(row | complete_fields(kind, fields))
        return self

    def trial(self, t: str, start: bool = True) -> Story:
        number = int(t[1:])
        self.tell(
            "trial",
            trial_id=t,
            number=number,
            params={"lr": number},
            train_config={},
            origin="sampler",
            planned_steps=10,
            warmup_steps=0,
        )
        return self.tell("start", trial_id=t, attempt=0, slot=0) if start else self

    def steps(self, t: str, first: int, last: int, attempt: int = 0, loss: float = 1.0) -> Story:
        n = np.arange(first, last + 1)
        history = {"step": n, "samples_seen": n * 10, "tokens_seen": n * 100, "loss": n * 0 + loss}
        history = {k: v.tolist() for k, v in history.items()}
        return self.tell("steps", trial_id=t, attempt=attempt, history=history)

    def eval(self, t: str, step: int, value: float, final: bool = False) -> Story:
        return self.tell(
            "eval",
            trial_id=t,
            attempt=0,
            step=step,
            samples_seen=step * 10,
            rung=step / 10,
            final=final,
            objective=value,
            sets={"math": {"loss": value, "stderr": 0.1, "tokens": 5, "samples": 2}},
        )

    def end(self, t: str, status: str, objective: float | None = None, step: int = 10) -> Story:
        return self.tell(
            "end",
            trial_id=t,
            attempt=0,
            status=status,
            reason="because",
            objective=objective,
            step=step,
            samples_seen=step * 10,
            tokens_seen=step * 100,
        )

    def completed(self, t: str, objective: float | None) -> Story:
        return self.trial(t).steps(t, 1, 10).end(t, "completed", objective)

    def view(self) -> SweepState:
        return SweepState.from_rows(self.rows)


def ranks(view: SweepState) -> list[tuple[int | None, str]]:
    return [(r.rank, r.trial.trial_id) for r in view.ranking()]


def test_completed_trials_are_ranked_the_others_stand_by_how_far_they_came() -> None:
    story = Story().completed("t0", 2.0).completed("t1", 1.0).completed("t2", math.nan).completed("t3", None)
    story.trial("t4").steps("t4", 1, 2).eval("t4", 2, 0.1).end("t4", "stopped", 0.1, step=2)
    story.trial("t5").steps("t5", 1, 5).end("t5", "failed", step=5)
    story.completed("t6", 1.0).trial("t7", start=False)
    view = story.view()
    expected = [(1, "t1"), (2, "t6"), (3, "t0"), *((None, t) for t in ("t2", "t3", "t5", "t4", "t7"))]
    assert ranks(view) == expected
    assert view.best.trial_id == "t1"
    assert view.trials["t4"].objective is None, "a partial value is never the objective"
    assert view.trials["t4"].reach == 0.2


def test_a_sweep_without_a_completed_trial_has_no_best() -> None:
    assert Story().trial("t0").end("t0", "stopped").view().best is None
    assert SweepState.from_rows([]).best is None
    assert SweepState.from_rows([]).ranking() == []


def test_a_trial_without_an_end_is_running_until_the_sweep_finishes() -> None:
    story = Story().trial("t0").steps("t0", 1, 3)
    assert story.view().trials["t0"].status == "running"
    assert story.view().status == "running"
    story.tell("finish", status="interrupted", reason="Ctrl-C")
    view = story.view()
    assert (view.trials["t0"].status, view.status) == ("interrupted", "interrupted")
    story.tell("sweep", **{k: story.rows[0][k] for k in ("name", "spec_digest", "seed", "sweepft_version")},
               spec={"trials": 9}, budget_samples=100, resumed=True)  # fmt: skip
    view = story.view()
    assert view.finish is None
    assert view.spec == {"trials": 9}
    assert view.trials["t0"].status == "interrupted", "resumed, but not yet taken up again"
    story.tell("start", trial_id="t0", attempt=1, slot=0, from_step=2)
    assert story.view().trials["t0"].status == "running"


def test_a_restart_keeps_the_steps_it_goes_on_from() -> None:
    story = Story().trial("t0").steps("t0", 1, 4, loss=9).eval("t0", 2, 5.0).eval("t0", 4, 4.0)
    story.tell("start", trial_id="t0", attempt=1, slot=1, from_step=2)
    trial = story.view().trials["t0"]
    assert trial.history["step"].tolist() == [1, 2]
    assert [e["step"] for e in trial.evals] == [2]
    trial = story.steps("t0", 3, 5, attempt=1, loss=1).eval("t0", 4, 3.0).view().trials["t0"]
    assert trial.history["step"].tolist() == [1, 2, 3, 4, 5]
    assert trial.history["loss"].tolist() == [9, 9, 1, 1, 1]
    assert [(e["step"], e["objective"]) for e in trial.evals] == [(2, 5.0), (4, 3.0)]
    assert [a.slot for a in trial.attempts] == [0, 1]


def test_a_restart_from_the_beginning_forgets_everything_measured() -> None:
    story = Story().trial("t0").steps("t0", 1, 4).eval("t0", 4, 4.0).end("t0", "interrupted", step=4)
    story.tell("start", trial_id="t0", attempt=1, slot=0, from_step=0)
    trial = story.view().trials["t0"]
    assert (trial.step, trial.evals, trial.status, trial.reason) == (0, [], "running", None)


def test_steps_told_again_replace_the_earlier_ones() -> None:
    trial = Story().trial("t0").steps("t0", 1, 5, loss=9).steps("t0", 4, 6, loss=1).view().trials["t0"]
    assert trial.history["step"].tolist() == [1, 2, 3, 4, 5, 6]
    assert trial.history["loss"].tolist() == [9, 9, 9, 1, 1, 1]


def test_what_was_not_reported_is_nan_and_columns_stay_equal() -> None:
    trial = Story().trial("t0").steps("t0", 1, 3).view().trials["t0"]
    assert {len(v) for v in trial.history.values()} == {3}
    assert np.isnan(trial.history["grad_norm"]).all()


def test_costs_and_faults_are_summed_by_trial_and_phase() -> None:
    story = Story().trial("t0")
    for phase, seconds in [("train", 2.0), ("train", 3.0), ("evaluate", 1.0)]:
        story.tell("cost", trial_id="t0", slot=0, phase=phase, seconds=seconds, gpus=2)
    story.tell("cost", trial_id=None, slot=0, phase="idle", seconds=7.0, gpus=2)
    fault = {"slot": 0, "rank": 1, "error": "RankFailed", "message": "m", "action": "retry"}
    story.tell("fault", trial_id="t0", **fault).tell("fault", trial_id=None, **fault)
    view = story.view()
    assert view.trials["t0"].costs == {"train": 5.0, "evaluate": 1.0}
    assert view.trials["t0"].gpu_costs == {"train": 10.0, "evaluate": 2.0}
    assert view.phases == {"train": 5.0, "evaluate": 1.0, "idle": 7.0}
    assert (len(view.costs), len(view.faults), len(view.trials["t0"].faults)) == (1, 2, 1)


def test_the_verdict_that_stopped_a_trial_is_found_and_audits_are_told() -> None:
    story = Story().trial("t0").trial("t1")
    for t, action in [("t0", "continue"), ("t0", "stop"), ("t1", "audit"), ("t1", "continue")]:
        story.tell(
            "decision",
            trial_id=t,
            step=1,
            samples_seen=10,
            rung=0.1,
            action=action,
            rule="median",
            reason=action,
        )
    story.end("t0", "stopped").end("t1", "completed", 1.0)
    view = story.view()
    assert view.trials["t0"].stopped_by["action"] == "stop"
    assert view.trials["t1"].stopped_by is None
    assert (view.trials["t0"].audited, view.trials["t1"].audited) == (False, True)


def pause(story: Story, t: str, step: int) -> Story:
    return story.tell(
        "decision", trial_id=t, step=step, samples_seen=step * 10, rung=step / 10, action="pause", rule="median",
        reason="poor",
    )  # fmt: skip


def test_a_parked_trial_is_open_until_it_comes_back_or_the_sweep_gives_it_up() -> None:
    story = pause(Story().trial("t0").steps("t0", 1, 3), "t0", 3)
    pause(story.trial("t1").steps("t1", 1, 3), "t1", 3).tell("finish", status="interrupted")
    view = SweepState.from_rows(story.rows)
    trial = view.trials["t0"]
    assert (trial.status, trial.reason, trial.open, trial.pauses) == ("paused", "poor", True, 1)
    assert trial.stopped_by is trial.decisions[0]
    assert view.status == "interrupted", "and is not taken for interrupted itself"
    held = trial.attempts[0].last
    story.tell("start", trial_id="t0", attempt=1, slot=0, from_step=3).steps("t0", 4, 10, attempt=1)
    story.eval("t0", 10, 1.0, final=True).end("t0", "completed", 1.0).end("t1", "stopped", step=3)
    back, given_up = SweepState.from_rows(story.rows).trials.values()
    assert (back.status, back.pauses, [a.paused for a in back.attempts]) == ("completed", 1, [True, False])
    assert back.attempts[0].last == held, "it held no slot while it was parked"
    assert len(back.history["step"]) == 10
    assert (given_up.status, given_up.stopped_by["action"]) == ("stopped", "pause")
    assert given_up.ended > given_up.attempts[0].last


def test_a_trial_that_lost_its_slot_runs_on_and_keeps_what_it_had_reported() -> None:
    story = Story().trial("t000").steps("t000", 1, 3)
    story.tell(
        "fault", trial_id="t000", slot=0, rank=None, error="CoordinatorDied", message="gone",
        action="tried again", lost_seconds=4.0,
    )  # fmt: skip
    story.tell("cost", trial_id="t000", slot=0, phase="lost", seconds=4.0)
    trial = SweepState.from_rows(story.rows).trials["t000"]
    assert (trial.status, trial.step, trial.costs) == ("running", 3, {"lost": 4.0})
    story.tell("start", trial_id="t000", attempt=1, slot=1, from_step=3).steps("t000", 4, 10, attempt=1)
    trial = SweepState.from_rows(story.rows).trials["t000"]
    assert trial.history["step"].tolist() == list(range(1, 11))
    assert len(trial.attempts) == 2


def test_a_result_cut_by_a_crash_stays_cut_whatever_follows_in_the_next_session() -> None:
    """Its steps have no cost row; that of the slot lost after the resume is not theirs."""
    story = Story().trial("t000").steps("t000", 1, 2)
    story.tell("cost", trial_id="t000", slot=0, phase="train", seconds=1.0).steps("t000", 3, 5)
    story.rows.append({**story.rows[0], "resumed": True})
    story.tell("cost", trial_id="t000", slot=1, phase="lost", seconds=1.0)
    rows, reported = complete_results(story.rows)
    assert reported == {"t000": 20}
    assert [row["history"]["step"] for row in rows if row["kind"] == "steps"] == [[1, 2]]


def test_a_verdict_on_steps_that_are_trained_again_is_forgotten_with_them() -> None:
    story = pause(Story().trial("t0").steps("t0", 1, 3), "t0", 3)
    trial = SweepState.from_rows(
        story.tell("start", trial_id="t0", attempt=1, slot=0, from_step=2).rows
    ).trials["t0"]
    assert (trial.decisions, trial.status) == ([], "running")


def test_a_row_of_an_unknown_kind_or_trial_does_no_harm() -> None:
    story = Story().completed("t0", 1.0)
    before = ranks(story.view())
    story.rows.append({"seq": 99, "time": 1.0, "kind": "command", "trial_id": "t0"})
    story.end("t9", "completed", 0.1)
    assert ranks(story.view()) == before


def test_a_dead_drivers_open_trials_are_interrupted_a_living_ones_are_running(tmp_path: Path) -> None:
    run = tmp_path / "r"
    with Ledger.create(run) as ledger:
        for row in Story().trial("t0").rows:
            ledger.append(row["kind"], **{k: v for k, v in row.items() if k not in ("seq", "time", "kind")})
        assert SweepState.load(run).trials["t0"].status == "running"
    view = SweepState.load(run)
    assert view.trials["t0"].status == "interrupted"
    assert view.status == "crashed"


@st.composite
def stories(draw: st.DrawFn) -> Story:
    """Sweeps of several trials whose rows interleave, with restarts, evals and ends of every kind."""
    story = Story()
    done: dict[str, int] = {}
    for _ in range(draw(st.integers(0, 25))):
        t = f"t{draw(st.integers(0, 4))}"
        if t not in done:
            story.trial(t)
            done[t] = 0
            continue
        act = draw(st.sampled_from(["steps", "eval", "restart", "end", "finish"]))
        if act == "steps" and done[t] < 10:
            last = draw(st.integers(done[t] + 1, 10))
            story.steps(t, done[t] + 1, last)
            done[t] = last
        elif act == "eval":
            story.eval(t, done[t], draw(st.floats(0, 9)))
        elif act == "restart":
            done[t] = draw(st.integers(0, done[t]))
            story.tell("start", trial_id=t, attempt=1, slot=0, from_step=done[t])
        elif act == "end":
            status = draw(st.sampled_from(["completed", "stopped", "diverged", "failed", "interrupted"]))
            story.end(t, status, draw(st.none() | st.floats()), step=done[t])
        elif act == "finish":
            story.tell("finish", status="finished")
    return story


@settings(deadline=None, max_examples=80)
@given(stories())
def test_whatever_happened_the_history_is_gapless_and_the_ranking_complete(story: Story) -> None:
    view = story.view()
    for trial in view.trials.values():
        steps = trial.history["step"].tolist()
        assert steps == list(range(1, len(steps) + 1))
        assert all(e["step"] <= max(trial.step, 0) or not steps for e in trial.evals)
        assert (trial.objective is None) or trial.status == "completed"
    order = view.ranking()
    assert sorted(r.trial.trial_id for r in order) == sorted(view.trials)
    ranked = [r for r in order if r.rank is not None]
    assert [r.rank for r in ranked] == list(range(1, len(ranked) + 1))
    assert order[: len(ranked)] == ranked
    values = [r.trial.objective for r in ranked]
    assert values == sorted(values)
    assert np.isfinite(values).all()


@settings(deadline=None, max_examples=20)
@given(stories())
def test_folding_row_by_row_on_disk_gives_the_same_state(story: Story) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        live = SweepState()
        with Ledger.create(folder) as ledger:
            for row in story.rows:
                fields = {k: v for k, v in row.items() if k not in ("seq", "time", "kind")}
                live.apply(ledger.append(row["kind"], **fields))
        later = SweepState.from_rows(read_ledger(folder))
    assert repr(live) == repr(later)
    for name, trial in live.trials.items():
        for key, values in trial.history.items():
            np.testing.assert_array_equal(values, later.trials[name].history[key])

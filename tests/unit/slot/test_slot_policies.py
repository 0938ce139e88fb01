"""Report points, which weights to keep, and when to write a checkpoint."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sweepft.ledger import Objective
from sweepft.slot.checkpoints import (
    CheckpointPolicy,
    is_paused,
    mark_paused,
    mark_resumed,
    newest_checkpoint,
    pause_requested,
    remove_checkpoints,
    request_pause,
)
from sweepft.slot.jobs import report_points
from sweepft.slot.weight_retention import KeepPolicy


@given(
    budget=st.integers(1, 5000),
    batch=st.integers(1, 6000),
    rungs=st.lists(st.floats(0.01, 0.99), max_size=4, unique=True),
)
@settings(deadline=None, max_examples=200)
def test_report_points__ascend_and_hold_every_rung(budget, batch, rungs):
    points = report_points(budget, rungs, batch)
    samples = [p.samples for p in points]
    assert samples == sorted(set(samples))
    assert points[-1].samples == budget
    assert points[-1].rung == 1.0
    for point in points[:-1]:
        assert point.samples % batch == 0
    for rung in rungs:
        reached = next(p for p in points if p.samples >= rung * budget * (1 - 1e-9))
        assert reached.rung is not None
        assert reached.rung >= rung


def test_report_points__rung_at_its_first_step():
    points = report_points(2048, [0.1, 0.25], 32)
    assert [(p.samples, p.rung) for p in points if p.rung] == [(224, 0.1), (512, 0.25), (2048, 1.0)]


@pytest.mark.parametrize(
    ("steps", "reports"),
    [(1, 1), (2, 1), (5, 1), (6, 2), (30, 10), (60, 20), (61, 20), (10_000, 20)],
)
def test_report_points__at_most_twenty_and_every_third_step(steps, reports):
    assert len(report_points(steps * 8, [], 8)) == reports


@pytest.mark.parametrize(
    ("top", "random", "kept"),
    [(0, 0, set()), (1, 0, {"b"}), (2, 0, {"a", "b"}), (9, 0, {"a", "b", "c"})],
)
def test_choose_trials__keeps_the_best(tmp_path, top, random, kept):
    standings = {"a": (0.0, 2.0), "b": (0.0, 1.0), "c": (0.0, 3.0)}
    assert KeepPolicy(str(tmp_path), "", top, random).chosen(standings) == kept


def test_choose_trials__draw_is_independent_of_order(tmp_path):
    plan = KeepPolicy(str(tmp_path), "", top=0, random=2, seed=5)
    objectives = {f"t{i}": (0.0, float(i)) for i in range(20)}
    final = plan.chosen(objectives)
    assert len(final) == 2
    backwards = dict(reversed(objectives.items()))
    assert plan.chosen(backwards) == final
    assert final != KeepPolicy(str(tmp_path), "", 0, 2, seed=7).chosen(objectives)


@given(
    values=st.lists(st.floats(0, 1), min_size=1, max_size=12, unique=True),
    top=st.integers(0, 3),
    lots=st.integers(0, 3),
    finalists=st.tuples(st.integers(0, 3), st.integers(0, 3)),
)
def test_choose_trials__final_choice_was_always_kept(values, top, lots, finalists):
    """Also of a smaller choice with the same lot: that of the finalists, of whom weights are kept."""
    kept = KeepPolicy("", "", max(top, finalists[0]), max(lots, finalists[1]))
    objectives = {f"t{i}": (0.0, value) for i, value in enumerate(values)}
    chosen = KeepPolicy("", "", *finalists).chosen(objectives)
    assert len(chosen) == min(len(values), sum(finalists)), "lots are drawn among the others"
    for i in range(len(values)):
        so_far = dict(list(objectives.items())[: i + 1])
        assert chosen & so_far.keys() <= kept.chosen(so_far)


def test_keep_policy__removes_overtaken_weights(tmp_path):
    plan = KeepPolicy(str(tmp_path / "weights"), "", top=1)
    assert plan.wanted("t0", 9.0), "the first is always among the best"
    plan.settle({"t0": (0.0, 9.0)})
    (tmp_path / "weights" / "t0").mkdir()
    assert not plan.wanted("t1", 9.5)
    assert plan.wanted("t2", 8.0)
    highest = KeepPolicy(str(tmp_path / "weights"), "", top=1, objective=Objective(maximize=True))
    highest.settle({"t0": (0.0, highest.objective.cost(0.6))})
    assert highest.wanted("t1", 0.7)
    assert not highest.wanted("t1", 0.5)
    (tmp_path / "weights" / "t2").mkdir()
    plan.settle({"t0": (0.0, 9.0), "t1": (0.0, 9.5), "t2": (0.0, 8.0)})
    assert [p.name for p in (tmp_path / "weights").iterdir() if p.is_dir()] == ["t2"]


def test_keep_policy__with_bounds_keeps_the_best_that_meets_them_and_the_front(tmp_path):
    policy = KeepPolicy(str(tmp_path), "", top=1, bounded=("retention",))
    assert policy.wanted("t0", 9.0, {"retention": 9.0}), "the base model's loss is not known yet"
    standings = {"t0": (0.0, 2.0, 1.0), "t1": (0.5, 1.0, 2.0)}
    assert policy.settle(standings, None) == standings, "all stay until it is"
    assert set(policy.settle(standings, {"retention": 1.5})) == {"t0"}
    assert not policy.wanted("t2", 1.5, {"retention": 1.6})
    assert policy.wanted("t2", 1.5, {"retention": 1.5})
    points = {f"t{i}": (0.0, float(i), 5.0 - i) for i in range(6)} | {"worse": (0.0, 4.0, 4.0)}
    front = KeepPolicy("", "", top=0, pareto=3, bounded=("retention",)).chosen(points)
    assert front == {"t0", "t2", "t5"}, "spread over the front, with its ends"


@pytest.mark.parametrize(
    ("plan", "trained", "stalled", "written", "due"),
    [
        (CheckpointPolicy("", "none"), 1e9, 0.0, 0.0, False),
        (CheckpointPolicy("", "rungs"), 0.0, 1e9, 1e9, True),
        (CheckpointPolicy("", "every", 600.0), 599.0, 0.0, 0.0, False),
        (CheckpointPolicy("", "every", 600.0), 600.0, 0.0, 0.0, True),
        (CheckpointPolicy("", "auto"), 100.0, 5.0, 100.0, True),
        (CheckpointPolicy("", "auto"), 100.0, 5.1, 0.0, False),
        (CheckpointPolicy("", "auto"), 100.0, 0.1, 101.0, False),
    ],
)
def test_checkpoint_policy__due(plan, trained, stalled, written, due):
    assert plan.due(trained, stalled, written) is due


def test_newest_checkpoint__complete_and_not_ahead(tmp_path):
    for samples, complete in ((100, True), (200, True), (300, False), (400, True)):
        (tmp_path / str(samples)).mkdir()
        if complete:
            (tmp_path / str(samples) / "complete.json").touch()
    assert newest_checkpoint(tmp_path, at_most=350) == tmp_path / "200"
    assert newest_checkpoint(tmp_path, at_most=50) is None
    remove_checkpoints(tmp_path)
    assert newest_checkpoint(tmp_path, at_most=1000) is None


def test_mark_paused__kept_beside_the_checkpoints(tmp_path):
    folder = tmp_path / "checkpoints" / "t000"
    assert not is_paused(folder)
    mark_resumed(folder)  # of a trial that was never paused: nothing to take back
    mark_paused(folder)
    (folder / "256").mkdir()
    (folder / "256" / "complete.json").touch()
    assert is_paused(folder)
    assert newest_checkpoint(folder, at_most=300) == folder / "256"
    mark_resumed(folder)
    assert not is_paused(folder)
    assert newest_checkpoint(folder, at_most=300) == folder / "256", "what it comes back from is still there"
    mark_paused(folder)
    remove_checkpoints(folder)
    assert not folder.exists()


def test_mark_paused__unwritable_folder_raises_nothing(tmp_path):
    (tmp_path / "file").touch()
    mark_paused(tmp_path / "file" / "t000")
    mark_resumed(tmp_path / "file" / "t000")
    assert not is_paused(tmp_path / "file" / "t000")


def test_request_pause__unwritable_folder_raises_nothing(tmp_path):
    request_pause(tmp_path / "checkpoints", True)
    assert pause_requested(tmp_path / "checkpoints")
    request_pause(tmp_path / "checkpoints", False)
    assert not pause_requested(tmp_path / "checkpoints")
    (tmp_path / "file").touch()
    for wanted in (True, False):
        request_pause(tmp_path / "file" / "checkpoints", wanted)  # as on a disk that is read-only

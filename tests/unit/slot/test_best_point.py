"""The best evaluation of a trial: which one it is, when patience ends a trial, and where its weights come from."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from support.ledger_builder import LedgerBuilder
from sweepft.early_stopping import value_so_far
from sweepft.evaluation import EvalTask
from sweepft.ledger import Objective
from sweepft.ledger.objective import VALIDATION_LOSS
from sweepft.slot.best_point import BestPoint, best_point_of, better_of, out_of_patience
from sweepft.slot.checkpoints import mark_exempt
from sweepft.slot.jobs import ObjectiveTask, TrialJob
from sweepft.slot.state import PhaseClock
from sweepft.slot.trial_run import TrialRun
from sweepft.slot.weight_retention import KeepPolicy


def best_of(
    *losses: float,
    kept: tuple[float, ...] = (),
    limits: dict[str, float] | None = None,
    objective: Objective = VALIDATION_LOSS,
) -> Any:
    best = None
    for i, loss in enumerate(losses, 1):
        sets = {"own": loss} | ({"kept": kept[i - 1]} if kept else {})
        best = better_of(best, BestPoint(i, 10 * i, loss, sets), limits or {}, objective)
    return best and (best.step, best.since)


@pytest.mark.parametrize(
    ("losses", "found"),
    [
        ((3.0, 2.0, 2.5), (2, 1)),
        ((3.0, 2.0, 2.0), (2, 1)),  # of equal ones the earlier
        ((3.0, math.nan, 2.9), (3, 0)),
        ((math.nan, math.inf), None),
        ((1.0, math.nan), (1, 1)),
    ],
)
def test_better_of__is_the_lowest_finite_objective(losses: tuple[float, ...], found: Any) -> None:
    assert best_of(*losses) == found


def test_better_of__is_the_highest_of_a_task_to_maximize() -> None:
    assert best_of(0.3, 0.5, 0.4, objective=Objective(maximize=True, task="sums", metric="acc")) == (2, 1)


def test_better_of__meets_bounds_first() -> None:
    limits = {"kept": 1.0}
    assert best_of(3.0, 2.0, 1.0, kept=(0.9, 0.95, 1.5), limits=limits) == (2, 1)
    assert best_of(3.0, 2.0, 2.5, kept=(1.5, 1.2, 1.1), limits=limits) == (3, 0), (
        "the nearest where none does"
    )


def test_out_of_patience__counts_evaluations_since_the_best() -> None:
    best = BestPoint(5, 50, 2.0, {}, since=2)
    assert out_of_patience(best, 3) is None
    assert out_of_patience(best, None) is None
    assert out_of_patience(None, 1) is None
    assert "2 evaluations without a better one than 2 at step 5" in (out_of_patience(best, 2) or "")


def test_best_point_of__ledger_has_what_a_resumed_trial_needs() -> None:
    sweep = LedgerBuilder().trial("t0")
    for step, value, counts in ((2, 3.0, True), (4, 2.0, True), (6, 2.5, False)):
        sweep.steps("t0", step).eval("t0", value, counts=counts).cost("t0")
    trial = sweep.state().trials["t0"]
    assert best_point_of(trial) == BestPoint(4, 40, 2.0, {"math": 2.0}, since=1)
    assert (trial.counted or {})["step"] == 4
    assert [trial.counted_at(row)["objective"] for row in trial.evals] == [3.0, 2.0, 2.0]
    assert trial.losses == {"math": 2.0}


class Ranks:
    """Ranks whose validation loss is given; their weights are the number of samples seen."""

    def __init__(self, losses: dict[int, float], *, memory: bool = True) -> None:
        self.losses, self.memory = losses, memory
        self.samples, self.kept = 0, -1
        self.exported: int | None = None
        self.starts = 0

    def start(self, train_config: Any) -> dict[str, Any]:
        self.samples, self.kept = 0, -1
        self.starts += 1
        return {
            "narrow": None, "plain_kernels": None, "warm": True, "switch_seconds": 0.0, "nodes": [], "from_step": 0,
            "phase_starts": [], "data_order": "x",
        }  # fmt: skip

    def run(self, until: int, timeout: float, hang_seconds: float = 60.0) -> dict[str, Any]:
        self.samples = until
        history = {"step": [until], "samples_seen": [until], "seconds": [1.0]}
        return {"history": history, "blocks": {}, "diverged": None, "seconds": 1.0, "waited": 0.0}

    def evaluate(self, timeout: float) -> dict[str, Any]:
        loss = self.losses[self.samples]
        return {"objective": loss, "sets": {"own": {"loss": loss}}, "seconds": 0.1}

    def keep_weights(self, timeout: float) -> dict[str, Any]:
        self.kept = self.samples if self.memory else -1
        return {"seconds": 0.0}

    def use_kept_weights(self, samples: int, timeout: float) -> dict[str, Any]:
        found = samples == self.kept
        self.samples = samples if found else self.samples
        return {"found": found, "seconds": 0.0}

    def export(self, folder: str, tokenizer: str, timeout: float) -> dict[str, Any]:
        self.exported = self.samples
        return {"seconds": 0.0}


def trial_run(tmp_path: Path, ranks: Ranks, **job: Any) -> TrialRun:
    """A trial of 8 samples, evaluated at each second one."""
    engine = SimpleNamespace(budget_samples=8, rungs=(0.25, 0.5, 0.75), micro_batch=1)
    policy = SimpleNamespace(folder=str(tmp_path / "checkpoints"), policy="none", due=lambda *a, **k: False)
    config = SimpleNamespace(
        engine=engine, checkpoints=policy, patience=60.0, hang_seconds=5.0, at_best=True, objective=None, measured=(),
        keep=KeepPolicy(str(tmp_path / "weights"), "tokenizer"),
    )  # fmt: skip
    slot: Any = SimpleNamespace(
        config=config,
        group=ranks,
        clock=PhaseClock(),
        start=ranks.start,
        name="0",
        nodes=(),
        gpus=[],
        checkpoint_seconds=None,
    )
    train_config: Any = SimpleNamespace(batch_size=2, warmup_steps=0, planned_steps=4)
    return TrialRun(slot, TrialJob("t000", 0, {}, train_config, **job))


def results(run: TrialRun) -> list[dict[str, Any]]:
    found = [run.advance()]
    while not found[-1]["done"]:
        found.append(run.advance())
    return found


LOSSES = {2: 3.0, 4: 2.0, 6: 2.5, 8: 2.6}


@pytest.mark.parametrize("memory", [True, False], ids=["copied", "trained again"])
def test_trial_run__exports_the_weights_of_its_best_evaluation(tmp_path: Path, memory: bool) -> None:
    ranks = Ranks(LOSSES, memory=memory)
    found = results(trial_run(tmp_path, ranks))
    assert [r["objective"] for r in found] == list(LOSSES.values())
    assert [(r["best_objective"], r["best_is_new"]) for r in found] == [
        (3.0, True), (2.0, True), (2.0, False), (2.0, False),
    ]  # fmt: skip
    assert ranks.exported == 4
    assert ranks.starts == (1 if memory else 2)


@pytest.mark.parametrize("exempt", [False, True])
def test_trial_run__patience_completes_a_trial(tmp_path: Path, exempt: bool) -> None:
    ranks = Ranks(LOSSES)
    if exempt:
        mark_exempt(tmp_path / "checkpoints" / "t000")
    last = results(trial_run(tmp_path, ranks, patience=1))[-1]
    assert ("patience" in last) is not exempt
    assert last["samples_seen"] == (8 if exempt else 6)
    assert ranks.exported == 4


def test_trial_run__resumed_trial_knows_its_best_evaluation(tmp_path: Path) -> None:
    """It was resumed behind its best evaluation: training up to its place makes the copy again."""
    ranks = Ranks(LOSSES)
    best = BestPoint(4, 4, 2.0, {"own": 2.0}, since=1)
    last = results(trial_run(tmp_path, ranks, reported_samples=6, best=best))[-1]
    assert (last["best_objective"], last["best_step"]) == (2.0, 4)
    assert (ranks.exported, ranks.starts) == (4, 1)


def test_trial_run__weights_that_are_not_wanted_are_not_copied(tmp_path: Path) -> None:
    ranks = Ranks(LOSSES)
    run = trial_run(tmp_path, ranks)
    KeepPolicy(str(tmp_path / "weights"), "tokenizer").settle({"t009": (0.0, 1.0)}, {})
    results(run)
    assert (ranks.exported, ranks.kept) == (None, -1)


def test_trial_run__compares_only_evaluations_where_all_that_is_bounded_was_measured(tmp_path: Path) -> None:
    """The best loss, at a rung without the bounded task, is not known to meet the bound."""
    run = trial_run(tmp_path, Ranks(LOSSES), objective_rungs=(0.75,), limits={"gsm": -0.3}, keep_weights=True)
    config: Any = run._slot.config
    config.keep = KeepPolicy(str(tmp_path / "weights"), "tokenizer", bounded=("gsm",))
    config.measured = (ObjectiveTask(EvalTask("gsm"), "acc", ""),)
    scores = iter([0.4, 0.2])
    ranks: Any = run._slot.group
    ranks.measure = lambda *_: {"value": next(scores), "stderr": 0.1, "items": 9, "seconds": 1.0}
    found = results(run)
    assert [result["best_is_new"] for result in found] == [False, False, True, False]
    assert (found[-1]["best_objective"], found[-1]["best_sets"]["gsm"]) == (2.5, {"loss": -0.4})


def test_trial_run__an_evaluation_that_is_not_compared_gives_the_best_so_far(tmp_path: Path) -> None:
    best = BestPoint(2, 4, 3.5, {"own": 3.5, "gsm": -0.4})
    run = trial_run(
        tmp_path, Ranks(LOSSES), objective_rungs=(), limits={"gsm": -0.3}, best=best, reported_samples=4
    )
    config: Any = run._slot.config
    config.keep = KeepPolicy(str(tmp_path / "weights"), "tokenizer", bounded=("gsm",))
    found = run.advance()
    assert (found["objective"], found["best_objective"], found["best_is_new"]) == (2.5, 3.5, False)
    assert value_so_far(found)["objective"] == 3.5


def test_best_point_of__knows_which_evaluations_were_compared() -> None:
    gsm = {"gsm": {"value": 0.4, "stderr": 0.1, "items": 9, "seconds": 1.0, "higher_is_better": True}}
    sweep = LedgerBuilder().trial("t0").steps("t0", 2).eval("t0", 1.0, counts=False).cost("t0")
    assert best_point_of(sweep.state().trials["t0"], ["gsm"]) is None
    sweep.steps("t0", 4).eval("t0", 2.0, tasks=gsm).cost("t0")
    sweep.steps("t0", 6).eval("t0", 1.5, counts=False).cost("t0")
    sweep.steps("t0", 8).eval("t0", 2.5, counts=False, tasks=gsm).cost("t0")
    found = best_point_of(sweep.state().trials["t0"], ["gsm"])
    assert found == BestPoint(4, 40, 2.0, {"math": 2.0, "gsm": -0.4}, since=1)

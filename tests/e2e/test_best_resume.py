"""A driver is killed in a sweep whose trials count by their best evaluation, and resumed: the sweep ends as an
undisturbed one, with the same ranking, values and weights.
"""

from __future__ import annotations

import pytest
from test_best_evaluation import overfitting_spec
from test_resume import finish, kill_after, sweepft

from support.faults import story
from sweepft.ledger import SweepState, ranking, read_ledger, winner

pytestmark = [pytest.mark.full, pytest.mark.timeout(1800)]


def places(view: SweepState) -> list[tuple[str, float | None, int]]:
    """The ranking: trial, value, and the step that its value is from."""
    ranked = [entry.trial for entry in ranking(view) if entry.rank is not None]
    return [(trial.trial_id, trial.objective, (trial.counted or {})["step"]) for trial in ranked]


@pytest.fixture(scope="module")
def spec(tiny_model_dir, tmp_path_factory):
    return overfitting_spec(tmp_path_factory.mktemp("best-resume"), tiny_model_dir)


@pytest.fixture(scope="module")
def undisturbed(spec):
    run = spec.parent / "undisturbed"
    finish(sweepft("run", spec, "--out", run))
    return run


@pytest.mark.parametrize("behind", [True, False], ids=["behind its best", "at its best"])
def test_best__killed_driver_resumes_to_the_same_ranking_and_weights(spec, undisturbed, behind):
    """Killed right after an evaluation that is worse than the best one of its trial, whose copy of weights is lost with
    the driver; or right after one that is the best so far. Then once more, a few rows later.
    """
    rows = read_ledger(undisturbed)
    evals = [i for i, row in enumerate(rows, 1) if row["kind"] == "eval" and row["counts"] is not behind]
    at = evals[len(evals) // 2] if behind else evals[-1]
    run = spec.parent / f"killed-{behind}"
    kill_after(sweepft("run", spec, "--out", run), run, at)
    assert SweepState.load(run).status == "crashed"
    kill_after(sweepft("resume", run), run, at + 6)
    finish(sweepft("resume", run))
    view, whole = SweepState.load(run), SweepState.load(undisturbed)
    assert story(view) == story(whole)
    assert places(view) == places(whole)
    assert [[e["counts"] for e in t.evals] for t in view.trials.values()] == [
        [e["counts"] for e in t.evals] for t in whole.trials.values()
    ]
    assert winner(view).trial_id == winner(whole).trial_id
    weights = sorted(p.relative_to(undisturbed) for p in undisturbed.glob("weights/*/*.safetensors"))
    assert weights
    assert sorted(p.relative_to(run) for p in run.glob("weights/*/*.safetensors")) == weights
    assert all((run / path).read_bytes() == (undisturbed / path).read_bytes() for path in weights)

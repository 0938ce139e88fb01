"""The gain from sharing a GPU: speed of a trial alone and beside others."""

from __future__ import annotations

from typing import Any

import pytest

from sweepft.ledger import SweepState
from sweepft.report import summarise
from sweepft.report.cost import sharing_summary
from sweepft.report.tables import markdown

TOKENS = 100  # a step


def rows(
    results: dict[str, list[tuple[float, float]]], gpus: float = 0.5, slots: int = 2
) -> list[dict[str, Any]]:
    """A ledger: of each trial, results of five steps each, as (time reported, seconds of steps)."""
    spec = {"resources": {"gpus_per_worker": gpus, "workers_per_trial": 1, "concurrent_trials": slots}}
    ledger: list[dict[str, Any]] = [{"kind": "sweep", "time": 0.0, "name": "s", "spec": spec, "budget_samples": 100,
                                   "data": {}}]  # fmt: skip
    for number, (name, ends) in enumerate(results.items()):
        ledger.append(
            {
                "kind": "trial",
                "time": 0.0,
                "trial_id": name,
                "number": number,
                "params": {},
                "train_config": {},
            }
        )
        ledger.append({"kind": "start", "time": 0.0, "trial_id": name, "attempt": 0, "slot": number})
        for i, (time, seconds) in enumerate(ends):
            steps = [5 * i + k for k in range(1, 6)]
            history = {"step": steps, "tokens_seen": [TOKENS * s for s in steps], "seconds": [seconds / 5] * 5,
                       "samples_seen": [10 * s for s in steps]}  # fmt: skip
            ledger.append({"kind": "steps", "time": time, "trial_id": name, "attempt": 0, "history": history})
            ledger.append({"kind": "cost", "time": time, "trial_id": name, "slot": number, "phase": "train",
                         "seconds": seconds, "gpus": gpus})  # fmt: skip
    return ledger


def sharing(*args: Any, **kwargs: Any) -> dict[str, Any] | None:
    return sharing_summary(SweepState.from_rows(rows(*args, **kwargs)))


# t0 runs 10 s beside t1, then twice as far in 12 s alone: beside, 50 tokens a second; alone, 83.
TWO = {"t0": [(10.0, 10.0), (16.0, 6.0), (22.0, 6.0)], "t1": [(10.0, 10.0)]}


def test_sharing_summary__compares_a_trial_with_itself() -> None:
    found = sharing(TWO)
    assert found is not None
    assert found["relative_speed"] == pytest.approx(0.6)
    assert found["throughput_gain"] == pytest.approx(1.2)
    assert (found["trials_per_gpu"], found["trials"]) == (2, 1)
    assert found["text"] == (
        "2 trials a GPU; a trial on a shared GPU kept 60% of its speed alone (median of 1), so the GPU did 1.20 times "
        "the work"
    )


@pytest.mark.parametrize(
    ("results", "kwargs"),
    [
        ({"t0": [(10.0, 10.0)], "t1": [(10.0, 10.0)]}, {}),  # never alone
        ({"t0": [(10.0, 10.0)], "t1": [(20.0, 10.0)]}, {}),  # never beside another
        ({"t0": [(10.0, 10.0), (20.0, 10.0)], "t1": [(15.0, 10.0)]}, {}),  # neither quite
        (TWO, {"slots": 4}),  # on two GPUs: who shared with whom?
    ],
)
def test_sharing_summary__no_gain_where_it_was_not_measured(
    results: dict[str, Any], kwargs: dict[str, Any]
) -> None:
    found = sharing(results, **kwargs)
    assert found is not None
    assert found["throughput_gain"] is None
    assert found["text"].startswith("2 trials a GPU; the gain was not measured")


@pytest.mark.parametrize("gpus", [0.0, 1.0])
def test_sharing_summary__none_where_trials_have_whole_gpus(gpus: float) -> None:
    assert sharing(TWO, gpus=gpus) is None


def test_markdown__shows_gpu_sharing() -> None:
    summary = summarise(SweepState.from_rows(rows(TWO)))
    assert "- **GPU sharing** 2 trials a GPU; a trial on a shared GPU kept 60%" in markdown(summary)
    assert summary["cost"]["tokens_per_second"] == pytest.approx(4 * 5 * TOKENS / (0.5 * 32))

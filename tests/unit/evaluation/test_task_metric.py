"""A task's metric as an objective: value, noise, residuals. And the check before a sweep begins."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from support.errors import raises
from support.specs import spec
from support.tasks import task_folder
from sweepft.driver.task_objective import check_objective
from sweepft.errors import EvaluateError

pytest.importorskip("lm_eval")


def scores(values: list[float], value: float | None = None, **filters: list[float]) -> dict[str, Any]:
    """What the harness makes of items with these scores, and of other filters."""
    every = {"none": values} | filters
    samples = [
        {"filter": name, "doc_id": i, "acc": item}
        for name, found in every.items()
        for i, item in enumerate(found)
    ]
    mean = sum(values) / len(values) if value is None else value
    names = {"acc" if not filters else f"acc,{name}": found for name, found in every.items()}
    metrics = {name: {"value": mean, "stderr": 0.5, "higher_is_better": True} for name in names}
    return {"metrics": metrics, "items": len(values), "samples": samples}


@pytest.mark.parametrize("right", [0, 1, 30, 100])
def test_measured__binomial_noise_is_never_zero(right: int) -> None:
    from sweepft.evaluation.objective import measured

    found = measured(scores([1.0] * right + [0.0] * (100 - right)), "acc")
    share = (right + 1) / 102
    assert found["stderr"] == pytest.approx(math.sqrt(share * (1 - share) / 100))
    assert (found["value"], found["items"]) == (right / 100, 100)


def test_measured__residuals_pair_two_models_over_their_items() -> None:
    from sweepft.evaluation.objective import measured

    first, second = (measured(scores(values), "acc") for values in ([1, 1, 0, 0], [1, 0, 0, 0]))
    assert first["residuals"] == [0.5, 0.5, -0.5, -0.5]
    assert second["residuals"] == [0.75, -0.25, -0.25, -0.25]
    assert len(measured(scores([0.5, 0.25] * 100), "acc")["residuals"]) == 64


def test_measured__takes_the_filter_that_is_named_and_leaves_what_is_no_mean() -> None:
    from sweepft.evaluation.objective import measured

    both = scores([1.0, 0.0], strict=[0.0, 0.0])
    both["metrics"]["acc,strict"]["value"] = 0.0
    assert measured(both, "acc,strict")["residuals"] == [0.0, 0.0]
    with pytest.raises(ValueError, match="ambiguous"):
        measured(both, "acc")
    corpus = measured(scores([1.0, 0.0], value=0.9), "acc")
    assert (corpus["value"], corpus["stderr"], corpus["residuals"]) == (0.9, 0.5, None)


@pytest.mark.full
@pytest.mark.parametrize(
    ("changes", "key", "place"),
    [
        ({"task": "tiny_wards"}, "evaluate.tasks", "objective.maximize.task: tiny_wards: no such task"),
        ({"metric": "accuracy"}, "objective.metric", "objective.maximize.metric"),
        ({"task": "tiny_words", "metric": "exact_match"}, "objective.metric", "several filters"),
        ({"limit": 11}, "objective.limit", "more than the 10 items"),
    ],
)
def test_check_objective__refuses_what_cannot_be_measured(
    tmp_path: Path, changes: dict[str, Any], key: str, place: str
) -> None:
    folder = str(task_folder(tmp_path / "tasks", items=10))
    wanted = {"task": "tiny_choice", "metric": "acc", "include_path": folder} | changes
    with raises(EvaluateError, key) as caught:
        check_objective(spec(objective={"maximize": wanted}))
    assert place in str(caught.value)


@pytest.mark.full
def test_check_objective__warns_of_the_wrong_direction(tmp_path: Path) -> None:
    folder = str(task_folder(tmp_path / "tasks", items=10))
    wanted = {"task": "tiny_choice", "metric": "acc", "include_path": folder, "limit": 10}
    said: list[str] = []
    check_objective(spec(objective={"maximize": wanted}), said.append)
    assert said == []
    check_objective(spec(objective={"minimize": wanted}), said.append)
    assert len(said) == 1
    assert "higher is better in acc" in said[0]

"""Whether a sweep will be able to score its finalists, found out before its first trial."""

from __future__ import annotations

import importlib.util

from sweepft.errors import EvaluateError, Problem, SpecError
from sweepft.evaluate.check import check_tasks
from sweepft.evaluate.judge import check as check_judge
from sweepft.recorder import metric_of
from sweepft.spec import SweepSpec
from sweepft.tuner.plans import task_plans

__all__ = ["check_finals"]


def check_finals(spec: SweepSpec) -> dict[str, int]:
    """Load every task of ``evaluate`` in a child process, and see that ``rank_by`` is measured.

    Returns:
        Items by task.
    Raises:
        SpecError: If the harness is not installed, or ``rank_by`` names a metric that no task has.
        EvaluateError: If a task or its data cannot be had.
        DataError: If a file of MT-Bench is missing or broken.
    """
    plans = task_plans(spec)
    if spec.evaluate is None:
        return {}
    if plans and importlib.util.find_spec("lm_eval") is None:
        rule, remedy = "needs the package lm-eval, which is not installed", "pip install 'sweepft[eval]'"
        raise SpecError([Problem(spec.name, "evaluate.tasks", rule, remedy)])
    found = check_tasks(plans)
    if spec.evaluate.mt_bench is not None:
        check_judge(spec.evaluate.mt_bench)
    metrics = {name: facts["metrics"] for name, facts in found.items()}
    metrics |= {"mt_bench": ["score", "turn_1", "turn_2"]} if spec.evaluate.mt_bench is not None else {}
    metrics |= {test.name: ["loss"] for test in spec.data.test}
    for key in spec.evaluate.weights:
        if key == "objective":
            continue
        try:
            metric_of(key, metrics, metrics)
        except ValueError as error:
            raise EvaluateError(f"{spec.name}: evaluate.rank_by: {error}") from None
    return {name: int(facts["items"]) for name, facts in found.items()}

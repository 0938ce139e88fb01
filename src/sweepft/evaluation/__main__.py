"""Child process of the checks of tasks (``sweepft.evaluation.tasks.check_tasks``) and of the user's own metrics
(``sweepft.evaluation.own_metric.check_own_tasks``): reads them from standard input, writes facts to a file.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping
from typing import Any

from sweepft.bounded_json import read_json
from sweepft.errors import DataError, EvaluateError, OwnMetricError
from sweepft.evaluation.own_metric import inspect_own_task, of_plain
from sweepft.evaluation.tasks import EvalTask, inspect_task
from sweepft.files import atomic_write


def main() -> int:
    """Inspect what the job names; a sweepft error becomes part of the result."""
    job = read_json(sys.stdin.read())
    outcome = _of_own_tasks(job["own"]) if "own" in job else _of_tasks(job["tasks"], job["names_only"])
    atomic_write(job["outcome"], json.dumps(outcome), sync=False)
    return 0


def _of_tasks(tasks: Iterable[Mapping[str, Any]], names_only: bool) -> dict[str, Any]:
    """Load each task and render its first item, or only see that it is there."""
    from sweepft.evaluation.task_loading import check_name

    found, problems = {}, []
    for given in tasks:
        task = EvalTask(**{**given, "include_path": tuple(given["include_path"])})
        try:
            if names_only:
                check_name(task)
            else:
                found[task.name] = inspect_task(task)
        except EvaluateError as error:
            problems.append(str(error))
    return {"found": found, "problems": problems}


def _of_own_tasks(tasks: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Read the rows and call the functions; ``problem`` is the first one: message, key, and fields where of data."""
    found = {}
    for task in map(of_plain, tasks):
        try:
            found[task.name] = inspect_own_task(task)
        except OwnMetricError as error:
            return {"found": found, "problem": [str(error), error.key, None]}
        except DataError as error:
            fields = [[p.where, p.key, p.rule, p.remedy, _shown(p.value)] for p in error.problems]
            return {"found": found, "problem": [str(error), error.key, fields]}
    return {"found": found, "problem": None}


def _shown(value: Any) -> Any:
    return None if value is None else str(value)


if __name__ == "__main__":
    sys.exit(main())

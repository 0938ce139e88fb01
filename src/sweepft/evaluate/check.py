"""Whether the tasks a sweep will end with can be had, found out before its first trial.

The idea to keep in mind: the harness imports torch, which the driver must not; so the tasks are looked at in a process
of its own.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from sweepft.errors import EvaluateError
from sweepft.evaluate.plan import TaskPlan

__all__ = ["check_tasks", "look_at"]


def check_tasks(plans: Sequence[TaskPlan]) -> dict[str, dict[str, Any]]:
    """Load every task in a child process.

    Returns:
        Task -> ``items`` (documents, after the limit) and ``metrics`` (names).
    Raises:
        EvaluateError: With every task that cannot be had.
    """
    if not plans:
        return {}
    with tempfile.TemporaryDirectory(prefix="sweepft-tasks-") as folder:
        outcome = Path(folder) / "outcome.json"
        job = {"plans": [asdict(plan) for plan in plans], "outcome": str(outcome)}
        command = [sys.executable, "-m", "sweepft.evaluate"]
        done = subprocess.run(command, input=json.dumps(job), capture_output=True, text=True, check=False)
        answer = json.loads(outcome.read_text()) if outcome.is_file() else None
    if answer is None:
        tail = "\n".join((done.stderr or done.stdout).strip().splitlines()[-15:])
        raise EvaluateError(f"evaluate.tasks: looking at the tasks failed:\n{tail}")
    if answer["problems"]:
        raise EvaluateError("\n".join(answer["problems"]))
    return dict(answer["found"])


def look_at(plan: TaskPlan) -> dict[str, Any]:
    """Load one task and put its first item (in the child process).

    Raises:
        EvaluateError: If the task cannot be loaded, or its text cannot be made of its first document.
    """
    from sweepft.evaluate.tasks import load_tasks, metric_names

    loaded = load_tasks(plan)
    items, keys = 0, []
    for name, task in loaded["tasks"].items():
        items += min(len(task.eval_docs), plan.limit or len(task.eval_docs))
        try:
            first = task.eval_docs[0]
            task.doc_to_text(first)
            task.doc_to_target(first)
        except Exception as error:
            said = f"{type(error).__name__}: {str(error)[:200]}"
            raise EvaluateError(
                f"evaluate.tasks: {name}: no text can be made of its first document: {said}\n"
                "  mend doc_to_text and doc_to_target of the task file"
            ) from error
        keys += [f"{m},{f.name}" for m in task.aggregation() for f in task._filters]
    return {"items": items, "metrics": list(metric_names(dict.fromkeys(keys)).values())}

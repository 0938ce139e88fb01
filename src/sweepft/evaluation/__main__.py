"""Child process of ``sweepft.evaluation.tasks.check_tasks``: reads tasks from standard input, writes facts to a
file.
"""

from __future__ import annotations

import json
import sys

from sweepft.bounded_json import read_json
from sweepft.errors import EvaluateError
from sweepft.evaluation.tasks import EvalTask, inspect_task
from sweepft.files import atomic_write


def main() -> int:
    """Load each task and render its first item; a sweepft error becomes part of the result."""
    job = read_json(sys.stdin.read())
    found, problems = {}, []
    for given in job["tasks"]:
        task = EvalTask(**{**given, "include_path": tuple(given["include_path"])})
        try:
            found[task.name] = inspect_task(task)
        except EvaluateError as error:
            problems.append(str(error))
    atomic_write(job["outcome"], json.dumps({"found": found, "problems": problems}), sync=False)
    return 0


if __name__ == "__main__":
    sys.exit(main())

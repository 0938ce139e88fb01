"""The child process of ``sweepft.evaluation.tasks.check_tasks``: plans on standard input, what was found in a file."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from sweepft.errors import EvaluateError
from sweepft.evaluation.tasks import EvalTask, look_at


def main() -> int:
    """Load each task and put its first item; errors raised on purpose are part of the outcome."""
    job = json.load(sys.stdin)
    found, problems = {}, []
    for given in job["plans"]:
        plan = EvalTask(**{**given, "include_path": tuple(given["include_path"])})
        try:
            found[plan.name] = look_at(plan)
        except EvaluateError as error:
            problems.append(str(error))
    Path(job["outcome"]).write_text(json.dumps({"found": found, "problems": problems}))
    return 0


if __name__ == "__main__":
    sys.exit(main())

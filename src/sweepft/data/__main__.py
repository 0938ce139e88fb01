"""The child process of `sweepft.data`: reads a job from standard input and writes its answer to a file."""

from __future__ import annotations

import json
import sys
from typing import Any

from sweepft.bounded_json import read_json
from sweepft.data.prepare import prepare, tokenise_tests
from sweepft.data.survey import survey
from sweepft.data.view import view_data
from sweepft.errors import DataError, Problem, StorageError
from sweepft.files import atomic_write
from sweepft.spec.sweep import SweepSpec


def main() -> int:
    """Run the job. Data and storage errors are part of the answer; any other error ends the process."""
    job = read_json(sys.stdin.read())
    answer: dict[str, Any]
    try:
        spec = SweepSpec.model_validate(job["spec"])
        if job["what"] == "tests":
            sets = tokenise_tests(spec, job["cache_dir"])
            answer = {"tests": {name: found.model_dump(mode="json") for name, found in sets.items()}}
        elif job["what"] == "survey":
            answer = {"survey": survey(spec).to_dict()}
        elif job["what"] == "view":
            answer = {"view": view_data(spec, **job["options"])}
        else:
            answer = {"prepared": prepare(spec, job["cache_dir"]).model_dump(mode="json")}
    except DataError as error:
        answer = {"problems": [_plain(problem) for problem in error.problems]}
    except StorageError as error:
        answer = {"storage": str(error)}
    atomic_write(job["outcome"], json.dumps(answer), sync=False)
    return 0


def _plain(problem: Problem) -> dict[str, Any]:
    fields = dict(vars(problem))
    try:
        json.dumps(fields["value"])
    except (TypeError, ValueError):  # what a row holds need not be JSON
        fields["value"] = repr(fields["value"])
    return fields


if __name__ == "__main__":
    sys.exit(main())

"""Results of commands as JSON (``--json``), and the schemas of them. docs/reference/json.md describes both."""

from __future__ import annotations

import contextlib
import functools
import math
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final, TextIO

from sweepft.errors import ProblemsError, SweepftError

if TYPE_CHECKING:
    from sweepft.driver.sweep import SweepResult


@contextlib.contextmanager
def result_alone(as_json: bool) -> Iterator[TextIO | None]:
    """Send progress to standard error where the result goes to standard output as JSON; yields the latter."""
    if not as_json:
        yield None
        return
    stream = sys.stdout
    with contextlib.redirect_stdout(sys.stderr):
        yield stream


def run_result(finished: SweepResult) -> dict[str, Any]:
    """What a sweep found: status, winner, ranked trials, files, and what to do next."""
    from sweepft.ledger import ranking, winner

    best = winner(finished.view)
    resumable = finished.status in ("interrupted", "failed") or finished.interrupted
    return {
        "run": str(finished.run_dir),
        "status": finished.status,
        "exit_code": finished.exit_code,
        "winner": None
        if best is None
        else {
            "trial_id": best.trial_id,
            "objective": _finite(best.objective),
            "params": best.params,
            "folder": None if finished.best is None else str(finished.best),
        },
        "trials": [
            {
                "trial_id": entry.trial.trial_id,
                "rank": entry.rank,
                "status": entry.trial.status,
                "reason": entry.trial.reason,
                "objective": _finite(entry.trial.objective),
                "samples_seen": entry.trial.samples_seen,
                "origin": entry.trial.origin,
                "params": entry.trial.params,
            }
            for entry in ranking(finished.view)
        ],
        "reports": {kind: str(path) for kind, path in finished.reports.items()},
        "fault": finished.fault,
        "next": f"sweepft resume {finished.run_dir}" if resumable else None,
    }


def error_result(error: SweepftError) -> dict[str, Any]:
    """An error: its key, and all problems with place, rule, value and remedy."""
    problems = []
    if isinstance(error, ProblemsError):
        problems = [
            {
                "where": problem.where,
                "key": problem.key,
                "rule": problem.rule,
                "value": None if problem.value is None else str(problem.value)[:500],
                "remedy": problem.remedy,
            }
            for problem in error.problems
        ]
    return {"error": {"key": error.key, "message": str(error), "problems": problems}}


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


_TEXT: Final = {"type": "string"}
_TEXT_OR_NULL: Final = {"type": ["string", "null"]}
_NUMBER_OR_NULL: Final = {"type": ["number", "null"]}
_INTEGER: Final = {"type": "integer"}
_TEXTS: Final = {"type": "array", "items": _TEXT}
_COUNTS: Final = {"type": "object", "additionalProperties": _INTEGER}
_PARAMS: Final = {"type": "object"}


def _object(**properties: Any) -> dict[str, Any]:
    """An object that has all of these keys and no others."""
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def _list(item: Any) -> dict[str, Any]:
    return {"type": "array", "items": item}


def _or_null(schema: Mapping[str, Any]) -> dict[str, Any]:
    return {"anyOf": [schema, {"type": "null"}]}


_SOURCE: Final = _object(
    kind={"enum": ["train", "validation", "test"]},
    name=_TEXT,
    path=_TEXT,
    rows=_INTEGER,
    used=_INTEGER,
    duplicates=_INTEGER,
    skipped={"type": "boolean"},
    formats=_COUNTS,
)
_WINNER: Final = _object(trial_id=_TEXT, objective=_NUMBER_OR_NULL, params=_PARAMS, folder=_TEXT_OR_NULL)
_TRIAL: Final = _object(
    trial_id=_TEXT,
    rank={"type": ["integer", "null"]},
    status={"enum": ["running", "completed", "stopped", "diverged", "failed", "interrupted", "paused"]},
    reason=_TEXT_OR_NULL,
    objective=_NUMBER_OR_NULL,
    samples_seen=_INTEGER,
    origin=_TEXT,
    params=_PARAMS,
)
_RUN: Final = _object(
    run=_TEXT,
    status={"enum": ["finished", "limit", "interrupted", "failed", "paused"]},
    exit_code=_INTEGER,
    winner=_or_null(_WINNER),
    trials=_list(_TRIAL),
    reports={"type": "object", "additionalProperties": _TEXT},
    fault=_TEXT_OR_NULL,
    next=_TEXT_OR_NULL,
)
_OWN_METRIC: Final = _object(
    name=_TEXT, function=_TEXT, items=_INTEGER, digest=_TEXT, scores=_list({"type": "number"})
)
_CHECKED: Final = _object(
    sources=_list(_SOURCE),
    notes=_TEXTS,
    warnings=_TEXTS,
    tokenised={"type": "boolean"},
    own_metrics=_list(_OWN_METRIC),
)
_SIZES: Final = _or_null(
    _object(**{key: {"type": "number"} for key in ("mean", "median", "p90", "p99", "longest")})
)
_OUTCOME: Final = _object(rows=_INTEGER, left_out={"type": "boolean"}, meaning=_TEXT, example=_TEXT)
_SET: Final = _object(
    kind=_TEXT,
    name=_TEXT,
    rows=_INTEGER,
    tokenised=_INTEGER,
    domains=_COUNTS,
    duplicates=_INTEGER,
    outcomes={"type": "object", "additionalProperties": _OUTCOME},
    kept=_INTEGER,
    tokens=_SIZES,
    targets=_SIZES,
    histogram=_list(_object(**{"from": _INTEGER, "to": _INTEGER, "rows": _INTEGER})),
)
_ROW: Final = _object(
    set=_TEXT,
    number=_INTEGER,
    where=_TEXT,
    domain=_TEXT_OR_NULL,
    tokens={"type": ["integer", "null"]},
    targets={"type": ["integer", "null"]},
    outcomes={"type": "object", "additionalProperties": _TEXT},
    parts=_list(_object(text=_TEXT, learned={"type": "boolean"}, weight={"type": "number"})),
)
_PRESET: Final = _object(
    name=_TEXT, params=_PARAMS, about=_TEXT, source=_TEXT, date=_TEXT, trains={"enum": ["full", "lora", None]}
)
_PROBLEM: Final = _object(where=_TEXT, key=_TEXT, rule=_TEXT, value=_TEXT_OR_NULL, remedy=_TEXT)
_STATUS: Final = {
    "type": "object",
    "properties": {
        "run": _TEXT,
        "name": _TEXT,
        "status": _TEXT,
        "trials": _COUNTS,
        "planned_trials": {"type": ["integer", "null"]},
        "running": {"type": "array"},
        "best": _or_null(
            _object(
                trial_id=_TEXT,
                metric=_TEXT,
                objective=_NUMBER_OR_NULL,
                params=_PARAMS,
                violation=_NUMBER_OR_NULL,
            )
        ),
        "nodes_kept_out": {"type": "object"},
        "gpus_given_up": {"type": "array"},
        "resume": {"type": "boolean"},
    },
    "required": ["run", "name", "status", "trials", "best", "resume"],
}
_SCORES: Final = (
    *(
        "saved",
        "best_kept",
        "best_kept_within_noise",
        "false_stop",
        "regret",
        "regret_scaled",
        "time_to_best",
    ),
)
_SCHEMAS: Final[Mapping[str, tuple[str, Mapping[str, Any]]]] = {
    **dict.fromkeys(("run", "train", "resume", "demo"), ("the result of a sweep", _RUN)),
    "validate": ("a valid spec and its data", _object(spec=_TEXT, name=_TEXT, data=_or_null(_CHECKED))),
    "data": (
        "what rows become",
        _object(
            sources=_list(_SOURCE),
            sets=_list(_SET),
            rows=_list(_ROW),
            overlap_dropped=_INTEGER,
            notes=_TEXTS,
            warnings=_TEXTS,
        ),
    ),
    "init": (
        "the file written, what is not carried over, and the plan",
        _object(
            file=_TEXT,
            left=_list(_object(key=_TEXT, value={}, why=_TEXT)),
            quiet=_TEXTS,
            notes=_TEXTS,
            plan=_or_null({"type": "object"}),
        ),
    ),
    "presets": (
        "presets; with --for which do not fit, and the rule of thumb",
        {
            "type": "object",
            "properties": {
                "presets": _list(_PRESET),
                "refused": {"type": "object", "additionalProperties": _object(rule=_TEXT, remedy=_TEXT)},
                "rule": _or_null({"type": "object"}),
                "rates": _TEXTS,
            },
            "required": ["presets"],
            "additionalProperties": False,
        },
    ),
    "push": ("the repository", _object(url=_TEXT)),
    "report": ("the files written", _object(files=_TEXTS)),
    "mirror": ("the mirror after the command", _object(uri=_TEXT, megabytes={"type": "number"})),
    "track": ("each tracker, and why it failed", {"type": "object", "additionalProperties": _TEXT_OR_NULL}),
    **dict.fromkeys(("status", "fetch"), ("the state of a run", _STATUS)),
    "plan": (
        "the estimate; docs/reference/plan-json.md",
        {"type": "object", "required": ["name", "warnings"]},
    ),
    "replay": (
        "one row for each study and rule; docs/how-to/replay.md",
        _list(
            _object(
                source=_TEXT,
                study=_TEXT,
                rule=_TEXT,
                orders=_INTEGER,
                runs=_INTEGER,
                **{key: {"type": "number"} for key in _SCORES},
            )
        ),
    ),
    "command": (
        "stop, pin, clone, extend, pause and continue",
        _object(command=_TEXT, trial=_TEXT_OR_NULL, answer=_TEXT),
    ),
    "error": (
        "any command that fails",
        _object(error=_object(key=_TEXT, message=_TEXT, problems=_list(_PROBLEM))),
    ),
}
"""Title and schema of the JSON of each command."""


def schemas() -> dict[str, Callable[[], dict[str, Any]]]:
    """What makes the schema of each command's JSON, by name."""
    return {name: functools.partial(_titled, name) for name in _SCHEMAS}


def _titled(name: str) -> dict[str, Any]:
    title, schema = _SCHEMAS[name]
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": f"sweepft {name}: {title}",
        **schema,
    }

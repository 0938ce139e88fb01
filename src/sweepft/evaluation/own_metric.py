"""A metric of the user's own: a function that scores the answers to the rows of a file.

The function is code of the user's. It is imported from the folders that the spec names, in the processes that check it
or score answers, and never from a run folder: whoever looks at another person's run must not run that person's code.
"""

from __future__ import annotations

import copy
import hashlib
import importlib.util
import json
import math
import numbers
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from types import FunctionType
from typing import Any, Final

import numpy as np

from sweepft.bounded_json import read_json_file
from sweepft.children import run_module
from sweepft.data.files import Location, records
from sweepft.data.reading import Options, Reading, RowFault
from sweepft.data.requests import Request, read_request
from sweepft.errors import DataError, OwnMetricError, Problem
from sweepft.evaluation.tasks import batch_size_of
from sweepft.ledger import ledger_path
from sweepft.spec import OwnMetric, SweepSpec

Function = Callable[[str, Mapping[str, Any]], Any]

_CHECK_SECONDS: Final = 600.0
"""For the import of the module and two calls of the function."""


@dataclass(frozen=True)
class OwnTask:
    """The rows of a file, and the function that scores answers to them.

    Attributes:
        name: Of the file, in messages and results.
        data: The file.
        function: ``module:function``.
        include_path: Folders that the module's file may be in.
        limit: Number of rows, the first ones; None for all.
        max_tokens: Longest answer.
        batch_size: Rows per batch of a rank; None for as many as fit.
        format, system: As of a source of rows.
        columns, roles: The same, as pairs.
        place: Section of the spec, for messages.
        where: Name or file of the spec, for messages.
        expected: What `digest` was on the driver's machine; None where it is not known.
    """

    name: str
    data: str
    function: str
    include_path: tuple[str, ...]
    limit: int | None = None
    max_tokens: int = 256
    batch_size: int | None = 8
    format: str | None = None
    system: str | None = None
    columns: tuple[tuple[str, str], ...] = ()
    roles: tuple[tuple[str, str], ...] = ()
    place: str = "objective.maximize"
    where: str = "spec"
    expected: str | None = None

    @classmethod
    def of(cls, wanted: OwnMetric, where: str, place: str) -> OwnTask:
        """A metric of the spec, with the digest of its files as they are on this machine.

        Raises:
            OwnMetricError: If a file cannot be read.
        """
        task = cls(
            name=wanted.names[0],
            data=wanted.data,
            function=wanted.metric,
            include_path=wanted.include_path,
            limit=wanted.limit,
            max_tokens=wanted.max_tokens,
            batch_size=batch_size_of(wanted.batch_size),
            format=wanted.format,
            system=wanted.system,
            columns=tuple((wanted.columns or {}).items()),
            roles=tuple((wanted.roles or {}).items()),
            place=place,
            where=where,
        )
        return replace(task, expected=task.digest)

    @property
    def options(self) -> Options:
        """How the rows are read."""
        return Options(None, self.format, dict(self.columns), self.system, dict(self.roles))

    @property
    def digest(self) -> str:
        """Digest of all that changes a value: settings, rows, and the file of the module, but nothing that it imports.

        Raises:
            OwnMetricError: If a file cannot be read.
        """
        apart = ("include_path", "batch_size", "place", "where", "expected", "data")
        settings = {key: value for key, value in asdict(self).items() if key not in apart}
        digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
        for key, file in (("data", Path(self.data)), ("metric", module_file(self))):
            try:
                digest.update(hashlib.sha256(file.read_bytes()).digest())
            except OSError as error:
                rule = f"cannot be read: {error.strerror or error}"
                raise problem(self, key, rule, "check the file and its permissions", str(file)) from error
        return digest.hexdigest()[:16]


def own_tasks(spec: SweepSpec) -> list[OwnTask]:
    """The metrics of the user's own in a spec. Raises OwnMetricError."""
    return [
        OwnTask.of(wanted, spec.name, place)
        for place, wanted in spec.objective.measured.items()
        if isinstance(wanted, OwnMetric)
    ]


def problem(task: OwnTask, key: str, rule: str, remedy: str, value: Any = None) -> OwnMetricError:
    """An error at a key of the section."""
    found = Problem(task.where, f"{task.place}.{key}", rule, remedy, value)
    return OwnMetricError(str(found), key=f"{task.place}.{key}")


# --- the rows ------------------------------------------------------------------------------------------


def read_requests(task: OwnTask) -> list[Request]:
    """The rows that the model answers, in the order of the file.

    Raises:
        DataError: If the file or one of the rows cannot be used.
        OwnMetricError: If there are fewer rows than ``limit``.
    """
    reading, found = Reading(task.options), []
    for where, record in islice(records(Location(task.data)), task.limit):
        try:
            found.append(read_request(record, where, reading))
        except RowFault as fault:
            rule = fault.rule + (f": {fault.detail}" if fault.detail else "")
            raise DataError([Problem(where, fault.key, rule, fault.remedy, fault.value)]) from None
    if not found:
        raise problem(task, "data", "must have at least one row", "name a file with rows", task.data)
    if task.limit is not None and task.limit > len(found):
        rule = f"is more than the {len(found)} rows of {task.data}"
        raise problem(task, "limit", rule, "lower it, or leave it out for all", task.limit)
    return found


# --- the function --------------------------------------------------------------------------------------


def module_file(task: OwnTask) -> Path:
    """The file of the module, in the first folder that has it.

    Raises:
        OwnMetricError: If there is none, or it lies in a run folder.
    """
    module = task.function.partition(":")[0]
    files = [Path(folder, f"{module}.py") for folder in task.include_path]
    file = next((file for file in files if file.is_file()), None)
    if file is None:
        folders = ", ".join(task.include_path) or "no folder"
        remedy = f"write {module}.py there, or name its folder in include_path"
        raise problem(task, "metric", f"has no file {module}.py in {folders}", remedy, task.function)
    run = next((folder for folder in file.resolve().parents if ledger_path(folder).is_file()), None)
    if run is not None:
        rule = f"lies in a run folder ({run}), from which no code is run"
        raise problem(task, "metric", rule, f"move {module}.py to another folder", str(file))
    return file


def load_function(task: OwnTask) -> Function:
    """Import the module and take its function.

    Raises:
        OwnMetricError: If there is no such file or function, or the import fails.
    """
    file = module_file(task)
    module_name, _, name = task.function.partition(":")
    private = f"sweepft_own_metric_{module_name}"  # another module may have the plain name
    folder = str(file.resolve().parent)
    if folder not in sys.path:
        sys.path.append(folder)  # behind all others: files beside it can be imported, and replace nothing
    spec = importlib.util.spec_from_file_location(private, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[private] = module
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        rule = f"cannot be imported: {_cause(error, file)}"
        remedy = f"correct {file}, or install what it imports in the environment of sweepft"
        raise problem(task, "metric", rule, remedy, task.function) from error
    function = getattr(module, name, None)
    if not callable(function):
        rule = f"is no function of {file}"
        if function is not None:
            rule = f"names a value of type {type(function).__name__} in {file}, not a function"
        there = [
            n for n, v in vars(module).items() if isinstance(v, FunctionType) and v.__module__ == private
        ]
        remedy = f"name one of {', '.join(there)}" if there else f"write def {name}(answer, row) in {file}"
        raise problem(task, "metric", rule, remedy, task.function)
    found: Function = function
    return found


def score_answer(task: OwnTask, function: Function, answer: str, request: Request) -> float:
    """The score of one answer.

    Raises:
        OwnMetricError: If the function raises, or returns no finite number.
    """
    given = f"for the answer {answer!r:.100} to the row {request.where}"
    try:
        value = function(answer, copy.deepcopy(dict(request.row)))
    except (Exception, SystemExit) as error:
        rule = f"{task.function} raises {_cause(error, None)} {given}"
        raise problem(task, "metric", rule, _remedy(task, error)) from error
    if isinstance(value, numbers.Real | np.bool_) and math.isfinite(value):
        return float(value)
    rule = f"{task.function} must return a finite number, and returns {value!r:.100} {given}"
    raise problem(task, "metric", rule, "return one float, int or bool for every answer")


def _remedy(task: OwnTask, error: BaseException) -> str:
    """What to do about an error that the function raised: where nothing of it was run, it takes other arguments."""
    frames = traceback.extract_tb(error.__traceback__)
    if isinstance(error, TypeError) and all(Path(frame.filename) == Path(__file__) for frame in frames):
        name = task.function.partition(":")[2]
        return f"it is called with two arguments: def {name}(answer: str, row: dict) -> float"
    return "correct it: it must score every answer, also an empty or unexpected one"


def _cause(error: BaseException, file: Path | None) -> str:
    """The kind, message and line of an error in the user's code, on one line."""
    frames = traceback.extract_tb(error.__traceback__)
    inside = [
        frame
        for frame in frames
        if Path(frame.filename) == file or (file is None and Path(frame.filename) != Path(__file__))
    ]
    line = f" at {Path(inside[-1].filename).name}:{inside[-1].lineno}" if inside else ""
    words = " ".join(str(error).split())[:200]
    return f"{type(error).__name__}: {words}{line}" if words else f"{type(error).__name__}{line}"


# --- the check before a sweep --------------------------------------------------------------------------


def check_own_tasks(tasks: Sequence[OwnTask]) -> dict[str, dict[str, Any]]:
    """Read the rows and call the functions, in a child process: for the first row's own answer, and for an empty one.

    Returns:
        By name ``items`` (rows), ``digest`` and ``scores`` (of the two answers).
    Raises:
        OwnMetricError: If a function cannot be used.
        DataError: If rows cannot be used.
    """
    if not tasks:
        return {}
    with tempfile.TemporaryDirectory(prefix="sweepft-metric-") as folder:
        outcome = Path(folder) / "outcome.json"
        job = {"own": [asdict(task) for task in tasks], "outcome": str(outcome)}
        try:
            done = run_module("sweepft.evaluation", job=job, timeout=_CHECK_SECONDS)
        except subprocess.TimeoutExpired:
            rule = f"has not returned within {_CHECK_SECONDS / 60:g} minutes for one answer"
            remedy = "make import and function faster"
            raise problem(tasks[0], "metric", rule, remedy, tasks[0].function) from None
        answer = read_json_file(outcome) if outcome.is_file() else None
    if answer is None:
        rule, remedy = "ended the process that checked it", f"correct it; its last words:\n{done.tail}"
        raise problem(tasks[0], "metric", rule, remedy, tasks[0].function)
    if answer["problem"] is not None:
        text, key, of_data = answer["problem"]
        if of_data:
            raise DataError([Problem(*fields) for fields in of_data])
        raise OwnMetricError(text, key=key)
    return dict(answer["found"])


def inspect_own_task(task: OwnTask) -> dict[str, Any]:
    """What `check_own_tasks` returns of one task (in the child process). Raises as it does."""
    requests, function = read_requests(task), load_function(task)
    scores = [score_answer(task, function, answer, requests[0]) for answer in (requests[0].reference, "")]
    return {"items": len(requests), "digest": task.digest, "scores": scores}


def of_plain(given: Mapping[str, Any]) -> OwnTask:
    """A task that has travelled as JSON."""

    def pairs(value: Any) -> Iterator[tuple[str, str]]:
        return ((name, column) for name, column in value)

    return OwnTask(
        **{
            **given,
            "include_path": tuple(given["include_path"]),
            "columns": tuple(pairs(given["columns"])),
            "roles": tuple(pairs(given["roles"])),
        }
    )

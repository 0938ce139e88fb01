"""``sweepft validate``: check a spec, and every row of the files that it names."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sweepft.cli.options import JSON, NO_FILES, SET, SPEC
from sweepft.extras import require_run
from sweepft.output import say

if TYPE_CHECKING:
    from sweepft.data import DataCheck
    from sweepft.spec import SweepSpec


@click.command()
@SPEC
@SET
@NO_FILES
@JSON
def validate(spec: Path, overrides: tuple[str, ...], no_files: bool, as_json: bool) -> None:
    """Check SPEC and the files it names.

    All rows are read. A sample is tokenised if the model is on this machine. A metric of your own is called on a row.
    Tasks of the harness are looked up by name; their data are not loaded.
    """
    from sweepft.spec import load, missing_packages

    if not no_files:
        require_run("sweepft validate")
    loaded = load(spec, overrides, check_files=not no_files)
    found = None if no_files else _rows_found(loaded)
    if found is not None:
        found["own_metrics"] = _own_metrics_found(loaded)
        _check_task_names(loaded)
        found["warnings"] += [
            f"{p.key}: {p.rule} here; before sweepft run: {p.remedy}" for p in missing_packages(loaded)
        ]
    if as_json:
        say(json.dumps({"spec": str(spec), "name": loaded.name, "data": found}, indent=2))
        return
    for line in () if found is None else _rows_lines(found):
        say(line)
    say(f"{spec}: ok" + (" (model and data not checked)" if no_files else ""))


def check_rows(spec: SweepSpec) -> DataCheck:
    """Read every local row, without a tokenizer. Raises DataError."""
    from sweepft.data import check

    return check(spec)


def _rows_found(spec: SweepSpec) -> dict[str, Any]:
    """Check the rows, tokenise a sample if the model is at hand, and return what was found. Raises DataError."""
    from sweepft.data import survey_in_child

    found = check_rows(spec)
    _check_length(spec, found)
    local = Path(spec.model.path).is_dir() and not all(source.skipped for source in found.sources)
    return {
        "sources": [asdict(source) for source in found.sources],
        "notes": list(found.notes),
        "warnings": list(survey_in_child(spec).warnings if local else found.warnings),
        "tokenised": local,
    }


def _check_length(spec: SweepSpec, found: DataCheck) -> None:
    """Check what depends on the number of samples of a trial, where that is known. Raises SpecError."""
    from sweepft.errors import SpecError
    from sweepft.spec import check_budget

    samples, epochs = spec.train.budget.samples, spec.train.budget.epochs
    if any(source.skipped for source in found.sources if source.kind == "train"):
        return
    if samples is None and epochs is not None:
        samples = max(1, round(epochs * found.train_rows))
    problems = [] if samples is None else check_budget(spec, samples, found.train_rows)
    if problems:
        raise SpecError(problems)


def _check_task_names(spec: SweepSpec) -> None:
    """See that there are the tasks of the harness that the spec names, where it is installed. Raises EvaluateError."""
    from sweepft.evaluation import EvalTask
    from sweepft.evaluation.tasks import check_tasks
    from sweepft.spec import TaskMetric

    tasks = [
        EvalTask(wanted.task, wanted.include_path, place=f"{place}.task")
        for place, wanted in spec.objective.measured.items()
        if isinstance(wanted, TaskMetric)
    ]
    if spec.evaluate is not None:
        tasks += [EvalTask(task.name, spec.evaluate.include_path) for task in spec.evaluate.each_task()]
    if find_spec("lm_eval") is not None:
        check_tasks(tasks, names_only=True)


def _own_metrics_found(spec: SweepSpec) -> list[dict[str, Any]]:
    """Call the functions of the user's own in a child process. Raises OwnMetricError, DataError."""
    from sweepft.spec import OwnMetric

    if not any(isinstance(wanted, OwnMetric) for wanted in spec.objective.measured.values()):
        return []
    from sweepft.evaluation.own_metric import check_own_tasks, own_tasks

    tasks = own_tasks(spec)
    facts = check_own_tasks(tasks)
    return [{"name": task.name, "function": task.function, **facts[task.name]} for task in tasks]


def _rows_lines(found: dict[str, Any]) -> Iterator[str]:
    for source in found["sources"]:
        elsewhere = "not on this machine; read when the sweep starts"
        use = elsewhere if source["skipped"] else f"{source['used']:,} of {source['rows']:,} rows used"
        yield f"  {source['kind']} {source['name']}: {use}"
    for own in found["own_metrics"]:
        scores = " and ".join(f"{score:g}" for score in own["scores"])
        what = "for the first row's own answer and for an empty one"
        yield f"  metric {own['name']} {own['function']}: {own['items']:,} rows; {scores} {what}"
    yield from (f"  {note}" for note in found["notes"])
    yield from (f"  warning: {warning}" for warning in found["warnings"])
    if not found["tokenised"]:
        yield "  no row was tokenised: the model is not on this machine"

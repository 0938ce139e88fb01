"""What may change when a run is resumed: what leaves the numbers of old and new trials comparable.

The number of slots, ranks and GPUs may change, since each step keeps its samples. Model and data may lie elsewhere if
they are the same. A change of the number of ranks changes the order in which floating-point numbers are added, and
makes the checkpoints of unfinished trials useless: they are trained again from their start.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from sweepft.data import Prepared, model_digest
from sweepft.errors import DataError, Problem, SpecError
from sweepft.evaluation.own_metric import own_tasks
from sweepft.ledger import SweepState
from sweepft.slot.checkpoints import newest_checkpoint, remove_checkpoints
from sweepft.spec import Model, SweepSpec, flat, from_dict

_MAY_CHANGE: Final = (
    *(
        "search.trials",
        "search.limit",
        "search.enough",
        "search.subject_to",
        "resources",
        "keep",
        "checkpoint",
        "track",
        "notify",
        "mirror",
        "evaluate",
        "faults",
    ),
)
_PLACES: Final = (
    "model.path",
    "model.revision",
    "model.chat_template",
    "data.train",
    "data.validation",
    "data.test",
)
"""Keys that say where something lies. Its digest is compared instead."""


def check_changes(before: Mapping[str, Any], spec: SweepSpec) -> dict[str, list[Any]]:
    """The keys that differ, each with its old and new value.

    Args:
        before: The spec in force so far.
        spec: The spec of the resume.
    Raises:
        SpecError: If old and new trials would not be comparable; lists all such keys.
    """
    old = flat(
        from_dict(before, recorded=True).to_dict(), without=({},)
    )  # keys that were unknown then have their defaults
    new = flat(spec.to_dict(), without=({},))
    changes = {key: [old.get(key), new.get(key)] for key in sorted(old.keys() | new.keys())}
    changes = {key: pair for key, pair in changes.items() if pair[0] != pair[1]}
    problems = [
        Problem(
            where="resume",
            key=key,
            rule=f"cannot change in a run that has started (it was {was!r})",
            value=now,
            remedy=(
                f"keep it, or start a new run; what may change: {', '.join(_MAY_CHANGE)}, and where an unchanged "
                "model and unchanged data lie"
            ),
        )
        for key, (was, now) in changes.items()
        if not _may_change(key) and not (key in _PLACES and _without_places(was) == _without_places(now))
    ]
    problems += _bounds_of_best_evaluations(spec, changes)
    if problems:
        raise SpecError(problems)
    return changes


def _bounds_of_best_evaluations(spec: SweepSpec, changes: Mapping[str, Any]) -> list[Problem]:
    """Where trials count by their best evaluation, the bounds have chosen which one that is, and whose weights are
    kept: under other bounds, old and new trials would not be comparable.
    """
    if spec.objective.at == "end":
        return []
    rule = "cannot change in a run whose trials count by their best evaluation (objective.at: best)"
    remedy = "keep it, since it has chosen the evaluation that counts in each trial, or start a new run"
    return [
        Problem("resume", key, f"{rule} (it was {was!r})", remedy, now)
        for key, (was, now) in changes.items()
        if key == "search.subject_to" or key.startswith("search.subject_to.")
    ]


def _may_change(key: str) -> bool:
    return any(key == allowed or key.startswith(f"{allowed}.") for allowed in _MAY_CHANGE)


def _without_places(value: Any) -> Any:
    """A value without the paths in it; None for a path."""
    if isinstance(value, str):
        return None
    if isinstance(value, Sequence):
        return [{k: v for k, v in part.items() if k != "path"} for part in value]
    return value


def check_data(before: Mapping[str, Any], prepared: Prepared) -> None:
    """Refuse data that have changed since the run started.

    Args:
        before: ``data`` of the ledger's first row.
        prepared: As they are now.
    Raises:
        DataError: With the key of each set.
    """
    now = prepared.model_dump(mode="json")
    pairs: dict[str, tuple[Any, Any]] = {"data.train": (_tokens(before["train"]), _tokens(now["train"]))}
    for old, new in zip(before["validation"], now["validation"], strict=True):
        pairs[f"data.validation.{old['name']}"] = (_tokens(old["data"]), _tokens(new["data"]))
    pairs["data.test"] = (before.get("test"), now["test"])
    problems = [
        Problem(
            "resume", key, "has changed since the run started", "restore the old files, or start a new run"
        )
        for key, (old, new) in pairs.items()
        if old != new
    ]
    if problems:
        raise DataError(problems)


def check_own_metrics(before: Mapping[str, Any], spec: SweepSpec) -> None:
    """Refuse a metric of the user's own whose rows or function have changed since the run started.

    Args:
        before: ``own_metrics`` of the ledger's first row.
        spec: The spec of the resume.
    Raises:
        SpecError: With the key of each metric.
        OwnMetricError: If a file is gone.
    """
    problems = [
        Problem(
            where="resume",
            key=f"{task.place}.metric",
            rule="has changed since the run started: the rows, or the file of the function",
            remedy="restore the old files, or start a new run",
            value=task.function,
        )
        for task in own_tasks(spec)
        if before.get(task.name, task.expected) != task.expected
    ]
    if problems:
        raise SpecError(problems)


def _tokens(found: Mapping[str, Any]) -> tuple[Any, Any]:
    return found["digest"], found.get("domains", {})


def check_model(state: SweepState, spec: SweepSpec) -> None:
    """Refuse another model than the run's, also at the same path or hub id: a branch of the hub moves.

    The digest on record is the latest one, because a model of the hub may not have been on the driver's machine at
    first. One at the same place is compared if its files are here, then and now.

    Raises:
        SpecError: If it differs, or lies elsewhere and cannot be compared.
    """
    known = (row.get("model_digest") for row in (*reversed(state.resumes), state.header))
    recorded = next((digest for digest in known if digest is not None), None)
    before = Model.model_validate(state.spec["model"])
    moved = (before.path, before.revision) != (spec.model.path, spec.model.revision)
    if recorded is None and moved:
        recorded = model_digest(before)
    now = model_digest(spec.model)
    if not moved and (recorded is None or now is None):
        return
    if recorded is None or now is None:
        rule = "cannot be compared with the run's model, whose files are not on this machine"
        remedy = f"keep {before.path}, or download it first"
    elif recorded != now:
        rule = "is not the model that the run started with"
        remedy = "restore its files, or pin its commit with model.revision, or start a new run"
    else:
        return
    raise SpecError([Problem("resume", "model.path", rule, remedy, spec.model.path)])


def trials_in_force(
    state: SweepState, spec: SweepSpec, in_file: int | None, overrides: Sequence[str]
) -> int | None:
    """The number of trials of the resumed sweep: the latest of ``search.trials``, ``--set`` and ``sweepft extend``.

    Args:
        state: Of the run so far.
        spec: With the overrides.
        in_file: ``search.trials`` of the run's ``spec.yaml``.
        overrides: ``--set`` of this resume.
    """
    given = any(text.partition("=")[0].strip() in ("search.trials", "search") for text in overrides)
    known = {
        (row.get("spec") or {}).get("search", {}).get("trials") for row in (state.header, *state.resumes)
    }
    if given or spec.search.trials != in_file:
        return spec.search.trials
    return state.asked_trials if in_file in known else in_file


def drop_checkpoints(state: SweepState, checkpoints: Path, changes: Mapping[str, Any]) -> list[str]:
    """Remove the checkpoints of unfinished trials if the number of ranks has changed.

    Returns:
        The unfinished trials that have begun: all train again up to where they were, without recording.
    """
    if "resources.workers_per_trial" not in changes:
        return []
    begun = [t for t in state.with_status("running", "interrupted", "paused") if t.samples_seen]
    for trial in begun:
        if newest_checkpoint(checkpoints / trial.trial_id, trial.samples_seen) is not None:
            remove_checkpoints(checkpoints / trial.trial_id)
    return [trial.trial_id for trial in begun]

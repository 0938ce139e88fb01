"""Which commands make sense of a sweep as it stands: its sender is told in the same words as by the driver."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sweepft.errors import Problem, SpecError
from sweepft.recorder import Command, RunView, TrialView
from sweepft.spec import SweepSpec
from sweepft.spec.space import same

__all__ = ["clone_config", "refusal"]

_OPEN = ("running", "parked", "interrupted")


def refusal(command: Command, view: RunView, spec: SweepSpec, closing: str | None = None) -> Problem | None:
    """Why a command cannot be carried out, or None.

    Args:
        command: As given.
        view: The sweep as it stands.
        spec: Of the sweep.
        closing: Why no more trials are proposed, where that is so.
    """
    trial = None
    if command.trial_id is not None:
        trial = view.trials.get(command.trial_id)
        if trial is None:
            there = f"{next(iter(view.trials))} to {list(view.trials)[-1]}" if view.trials else "none yet"
            return _problem(command, "there is no such trial", f"trials: {there}; see sweepft status")
        if trial.confirms is not None:
            remedy = f"give the command on a trial of the search, e.g. {trial.confirms}"
            return _problem(command, f"the trial is a fresh seed of {trial.confirms}", remedy)
    match command.command:
        case "stop" if trial is not None:
            return _ended(command, trial, view)
        case "pin" | "clone" if trial is None:
            return _problem(command, "must name a trial", f"sweepft {command.command} RUN TRIAL")
        case "pin" if trial is not None:
            return _ended(command, trial, view)
        case "clone" if trial is not None:
            return _closed(command, closing) or _clone(command, trial, view, spec)
        case "extend":
            return _closed(command, closing) or _extend(command, view)
        case "pause" if view.paused:
            return _problem(command, "the sweep is paused already", "go on with: sweepft continue RUN")
        case "pause":
            return _closed(command, closing)
        case "continue" if not view.paused:
            return _problem(command, "the sweep is not paused", "nothing is to be done")
    return None


def clone_config(command: Command, trial: TrialView) -> dict[str, Any]:
    """The configuration a clone is to have: its trial's, with what was set."""
    return {**trial.config, **command.arguments.get("config", {})}


def _ended(command: Command, trial: TrialView, view: RunView) -> Problem | None:
    if trial.status in _OPEN:
        return None
    left = ", ".join(t.trial_id for t in view.with_status(*_OPEN)) or "none"
    return _problem(command, f"the trial has already ended ({trial.status})", f"still open: {left}")


def _closed(command: Command, closing: str | None) -> Problem | None:
    if closing is None:
        return None
    return _problem(command, f"no more trials are started: {closing}", "go on later with: sweepft resume RUN")


def _clone(command: Command, trial: TrialView, view: RunView, spec: SweepSpec) -> Problem | None:
    changes = command.arguments.get("config")
    if not isinstance(changes, Mapping) or not changes:
        return _problem(command, "must change something", "for example --set learning_rate=2e-5")
    for key, value in changes.items():
        dimension = spec.search.space.get(key)
        if dimension is None:
            remedy = f"a clone may differ in: {', '.join(spec.search.space)}"
            return _problem(command, f"{key} is not swept", remedy, value)
        if not dimension.contains(value):
            shown = list(dimension.choices) if dimension.choices else list(dimension.bounds)
            remedy = "choose a value in it, or start a sweep with a wider space"
            rule = f"{key} must lie in search.space.{key}: {dimension.kind} {shown}"
            return _problem(command, rule, remedy, value)
    config = clone_config(command, trial)
    try:
        spec.trial_settings(config)
    except SpecError as error:
        first = error.problems[0]
        return _problem(command, f"{first.key}: {first.rule}", first.remedy, first.value)
    for other in view.trials.values():
        if same(dict(other.config), config):
            rule = f"these settings were tried already: {other.trial_id} ({other.status})"
            return _problem(command, rule, "set something else", dict(changes))
    if any(same(dict(row["arguments"]["config"]), config) for row in view.accepted("clone")):
        return _problem(command, "such a clone was asked for already", "set something else", dict(changes))
    return None


def _extend(command: Command, view: RunView) -> Problem | None:
    planned, wanted = view.planned_trials, command.arguments.get("trials")
    if planned is None:
        remedy = "it goes on until its search.limit is reached"
        return _problem(command, "the sweep has no number of trials", remedy)
    planned -= view.clones
    if not isinstance(wanted, int) or isinstance(wanted, bool) or wanted <= planned:
        rule = f"--trials must be more than the {planned} that are planned"
        return _problem(command, rule, "give the number of all trials, not of those to add", wanted)
    return None


def _problem(command: Command, rule: str, remedy: str, value: Any = None) -> Problem:
    return Problem(command.command, command.trial_id or "RUN", rule, remedy, value)

"""Commands to a running sweep: the checks, and the driver that answers and carries them out.

``command_problem`` is asked by the sender before a command is written, and by the driver, whose answer counts.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ray import tune
from ray.tune.experiment import Trial

from sweepft.driver.configs import checkpoint_policy
from sweepft.driver.control import DriverOnly, SweepControl
from sweepft.driver.scheduler import SweepScheduler, stop_idle_trial
from sweepft.errors import LeaseLost, Problem, SpecError, StorageError
from sweepft.ledger import (
    Command,
    CommandInbox,
    EventLog,
    Row,
    SweepState,
    TrialState,
)
from sweepft.redact import redact_within
from sweepft.search import Proposer
from sweepft.slot.checkpoints import mark_exempt, request_pause
from sweepft.spec import SweepSpec
from sweepft.spec.space import same

_log = logging.getLogger(__name__)

_OPEN = ("running", "paused", "interrupted")


def command_problem(
    command: Command, view: SweepState, spec: SweepSpec, closed: str | None = None
) -> Problem | None:
    """Why a command cannot be carried out, or None. Its sender and the driver both ask.

    Args:
        command: As given.
        view: The state of the sweep.
        spec: Of the sweep.
        closed: Why no trials are added to the search any more, or None.
    """
    trial = None
    if command.trial_id is not None:
        trial = view.trials.get(command.trial_id)
        if trial is None:
            there = f"{next(iter(view.trials))} to {list(view.trials)[-1]}" if view.trials else "none yet"
            return _problem(command, "there is no such trial", f"trials: {there}; see sweepft status")
        if trial.replicate_of is not None:
            remedy = f"name a trial of the search, e.g. {trial.replicate_of}"
            return _problem(command, f"the trial is a replicate of {trial.replicate_of}", remedy)
    match command.command:
        case "stop" if trial is not None:
            return _if_ended(command, trial, view)
        case "pin" | "clone" if trial is None:
            return _problem(command, "must name a trial", f"sweepft {command.command} RUN TRIAL")
        case "pin" if trial is not None:
            return _if_ended(command, trial, view)
        case "clone" if trial is not None:
            return _if_closed(command, closed) or _if_no_clone(command, trial, view, spec)
        case "extend":
            return _if_closed(command, closed) or _if_no_extension(command, view)
        case "pause" if view.paused:
            return _problem(command, "the sweep is already paused", "to continue: sweepft continue RUN")
        case "pause":
            return _if_closed(command, closed)
        case "continue" if not view.paused:
            return _problem(command, "the sweep is not paused", "nothing to do")
    return None


def clone_params(command: Command, trial: TrialState) -> dict[str, Any]:
    """The params of a clone: those of its trial, with the given changes."""
    return {**trial.params, **command.arguments.get("params", {})}


def _if_ended(command: Command, trial: TrialState, view: SweepState) -> Problem | None:
    if trial.status in _OPEN:
        return None
    left = ", ".join(t.trial_id for t in view.with_status(*_OPEN)) or "none"
    return _problem(command, f"the trial has already ended ({trial.status})", f"still open: {left}")


def _if_closed(command: Command, closed: str | None) -> Problem | None:
    if closed is None:
        return None
    changed = " --set search.enough=null" if closed.startswith("search.enough") else ""
    return _problem(command, f"no more trials are started: {closed}", f"later: sweepft resume RUN{changed}")


def _if_no_clone(command: Command, trial: TrialState, view: SweepState, spec: SweepSpec) -> Problem | None:
    changes = command.arguments.get("params")
    if not isinstance(changes, Mapping) or not changes:
        return _problem(command, "must change something", "for example --set learning_rate=2e-5")
    for key, value in changes.items():
        dimension = spec.search.space.get(key)
        if dimension is None:
            remedy = f"a clone may change: {', '.join(spec.search.space)}"
            return _problem(command, f"{key} is not swept", remedy, value)
        batch = clone_params(command, trial).get("batch_size", spec.train.batch_size)
        if not dimension.contains(value, batch):
            shown = list(dimension.choices) if dimension.choices else list(dimension.bounds)
            rule = f"{key} must lie in search.space.{key}: {dimension.kind} {shown}"
            return _problem(command, rule, "choose a value in it, or start a sweep with a wider space", value)
    params = clone_params(command, trial)
    try:
        spec.train_config(params, view.budget_samples, view.tokens_per_sample)
    except SpecError as error:
        first = error.problems[0]
        return _problem(command, f"{first.key}: {first.rule}", first.remedy, first.value)
    for other in view.trials.values():
        if same(dict(other.params), params):
            rule = f"these params were tried already: {other.trial_id} ({other.status})"
            return _problem(command, rule, "set something else", dict(changes))
    if any(same(dict(row["arguments"]["params"]), params) for row in view.accepted("clone")):
        return _problem(command, "the same clone is already queued", "set something else", dict(changes))
    return None


def _if_no_extension(command: Command, view: SweepState) -> Problem | None:
    planned, wanted = view.planned_trials, command.arguments.get("trials")
    if planned is None:
        remedy = "it continues until its search.limit is reached"
        return _problem(command, "the sweep has no number of trials", remedy)
    planned -= view.clones
    if not isinstance(wanted, int) or isinstance(wanted, bool) or wanted <= planned:
        rule = f"--trials must be more than the {planned} that are planned"
        return _problem(command, rule, "give the number of all trials, not of those to add", wanted)
    return None


def _problem(command: Command, rule: str, remedy: str, value: Any = None) -> Problem:
    return Problem(command.command, command.trial_id or "RUN", rule, remedy, value)


class CommandHandler(DriverOnly):
    """Answers the commands on one sweep and carries them out.

    The ``command`` rows hold what was accepted: a driver that resumes after a crash or a pause reads there which stops,
    clones and extensions are still to be carried out.

    Args:
        spec: Of the sweep.
        run_dir: Its folder.
        event_log: Takes the answers.
        control: Of the sweep.
    """

    def __init__(self, spec: SweepSpec, run_dir: Path, event_log: EventLog, control: SweepControl) -> None:
        self._spec = spec
        self._event_log = event_log
        self._control = control
        self._inbox = CommandInbox(run_dir)
        self._answered = {row["command_id"] for row in event_log.state.commands}
        self._checkpoints = Path(checkpoint_policy(spec, run_dir).folder)
        self._scheduler: SweepScheduler | None = None
        self._proposer: Proposer | None = None
        request_pause(self._checkpoints, False)

    def begin_session(self, scheduler: SweepScheduler, proposer: Proposer) -> None:
        """Trials start, or start again. Carry out what was accepted earlier and is not done yet."""
        self._scheduler, self._proposer = scheduler, proposer
        view = self._event_log.state
        proposer.trials = view.asked_trials
        done = [trial.params for trial in view.trials.values() if trial.origin == "clone"]
        for row in view.accepted("clone"):
            if row["arguments"]["params"] not in done:
                with contextlib.suppress(ValueError):  # tried by the sampler meanwhile
                    proposer.clone(row["arguments"]["params"])
        for row in view.accepted("pin"):
            if row["trial_id"] in proposer.paused:
                proposer.recall(row["trial_id"])
        for row in view.accepted("stop"):
            trial = view.trials.get(row["trial_id"] or "")
            if trial is not None and trial.status in ("running", "interrupted"):
                self._control.request_trial_stop(trial.trial_id, f"stopped by {row['who']}")

    def end_session(self) -> None:
        """No trial runs until the next `begin_session`."""
        self._scheduler = self._proposer = None

    def poll(self) -> None:
        """Take the commands that have come. Raises StorageError or LeaseLost where the ledger cannot be written."""
        self._event_log.check()
        self._take_new(self._control.closed)

    def wait_while_paused(self) -> bool:
        """Wait while the sweep is paused; whether it continues (else it is to stop)."""
        while self._control.phase == "pausing":
            time.sleep(0.2)
            self.poll()
        return not self._control.stopping

    def close(self) -> None:
        """Refuse what comes when the sweep is over."""
        self._take_new(lambda: "the sweep is over")

    def _take_new(self, closed: Callable[[], str | None]) -> None:
        """Answer new commands. One that cannot be read or carried out is passed over: it must not end the sweep."""
        try:
            new = self._inbox.new()
        except Exception:
            _log.exception("commands not read")
            return
        for command in new:
            if command.command_id in self._answered:
                continue
            self._answered.add(command.command_id)
            try:
                self._take(command, closed())
            except (StorageError, LeaseLost):
                raise
            except Exception:
                _log.exception("command passed over: %s", command.command)

    def _take(self, command: Command, closed: str | None) -> None:
        problem = command_problem(command, self._event_log.state, self._spec, closed)
        arguments = dict(command.arguments)
        if command.command == "clone" and problem is None:
            assert command.trial_id is not None
            arguments["params"] = clone_params(command, self._event_log.state.trials[command.trial_id])
            problem = self._clone(command, arguments["params"])
        answer = f"{problem.rule}; {problem.remedy}" if problem else self._answer(command)
        row = self._event_log.write(
            "command",
            command_id=command.command_id,
            command=command.command,
            trial_id=command.trial_id,
            arguments=arguments if problem is None else redact_within(arguments),
            who=command.who,
            asked=command.asked,
            accepted=problem is None,
            answer=answer,
        )
        if problem is None:
            self._carry_out(row)

    def _answer(self, command: Command) -> str:
        """What an accepted command leads to."""
        trial = self._event_log.state.trials.get(command.trial_id or "")
        match command.command:
            case "stop" if trial is None:
                return "stopping now" if self._control.stopping else "stopping at the next rungs"
            case "stop" if trial is not None and (trial.status == "paused" or self._scheduler is None):
                return "stopped"
            case "stop":
                return "stops at its next report point"
            case "pin" if trial is not None and trial.status == "paused":
                return "queued next; exempt from early stopping"
            case "pin":
                return "exempt from early stopping"
            case "clone":
                return "queued next"
            case "extend":
                return f"{command.arguments['trials']} trials"
            case "pause":
                return "running trials pause at their next report point"
        return "continuing"

    def _carry_out(self, row: Row) -> None:
        trial_id, who = row["trial_id"], row["who"]
        match row["command"]:
            case "stop" if trial_id is None:
                self._control.request_stop(f"stopped by {who}")
            case "stop":
                self._stop(trial_id, f"stopped by {who}")
            case "pin" if self._scheduler is not None and self._proposer is not None:
                self._scheduler.early_stopper.pin(trial_id, who)
                if self._spec.early_stop.patience is not None:
                    mark_exempt(self._checkpoints / trial_id)
                if trial_id in self._proposer.paused:
                    self._proposer.recall(trial_id)
            case "extend":
                self._extend(row["arguments"]["trials"])
            case "pause":
                self._control.request_pause()
                request_pause(self._checkpoints, True)
            case "continue":
                self._control.end_pause()
                request_pause(self._checkpoints, False)

    def _clone(self, command: Command, params: dict[str, Any]) -> Problem | None:
        """Queue a clone with the proposer, which also knows trials that have not started yet."""
        try:
            if self._proposer is not None:
                self._proposer.clone(params)
        except ValueError as error:
            return _problem(command, str(error), "set something else")
        return None

    def _extend(self, trials: int) -> None:
        if self._proposer is not None and self._proposer.trials is not None:
            self._proposer.trials = trials

    def _stop(self, trial_id: str, reason: str) -> None:
        """End a trial: at once if no slot trains it, else at its next report point."""
        trial = self._event_log.state.trials[trial_id]
        if trial.status != "paused" and self._scheduler is not None:
            self._control.request_trial_stop(trial_id, reason)
            return
        stop_idle_trial(
            self._event_log,
            trial,
            reason,
            checkpoints=self._checkpoints,
            scheduler=self._scheduler,
            proposer=self._proposer,
        )


class CommandPoller(DriverOnly, tune.Callback):
    """Has the driver look for commands at each turn of Tune's loop, at least ten times a second or so.

    Args:
        handler: Answers them.
    """

    def __init__(self, handler: CommandHandler) -> None:
        self._handler = handler

    def on_step_begin(self, iteration: int, trials: Sequence[Trial], **info: Any) -> None:
        """Tune's loop turns."""
        self._handler.poll()

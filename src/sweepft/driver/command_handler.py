"""The driver's ear for commands: takes each one once, answers it in the ledger, and does what it says.

One idea: what stands is folded from the ``command`` rows. A driver that goes on with a sweep, after a crash or a pause,
reads there which stops, clones and extensions are still to be carried out.
"""
# MERGED Which commands make sense of a sweep as it stands: its sender is told in the same words as by the driver.

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sweepft.driver.configs import checkpoint_policy
from sweepft.driver.control import SweepControl
from sweepft.errors import Problem, SpecError
from sweepft.ledger import Command, CommandInbox, EventLog, Row, SweepState, TrialState
from sweepft.schedulers import EarlyDynamicsScheduler
from sweepft.search import Proposer
from sweepft.slot.checkpoints import remove_checkpoints, request_pause
from sweepft.spec import SweepSpec
from sweepft.spec.space import same

if TYPE_CHECKING:
    from sweepft.driver.final_stage import FinalStage

_OPEN = ("running", "paused", "interrupted")


def command_problem(
    command: Command, view: SweepState, spec: SweepSpec, closing: str | None = None
) -> Problem | None:
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
        if trial.replicate_of is not None:
            remedy = f"give the command on a trial of the search, e.g. {trial.replicate_of}"
            return _problem(command, f"the trial is a fresh seed of {trial.replicate_of}", remedy)
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


def clone_config(command: Command, trial: TrialState) -> dict[str, Any]:
    """The configuration a clone is to have: its trial's, with what was set."""
    return {**trial.params, **command.arguments.get("config", {})}


def _ended(command: Command, trial: TrialState, view: SweepState) -> Problem | None:
    if trial.status in _OPEN:
        return None
    left = ", ".join(t.trial_id for t in view.with_status(*_OPEN)) or "none"
    return _problem(command, f"the trial has already ended ({trial.status})", f"still open: {left}")


def _closed(command: Command, closing: str | None) -> Problem | None:
    if closing is None:
        return None
    return _problem(command, f"no more trials are started: {closing}", "go on later with: sweepft resume RUN")


def _clone(command: Command, trial: TrialState, view: SweepState, spec: SweepSpec) -> Problem | None:
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
        spec.train_config(config, view.budget_samples)
    except SpecError as error:
        first = error.problems[0]
        return _problem(command, f"{first.key}: {first.rule}", first.remedy, first.value)
    for other in view.trials.values():
        if same(dict(other.params), config):
            rule = f"these settings were tried already: {other.trial_id} ({other.status})"
            return _problem(command, rule, "set something else", dict(changes))
    if any(same(dict(row["arguments"]["config"]), config) for row in view.accepted("clone")):
        return _problem(command, "such a clone was asked for already", "set something else", dict(changes))
    return None


def _extend(command: Command, view: SweepState) -> Problem | None:
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


class CommandHandler:
    """Commands on one sweep, from its begin to its end.

    Args:
        spec: Of the sweep.
        run_dir: Its folder.
        recorder: Writes the answers.
        winding: Told when the whole sweep shall stop.
        limit: Why no more trials are proposed, or None.

    Attributes:
        stops: Trials that end at their next report point, with the reason.
        pausing: Whether trials leave at their next report point, and none starts.
        cut: Whether a pause has ended the search for new trials since `begin`.
        finals: What follows the search; once it has begun, there are no more trials.
    """

    def __init__(
        self,
        spec: SweepSpec,
        run_dir: Path,
        event_log: EventLog,
        control: SweepControl,
        limit: Callable[[], str | None],
    ) -> None:
        self._spec = spec
        self._event_log = event_log
        self._control = control
        self._limit = limit
        self._inbox = CommandInbox(run_dir)
        self._answered = {row["command_id"] for row in event_log.view.commands}
        self._checkpoints = Path(checkpoint_policy(spec, run_dir).folder)
        self._scheduler: EarlyDynamicsScheduler | None = None
        self._proposer: Proposer | None = None
        self.stops: dict[str, str] = {}
        self.pausing = self.cut = False
        self.final_stage: FinalStage | None = None
        request_pause(self._checkpoints, False)

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Tune pickles what its scheduler holds, for a restore that we do not use

    def begin(self, scheduler: EarlyDynamicsScheduler, proposer: Proposer) -> None:
        """Trials start, or start again: these objects are in force now. Carry out what still stands."""
        self._scheduler, self._proposer = scheduler, proposer
        self.pausing = self.cut = False
        view = self._event_log.view
        for row in view.accepted("extend"):
            self._extend(row["arguments"]["trials"])
        done = [trial.params for trial in view.trials.values() if trial.origin == "clone"]
        for row in view.accepted("clone"):
            if row["arguments"]["config"] not in done:
                with contextlib.suppress(ValueError):  # tried by the sampler meanwhile
                    proposer.clone(row["arguments"]["config"])
        for row in view.accepted("pin"):
            if row["trial_id"] in proposer.paused:
                proposer.recall(row["trial_id"])
        for row in view.accepted("stop"):
            trial = view.trials.get(row["trial_id"] or "")
            if trial is not None and trial.status in ("running", "interrupted"):
                self.stops[trial.trial_id] = f"stopped by {row['who']}"

    def leave(self) -> None:
        """The trials of now have ended: until `begin`, nothing runs."""
        self._scheduler = self._proposer = None

    def closing(self) -> str | None:
        """Why no more trials are proposed, or None."""
        if self._control.soft:
            return self._control.reason
        if self.final_stage is not None and self.final_stage.begun:
            return "the finalists are chosen"
        return self._limit()

    def poll(self) -> None:
        """Take the commands that have come. Raises StorageError where the ledger cannot be written."""
        for command in self._inbox.new():
            if command.command_id not in self._answered:
                self._answered.add(command.command_id)
                self._take(command, self.closing())

    def wait(self) -> bool:
        """Wait while the sweep is paused; whether it goes on (else it shall stop)."""
        while self.pausing and not self._control.soft:
            time.sleep(0.2)
            self.poll()
        return not self._control.soft

    def close(self) -> None:
        """The sweep is over: what comes now comes too late."""
        for command in self._inbox.new():
            if command.command_id not in self._answered:
                self._take(command, "the sweep is over")

    def _take(self, command: Command, closing: str | None) -> None:
        problem = command_problem(command, self._event_log.view, self._spec, closing)
        arguments = dict(command.arguments)
        if command.command == "clone" and problem is None:
            assert command.trial_id is not None
            arguments["config"] = clone_config(command, self._event_log.view.trials[command.trial_id])
            problem = self._clone(command, arguments["config"])
        answer = f"{problem.rule}; {problem.remedy}" if problem else self._promise(command)
        row = self._event_log.write(
            "command",
            command_id=command.command_id,
            command=command.command,
            trial_id=command.trial_id,
            arguments=arguments,
            who=command.who,
            asked=command.asked,
            accepted=problem is None,
            answer=answer,
        )
        if problem is None:
            self._do(row)

    def _promise(self, command: Command) -> str:
        """What will come of an accepted command."""
        trial = self._event_log.view.trials.get(command.trial_id or "")
        match command.command:
            case "stop" if trial is None:
                return "the sweep stops now" if self._control.soft else "the sweep stops at the next windows"
            case "stop" if trial is not None and (trial.status == "paused" or self._scheduler is None):
                return "it has ended"
            case "stop":
                return "it ends at its next report point"
            case "pin" if trial is not None and trial.status == "paused":
                return "it comes back next, and no rule stops it"
            case "pin":
                return "no rule stops it"
            case "clone":
                return "it runs next"
            case "extend":
                return f"{command.arguments['trials']} trials"
            case "pause":
                return "running trials leave at their next report point"
        return "going on"

    def _do(self, row: Row) -> None:
        trial_id, who = row["trial_id"], row["who"]
        match row["command"]:
            case "stop" if trial_id is None:
                self._control.ask(f"stopped by {who}")
            case "stop":
                self._stop(trial_id, f"stopped by {who}")
            case "pin" if self._scheduler is not None and self._proposer is not None:
                self._scheduler.early_stopper.pin(trial_id, who)
                if trial_id in self._proposer.paused:
                    self._proposer.recall(trial_id)
            case "extend":
                self._extend(row["arguments"]["trials"])
            case "pause":
                self.pausing = self.cut = True
                request_pause(self._checkpoints, True)
            case "continue":
                self.pausing = False
                request_pause(self._checkpoints, False)

    def _clone(self, command: Command, config: dict[str, Any]) -> Problem | None:
        """Queue it with the search, which knows of trials that have not started yet."""
        try:
            if self._proposer is not None:
                self._proposer.clone(config)
        except ValueError as error:
            return Problem(command.command, command.trial_id or "", str(error), "set something else")
        return None

    def _extend(self, trials: int) -> None:
        if self._proposer is not None and self._proposer.trials is not None:
            self._proposer.trials = max(self._proposer.trials, trials)

    def _stop(self, trial_id: str, reason: str) -> None:
        """End a trial: now if nobody trains it, else when it next reports."""
        trial = self._event_log.view.trials[trial_id]
        if trial.status != "paused" and self._scheduler is not None:
            self.stops[trial_id] = reason
            return
        self._event_log.write(
            "end",
            trial_id=trial_id,
            attempt=len(trial.attempts),
            status="stopped",
            reason=reason,
            objective=None,
            step=trial.step,
            samples_seen=trial.samples_seen,
            tokens_seen=trial.tokens_seen,
        )
        if self._scheduler is not None and self._proposer is not None:
            self._scheduler.give_up(trial_id)
            self._proposer.tell(trial_id, "stopped", reason=reason)
        remove_checkpoints(self._checkpoints / trial_id)

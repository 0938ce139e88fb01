"""Winding a sweep down: by its user (Ctrl-C), or because the run folder can no longer be written."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ray import tune
from ray.tune.schedulers import TrialScheduler

from sweepft.schedulers import EarlyDynamicsScheduler

if TYPE_CHECKING:
    from sweepft.driver.command_handler import CommandHandler


def is_aside(trial: Any) -> bool:
    """Whether a Tune trial is no candidate of the search: a finalist's fresh seed, or an exam."""
    return trial.config.get("origin") in ("replicate", "eval_job")


class SweepControl:
    """How far a sweep is being wound down.

    Attributes:
        soft: No new trials; running ones end at their next window.
        hard: Everything ends now.
        gave_up: Whether it is ended because nothing works.
        reason: Why, as a sentence.
    """

    def __init__(self) -> None:
        self.soft = False
        self.hard = False
        self.gave_up = False
        self.reason: str | None = None

    def ask(self, reason: str) -> None:
        """First call: soft. Second call: hard."""
        self.hard = self.soft
        self.soft = True
        self.reason = reason

    def give_up(self, reason: str) -> None:
        """End everything now, since going on is of no use."""
        self.soft = self.hard = self.gave_up = True
        self.reason = reason


class SweepScheduler(EarlyDynamicsScheduler):
    """The scheduler, which also ends trials that a person wants to end, and all of them when the sweep is wound down
    (at their next window) or paused (as soon as they are ready).

    The window is judged all the same, so that a resumed sweep has the verdicts of an undisturbed one. What runs aside
    is not judged.
    """

    control: SweepControl | None = None
    lost: Callable[[Any], bool] | None = None
    """Told of a trial whose slot is gone; False when the trial has failed with it, else it runs on elsewhere."""
    command_handler: CommandHandler | None = None
    brings_back = True

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self._cut: set[str] = set()

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        """A candidate joins."""
        if not is_aside(trial):
            super().on_trial_add(tune_controller, trial)

    def _hyperparameters(self, trial: Any) -> dict[str, Any]:
        """As the ledger has them: see `sweepft.early_stopping.from_ledger`."""
        return {**trial.config["train_config"].to_dict(), **trial.config["params"]}

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Judge, then end what is to be ended."""
        aside = is_aside(trial)
        if not aside and super().on_trial_result(tune_controller, trial, result) == TrialScheduler.STOP:
            return str(TrialScheduler.STOP)
        command_handler, name = self.command_handler, self._name(trial)
        if not aside and command_handler is not None and name in command_handler.stops:
            self.early_stopper.stop(name, command_handler.stops.pop(name))
            return str(TrialScheduler.STOP)
        control = self.control is not None and self.control.soft and ("rung" in result or "scored" in result)
        pausing = (
            command_handler is not None
            and command_handler.pausing
            and ("paused" in result or "scored" in result)
        )
        if control or pausing:
            self._cut.add(trial.trial_id)
            return str(TrialScheduler.STOP)
        return str(TrialScheduler.CONTINUE)

    def on_trial_remove(self, tune_controller: Any, trial: Any) -> None:
        """A candidate was withdrawn."""
        if not is_aside(trial):
            super().on_trial_remove(tune_controller, trial)

    def on_trial_error(self, tune_controller: Any, trial: Any) -> None:
        """A trial's slot is gone, which need not be its end."""
        runs_on = self.lost is not None and self.lost(trial)
        if not (runs_on or is_aside(trial)):
            super().on_trial_error(tune_controller, trial)

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        """A trial that failed says so in its last result; one that was cut short has not ended."""
        if is_aside(trial) or trial.trial_id in self._cut:
            return
        if result and result.get("failed"):
            super().on_trial_error(tune_controller, trial)
        else:
            super().on_trial_complete(tune_controller, trial, result)


class SweepStopper(tune.Stopper):
    """Ray's view of a hard end: asked at each turn of Tune's loop."""

    def __init__(self, control: SweepControl) -> None:
        self._control = control

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """Single trials are ended by the scheduler."""
        return False

    def stop_all(self) -> bool:
        """Whether to end all trials now."""
        return self._control.hard

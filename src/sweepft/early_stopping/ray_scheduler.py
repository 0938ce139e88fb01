"""`EarlyDynamicsScheduler`: a Ray Tune scheduler that stops trials on their early training dynamics.

It works in any `tune.Tuner`. It reads results into reports, leaves all decisions to `EarlyStopper`, and hands them to
Ray.
(Over 400 lines: one class, half of it the list of its arguments and the methods that Ray's interface asks for.)
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial, wraps
from hashlib import sha1
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, ParamSpec, TypeVar

from ray.tune.result import DEFAULT_METRIC
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.utils import flatten_dict

from sweepft.bounded_json import read_json_file
from sweepft.early_stopping import (
    EarlyStopper,
    PausedTrial,
    PriorSweepsLike,
    StopDecision,
    make_rule,
    read_prior_sweeps,
)
from sweepft.early_stopping.audit import audit_rate
from sweepft.early_stopping.decisions import DIVERGENCE_CHECK
from sweepft.early_stopping.from_ledger import replay_state, restore_stopper
from sweepft.early_stopping.result_reader import ResultReader
from sweepft.early_stopping.rungs import RungSpec, is_number, parse_rungs
from sweepft.early_stopping.setup_warnings import SetupWarnings
from sweepft.files import atomic_write
from sweepft.ledger import SweepState

if TYPE_CHECKING:
    from ray.tune.execution.tune_controller import TuneController
    from ray.tune.experiment import Trial


_log = logging.getLogger(__name__)
P = ParamSpec("P")
R = TypeVar("R")


def _harmless(otherwise: R) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """A callback of Tune that raises would end the sweep: log what it raises, once, and let the trial go on."""

    def decorate(method: Callable[P, R]) -> Callable[P, R]:
        @wraps(method)
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            try:
                return method(*args, **kwargs)
            except Exception as error:
                scheduler: Any = args[0]
                scheduler.note_error(method.__name__, error)
                return otherwise

        return call

    return decorate


class EarlyDynamicsScheduler(FIFOScheduler):
    """Judges trials at rungs of their budget and stops those that are unlikely to end among the best.

    Args:
        metric: Result key of the objective; may come from `TuneConfig` instead. Results may lack it.
        mode: ``min`` or ``max``; may come from `TuneConfig` instead.
        loss: Result key of the training loss; may be absent from results.
        grad_norm: Result key of the gradient norm; may be absent from results.
        time_attr: Result key of a counter that only grows; ``budget`` and rungs are in its units. By default
            ``samples_seen``, or Ray's ``training_iteration`` where no result has that.
        step_attr: Result key of the optimizer steps; ``training_iteration`` is used where it is absent.
        budget: What a full trial reaches in ``time_attr``.
        max_t: The same by the name that Ray's schedulers give it; trials are then ended there, as by those.
        grace_period: No trial is stopped before this, in units of ``time_attr``.
        reduction_factor: ``eta`` by the name of Ray's `ASHAScheduler`.
        stop_last_trials: Whether ``max_t`` ends trials.
        brackets: Always 1: there are no brackets.
        rungs: Fractions of the budget, or counts ``{"steps": n}``, ``{"samples": n}``.
        min_steps: A trial is judged at a rung only after this many steps and past its warmup (result key
            ``warmup_steps``), else at the next rung. By default 20, but no more than a quarter of a full trial's steps.
        rule: ``none``, ``median``, ``recipe``, ``asha`` or ``calibrated``; see ``docs/how-to/scheduler.md``.
        covariates: Hyperparameters that may explain final results (``calibrated``).
        top_fraction: The best share of the trials, which should be kept (``calibrated``, audits).
        max_false_stop_rate: Share of the top trials that may be flagged (``calibrated``).
        objective_error: Standard error of one value of the objective, where known, as sqrt(p (1 - p) / n) of an
            accuracy p on n questions: trials within it of the top are not flagged (``calibrated``).
        audit: Share of flagged trials trained to completion to measure the error rate; by default 0.05 for
            ``calibrated`` and 0 for other rules.
        max_false_discovery_rate: Share of top trials among the flagged ones above which the rule is switched off.
        eta: Reduction factor of ``asha``.
        seed: Of the audits.
        prior_sweeps: A calibration (a `sweepft.early_stopping.Calibration`, its dict or its JSON file), run folders of
            prior sweeps, whose audits count with those of this sweep, or a list of these.
        pause: Flagged trials may resume. Needs a tuner that resumes them, as `sweepft run` does.
        min_peers: Other trials needed at a rung to judge one.
        keep_last: Number of trials that the rule may not stop; nor is the best trial at a rung stopped.
        divergence_check: Stop trials that diverge, see `sweepft.early_stopping.divergence`.
        trial_name_key: Config key that holds the trial's name in decisions; Ray's own id where it is absent, or where
            another trial has that name.

    Raises:
        ValueError: An argument is wrong; the message begins with its name.

    Results may hold anything: a value that is no number counts as not reported, and no exception of the scheduler ends
    a sweep. Both are logged, as is what keeps it from judging (`SetupWarnings`). A second ``fit`` with the same object
    starts from nothing. Ray does not save a scheduler's state. To resume a sweep call `load_state_dict`, or
    `load_ledger` with the state of its ledger.

    Example:
        >>> from ray import tune
        >>> from sweepft.schedulers import EarlyDynamicsScheduler
        >>> scheduler = EarlyDynamicsScheduler(
        ...     metric="eval_loss", mode="min", time_attr="training_iteration", budget=100, rule="median"
        ... )
        >>> config = tune.TuneConfig(scheduler=scheduler, num_samples=20)
        >>> scheduler.summary()["rule"]
        'median'
    """

    resumes_paused = False
    """Whether the driver of this scheduler resumes paused trials; a subclass may set it."""

    def __init__(
        self,
        metric: str | None = None,
        mode: Literal["min", "max"] | None = None,
        *,
        loss: str = "loss",
        grad_norm: str = "grad_norm",
        time_attr: str | None = None,
        step_attr: str = "step",
        budget: float | None = None,
        max_t: float | None = None,
        grace_period: float | None = None,
        reduction_factor: float | None = None,
        stop_last_trials: bool = True,
        brackets: int = 1,
        rungs: Sequence[RungSpec] = (0.05, 0.10, 0.25, 0.50),
        min_steps: int | None = None,
        rule: str = "calibrated",
        covariates: Sequence[str] = (),
        top_fraction: float = 0.2,
        max_false_stop_rate: float = 0.10,
        objective_error: float = 0.0,
        audit: float | None = None,
        max_false_discovery_rate: float = 0.10,
        min_peers: int = 3,
        eta: float | None = None,
        seed: int = 0,
        prior_sweeps: PriorSweepsLike = None,
        pause: bool = False,
        keep_last: int = 1,
        divergence_check: bool = True,
        trial_name_key: str = "trial_id",
    ) -> None:
        super().__init__()
        audit = audit_rate(rule, audit)
        budget = _one_of("budget", budget, "max_t", max_t)
        if budget is None:
            raise ValueError(
                "budget: must be what a full trial reaches in time_attr (got None)\n"
                "  for example budget=100; max_t=100 is the default of Ray's ASHAScheduler"
            )
        if brackets != 1:
            raise ValueError(f"brackets: must be 1, there are none (got {brackets!r})\n  leave it out")
        if grace_period is not None and not (is_number(grace_period) and 0 < grace_period <= float(budget)):
            raise ValueError(
                f"grace_period: must lie between 0 and the budget of {budget} (got {grace_period!r})"
            )
        eta = _one_of("eta", eta, "reduction_factor", reduction_factor)
        if pause and not self.resumes_paused:
            raise ValueError(
                "pause: a plain Tuner does not resume paused trials\n"
                "  leave it out (flagged trials are then stopped), or run the sweep with `sweepft run`"
            )
        known = read_prior_sweeps(
            prior_sweeps, rule=rule, top_fraction=top_fraction, max_false_stop_rate=max_false_stop_rate
        )
        if mode not in (None, "min", "max"):
            raise ValueError(f"mode: must be 'min' or 'max' (got {mode!r})")
        self._wanted_metric = metric
        self._mode = mode
        self._keys = {"loss": loss, "grad_norm": grad_norm, "step_attr": step_attr}
        self._time_attr = time_attr
        self._end_at = max_t if stop_last_trials else None
        self._trial_name_key = trial_name_key
        self._settings: dict[str, Any] = {
            "rungs": parse_rungs(rungs),
            "budget": budget,
            "min_steps": min_steps,
            "min_progress": grace_period or 0.0,
            "keep_last": keep_last,
            "divergence_check": divergence_check,
            "top_fraction": top_fraction,
            "audit": audit,
            "max_false_discovery_rate": max_false_discovery_rate,
            "seed": seed,
            "pause": pause,
            "prior_sweeps": known,
        }
        self._rule = partial(
            make_rule,
            rule,
            min_peers=min_peers,
            eta=3.0 if eta is None else eta,
            top_fraction=top_fraction,
            max_false_stop_rate=max_false_stop_rate,
            objective_error=objective_error,
            covariates=covariates,
            audit=audit,
            prior_sweeps=known,
        )
        self._unused = {"reduction_factor": reduction_factor} if rule != "asha" and reduction_factor else {}
        self._errors: dict[str, Exception] = {}
        self._start()

    def _start(self) -> None:
        """Know nothing of any trial."""
        self._names: dict[str, str] = {}  # by Ray's id
        self._taken: set[str] = set()
        self._drained = 0
        self._in_use = False
        stopper = EarlyStopper(rule=self._rule(), mode=self._mode or "min", **self._settings)
        self._early_stopper = stopper if self._mode is not None else None
        self._reader = ResultReader(
            metric=self._wanted_metric or DEFAULT_METRIC, time_attr=self._time_attr, **self._keys
        )
        defaults = ("loss", "grad_norm", "step")
        chosen = {argument: key for argument, key in self._keys.items() if key not in defaults}
        self._warnings = SetupWarnings(self._reader, stopper, chosen)

    @property
    def early_stopper(self) -> EarlyStopper:
        """What decides. Raises `ValueError` while metric and mode are unknown."""
        if self._early_stopper is None:
            raise ValueError(
                "mode: the scheduler has no metric and mode yet\n"
                "  pass them here or to tune.TuneConfig(metric=..., mode=...)"
            )
        return self._early_stopper

    # ----- the interface of Ray's schedulers -------------------------------------------------------------

    @property
    def metric(self) -> str:
        """Ray's anonymous metric: with the objective's name Tune would refuse results that lack it."""
        return str(DEFAULT_METRIC)

    def set_search_properties(
        self, metric: str | None, mode: Literal["min", "max"] | None, **spec: Any
    ) -> bool:
        """Take metric and mode from `TuneConfig`; False when they contradict what was given here."""
        for given, own in ((metric, self._wanted_metric), (mode, self._mode)):
            if given and own and given != own:
                return False
        changed = (metric and not self._wanted_metric) or (mode and not self._mode)
        self._wanted_metric = self._wanted_metric or metric
        self._mode = self._mode or mode
        if self._in_use:
            _log.info("EarlyDynamicsScheduler: a new sweep; the trials of the one before are forgotten")
        known = self._early_stopper is not None and self._early_stopper.cohort.trials
        if self._mode and (self._in_use or self._early_stopper is None or (changed and not known)):
            self._start()
        return True

    def on_trial_add(self, tune_controller: TuneController, trial: Trial) -> None:
        """A trial starts, is tried again, or is known from the experiment that Tune restores.

        Raises:
            ValueError: While metric and mode are unknown; no trial has started then.
        """
        _ = self.early_stopper
        if not self._in_use:
            for name, value in self._unused.items():
                self._warnings.tell(name, f"{name}={value!r} is not used: only rule 'asha' has such a factor")
        self._in_use = True
        self._add(trial)

    @_harmless(None)
    def _add(self, trial: Trial) -> None:
        name, early_stopper = self._name(trial), self.early_stopper
        early_stopper.add(name, _plain(self._hyperparameters(trial)))
        last = getattr(trial, "last_result", None)
        if last and not early_stopper.cohort.trials[name].reached:
            self._restore(name, getattr(trial, "status", None), flatten_dict(dict(last)))

    def _restore(self, name: str, status: str | None, last: dict[str, Any]) -> None:
        """Take in a trial of an earlier session, of which only the last result is known."""
        report = self._reader.read(last)
        ended = status == "TERMINATED"
        if report is not None:
            over = report.observations[-1].progress >= self.early_stopper.budget
            self.early_stopper.skip(name, report)
            if ended and over:
                self.early_stopper.complete(name)
        if ended:
            self.early_stopper.remove(name)
        elif status == "ERROR":
            self.early_stopper.fail(name)

    def _hyperparameters(self, trial: Trial) -> Mapping[str, Any]:
        """Covariates are looked up there, and trials with equal ones are repeats."""
        return trial.config or {}

    @_harmless(str(TrialScheduler.CONTINUE))
    def on_trial_result(self, tune_controller: TuneController, trial: Trial, result: dict[str, Any]) -> str:
        """Judge the trial if the result reaches a rung."""
        report = self._reader.read(result)
        if report is None:
            return str(TrialScheduler.CONTINUE)
        name = self._name(trial)
        decisions = self.early_stopper.report(name, report)
        record = self.early_stopper.cohort.trials[name]
        self._warnings.after_result(record)
        for decision in decisions:
            if decision.rule == DIVERGENCE_CHECK and not decision.ends_trial:
                self._warnings.tell("divergence_check", f"trial {name}: {decision.reason}")
        stop = bool(decisions) and decisions[-1].ends_trial
        if self._end_at is not None and record.last_progress >= self._end_at:
            stop = True
        return str(TrialScheduler.STOP if stop else TrialScheduler.CONTINUE)

    @_harmless(None)
    def on_trial_complete(
        self, tune_controller: TuneController, trial: Trial, result: dict[str, Any]
    ) -> None:
        """A trial ended; a last result with ``done`` comes only here. Trials stopped by the scheduler are known
        already.

        Without ``done`` Tune itself is stopping (time budget, Ctrl-C): such a trial has no final result.
        """
        name = self._name(trial)
        if result and result.get("done"):
            self.early_stopper.complete(name, self._reader.read(result))
            record = self.early_stopper.cohort.trials[name]
            if record.status == "completed":
                self._warnings.after_end(record)
        else:
            self.early_stopper.remove(name)

    @_harmless(None)
    def on_trial_error(self, tune_controller: TuneController, trial: Trial) -> None:
        """A trial failed; Ray adds it again if it has retries left."""
        self.early_stopper.fail(self._name(trial))

    @_harmless(None)
    def on_trial_remove(self, tune_controller: TuneController, trial: Trial) -> None:
        """A pending or paused trial was withdrawn."""
        self.early_stopper.remove(self._name(trial))

    def note_error(self, where: str, error: Exception) -> None:
        """An exception in a callback: logged once for each callback and kind of error, and kept for `drain_errors`."""
        about = f"{where}: {type(error).__name__}"
        if about not in self._warnings.messages:
            self._warnings.messages[about] = str(error)
            self._errors[about] = error
            _log.error(
                "EarlyDynamicsScheduler: error in %s; the trial goes on without being judged here",
                where,
                exc_info=error,
            )

    def debug_string(self) -> str:
        """One line for Tune's status output."""
        if self._early_stopper is None:
            return "EarlyDynamicsScheduler: not started"
        summary = self._early_stopper.summary()
        return (
            f"EarlyDynamicsScheduler: rule={summary['rule']} trials={summary['trials']}"
            f" decisions={summary['decisions']} trials_saved={summary['trials_saved']:.2f}"
        )

    def save(self, checkpoint_path: str) -> None:
        """Write the state as JSON."""
        atomic_write(checkpoint_path, json.dumps(self.state_dict()))

    def restore(self, checkpoint_path: str) -> None:
        """Read what `save` wrote."""
        self.load_state_dict(read_json_file(Path(checkpoint_path)))

    # ----- beyond Ray's interface ------------------------------------------------------------------------

    def drain_decisions(self) -> list[StopDecision]:
        """All decisions since the last call, in order, those to continue included."""
        if self._early_stopper is None:
            return []
        fresh = self._early_stopper.decisions[self._drained :]
        self._drained = len(self._early_stopper.decisions)
        return fresh

    def drain_errors(self) -> dict[str, Exception]:
        """Errors in callbacks since the last call, by callback and kind."""
        found, self._errors = self._errors, {}
        return found

    @property
    def warnings(self) -> list[str]:
        """What was logged in this sweep about results, arguments and errors."""
        return list(self._warnings.messages.values())

    def paused_trials(self, *, from_scratch: bool = False) -> list[PausedTrial]:
        """The paused trials, the likeliest first; see `sweepft.early_stopping.pausing`."""
        return self.early_stopper.paused_trials(from_scratch=from_scratch)

    def give_up(self, trial_id: str) -> None:
        """A paused trial will not resume."""
        self.early_stopper.give_up(trial_id)

    def summary(self) -> dict[str, Any]:
        """Counts, audits and what the rule has learned, JSON-able."""
        return self.early_stopper.summary()

    def state_dict(self) -> dict[str, Any]:
        """Everything the scheduler knows, JSON-able and versioned; its arguments are not in it."""
        return {**self.early_stopper.state_dict(), "drained": self._drained}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over a saved state. Raises `ValueError` for another version or mode."""
        self.early_stopper.load_state_dict(state)
        self._in_use = False
        self._drained = int(state.get("drained", 0))

    def load_ledger(self, state: SweepState) -> list[StopDecision]:
        """Rebuild from a sweep's ledger; returns the decisions this rule makes on its reports.

        They count as drained: the ledger has them already.
        """
        decisions = replay_state(self.early_stopper, state)
        self._drained = len(self.early_stopper.decisions)
        return decisions

    def restore_ledger(self, state: SweepState) -> None:
        """Rebuild from a sweep's ledger. For a long sweep the recorded decisions are adopted, which is faster."""
        restore_stopper(self.early_stopper, state)
        self._drained = len(self.early_stopper.decisions)

    def _name(self, trial: Trial) -> str:
        name = self._names.get(trial.trial_id)
        if name is None:
            config = trial.config if isinstance(trial.config, Mapping) else {}
            name = str(config.get(self._trial_name_key) or trial.trial_id)
            if name in self._taken:
                self._warnings.tell(
                    "trial_name_key",
                    f"config key {self._trial_name_key!r} is {name!r} in several trials: the others go by Ray's ids",
                )
                name = str(trial.trial_id)
            self._names[trial.trial_id] = name
            self._taken.add(name)
        return name


def _one_of(name: str, value: float | None, alias: str, given: float | None) -> float | None:
    """The value of an argument that has two names."""
    if value is not None and given is not None and value != given:
        raise ValueError(f"{alias}: is another name of {name}, which is {value!r} (got {given!r})")
    return given if value is None else value


def _plain(config: Any) -> dict[str, Any]:
    """A config as JSON-able data, nested mappings included, for covariates and to recognise repeats."""
    if not isinstance(config, Mapping):
        return {}
    return {str(key): _plain_value(value) for key, value in config.items()}


def _plain_value(value: Any) -> Any:
    """Values that are not plain data are kept as a digest of their repr, so that trials which differ there differ."""
    if isinstance(value, Mapping):
        return _plain(value)
    if isinstance(value, list | tuple):
        return [_plain_value(v) for v in value]
    if value is None or isinstance(value, (str, int, float, bool)):
        return value
    if hasattr(value, "item") and getattr(value, "ndim", None) == 0:
        return value.item()
    return f"{type(value).__name__} {sha1(repr(value).encode(), usedforsecurity=False).hexdigest()[:16]}"

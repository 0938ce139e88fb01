"""`EarlyDynamicsPruner`, an Optuna pruner that judges as `EarlyDynamicsScheduler` does, and `observe` for its input.

Objectives come from ``trial.report``. Losses and gradient norms, which Optuna has no place for, go from `observe` to
the pruner. What other processes need of a trial (its snapshots at rungs, and where it stands) is one small attribute in
the study's storage, of a size that does not grow with the trial.
"""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Sequence
from typing import Any, Final

import optuna
from optuna.trial import FrozenTrial, TrialState

from sweepft.early_stopping import (
    EarlyStopper,
    Observation,
    PriorSweepsLike,
    Report,
    Rung,
    StopDecision,
    make_rule,
    parse_rungs,
    read_prior_sweeps,
)
from sweepft.early_stopping.numbers import as_number
from sweepft.early_stopping.rungs import RungSpec
from sweepft.early_stopping.trial import TrialRecord

_log = logging.getLogger(__name__)
_SUMMARY: Final = "sweepft:early_stopping"  # system attribute of a trial
_EVERY: Final = 0.01  # of the budget: how often a trial is written, and others are read, between rungs
_STUDIES: Final = 4  # kept at the same time


def observe(
    trial: optuna.Trial,
    progress: float,
    *,
    metric: Any = None,
    loss: Any = None,
    grad_norm: Any = None,
) -> None:
    """Give the study's `EarlyDynamicsPruner` what training shows at this point, before ``trial.should_prune()``.

    Values are numbers, of numpy and torch too; what is no number counts as not reported. A second call for the same
    point adds to the first.

    Args:
        trial: The running trial.
        progress: Samples seen or steps done, in the units of the pruner's budget; growing.
        metric: The objective on validation data; also reported to Optuna, at the whole number below ``progress``.
        loss: Training loss, averaged since the last call.
        grad_norm: Gradient norm, averaged since the last call.

    Raises:
        ValueError: ``progress`` is no finite number.
    """
    at = as_number(progress)
    if at is None or not math.isfinite(at):
        raise ValueError(f"progress: must be a finite number, samples or steps (got {progress!r})")
    values = {"loss": as_number(loss), "grad_norm": as_number(grad_norm), "metric": as_number(metric)}
    for name, given in (("loss", loss), ("grad_norm", grad_norm), ("metric", metric)):
        if given is not None and values[name] is None:
            _log.warning(
                "observe: %s is no number (%s): it counts as not reported", name, type(given).__name__
            )
    pruner = _ours(getattr(getattr(trial, "study", None), "pruner", None))
    if pruner is not None:
        pruner.observe(trial, at, **values)
    if values["metric"] is not None:
        trial.report(values["metric"], int(at))


def _ours(pruner: Any) -> EarlyDynamicsPruner | None:
    """The pruner, or the one that it wraps."""
    while pruner is not None and not isinstance(pruner, EarlyDynamicsPruner):
        pruner = getattr(pruner, "_wrapped_pruner", None)
    return pruner


class EarlyDynamicsPruner(optuna.pruners.BasePruner):
    """Prunes trials that are unlikely to end among the best.

    Args:
        budget: A full trial, in the units of the steps that are reported to Optuna and of ``observe``'s progress.
        rungs: Fractions of the budget at which trials are judged.
        rule: As for `sweepft.schedulers.EarlyDynamicsScheduler`, like all that follows.
        min_progress: No trial is pruned before.
        covariates: Parameters that may explain final results (``calibrated``).
        top_fraction: The best share of the trials, which should be kept.
        max_false_stop_rate: Share of the top trials that may be pruned (``calibrated``).
        objective_error: Standard error of one value of the objective, where known (``calibrated``).
        audit: Share of flagged trials trained to completion to measure the error rate.
        max_false_discovery_rate: Share of top trials among the flagged ones above which the rule is switched off.
        min_peers: Other trials needed at a rung.
        eta: Reduction factor of ``asha``.
        keep_last: Number of trials that the rule may not prune; nor is the best trial at a rung pruned.
        divergence_check: Prune trials that diverge, see `sweepft.early_stopping.divergence`.
        seed: Of the audits.
        prior_sweeps: As for the scheduler.

    Attributes:
        decisions: All decisions that were made in this process.

    Decisions on the same reports are those of the scheduler: one `EarlyStopper` for each study makes them. It is kept
    in memory and rebuilt from the storage in a new process, which then lacks the losses since a trial's last rung.
    Between rungs the other trials are read from the storage each hundredth of the budget.

    Example:
        >>> import optuna
        >>> from sweepft.pruners import EarlyDynamicsPruner, observe
        >>> def objective(trial):
        ...     rate = trial.suggest_float("lr", 1e-5, 1e-1, log=True)
        ...     for step in range(1, 11):
        ...         loss = abs(rate - 1e-3) + 1 / step
        ...         observe(trial, step, metric=loss, loss=loss)
        ...         if trial.should_prune():
        ...             raise optuna.TrialPruned
        ...     return loss
        >>> optuna.logging.set_verbosity(optuna.logging.WARNING)
        >>> pruner = EarlyDynamicsPruner(budget=10, rule="median")
        >>> study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0), pruner=pruner)
        >>> study.optimize(objective, n_trials=10)
        >>> len(study.get_trials(states=[optuna.trial.TrialState.PRUNED])) > 0
        True
    """

    def __init__(
        self,
        *,
        budget: float,
        rungs: Sequence[RungSpec] = (0.05, 0.10, 0.25, 0.50),
        rule: str = "calibrated",
        min_progress: float = 0,
        covariates: Sequence[str] = (),
        top_fraction: float = 0.2,
        max_false_stop_rate: float = 0.10,
        objective_error: float = 0.0,
        audit: float = 0.0,
        max_false_discovery_rate: float = 0.10,
        min_peers: int = 3,
        eta: float = 3.0,
        keep_last: int = 1,
        divergence_check: bool = True,
        seed: int = 0,
        prior_sweeps: PriorSweepsLike = None,
    ) -> None:
        known = read_prior_sweeps(
            prior_sweeps, rule=rule, top_fraction=top_fraction, max_false_stop_rate=max_false_stop_rate
        )
        self._rule: dict[str, Any] = {
            "name": rule,
            "min_peers": min_peers,
            "eta": eta,
            "top_fraction": top_fraction,
            "max_false_stop_rate": max_false_stop_rate,
            "objective_error": objective_error,
            "covariates": covariates,
            "audit": audit,
            "prior_sweeps": known,
        }
        self._settings: dict[str, Any] = {
            "rungs": parse_rungs(rungs),
            "budget": budget,
            "min_progress": min_progress,
            "keep_last": keep_last,
            "divergence_check": divergence_check,
            "top_fraction": top_fraction,
            "audit": audit,
            "max_false_discovery_rate": max_false_discovery_rate,
            "seed": seed,
            "prior_sweeps": known,
        }
        self.decisions: list[StopDecision] = []
        self._errors: set[str] = set()
        self._prepare()
        self._new_stopper("min")  # refuses wrong arguments

    def _prepare(self) -> None:
        self._lock = threading.RLock()
        self._studies: dict[tuple[int, int], _Study] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in self.__dict__.items() if k not in ("_lock", "_studies")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._prepare()

    def _new_stopper(self, mode: Any) -> EarlyStopper:
        return EarlyStopper(rule=make_rule(**self._rule), mode=mode, **self._settings)

    def observe(self, trial: optuna.Trial, progress: float, **values: float | None) -> None:
        """What `sweepft.pruners.observe` was given; None stands for a value that was not reported."""
        with self._lock:
            self._study(trial.study).running(trial.number).observe(progress, **values)

    def prune(self, study: optuna.Study, trial: FrozenTrial) -> bool:
        """Whether to end this trial; judged when its last report reaches a rung, and by some rules after it.

        An exception would end the study: it is logged, once for each kind, and the trial goes on.
        """
        with self._lock:
            try:
                known = self._study(study)
                decisions, ends = known.judge(study, trial)
                self.decisions += decisions
                return ends
            except Exception as error:
                kind = type(error).__name__
                if kind not in self._errors:
                    self._errors.add(kind)
                    _log.error("EarlyDynamicsPruner: trial %s goes on", trial.number, exc_info=error)
                return False

    def _study(self, study: optuna.Study) -> _Study:
        key = (id(study._storage), study._study_id)
        known = self._studies.get(key)
        if known is None:
            maximize = study.direction == optuna.study.StudyDirection.MAXIMIZE
            known = self._studies[key] = _Study(
                self._new_stopper("max" if maximize else "min"), study._storage
            )
            while len(self._studies) > _STUDIES:
                del self._studies[next(iter(self._studies))]
        return known


class _Running:
    """What this process knows of a running trial beyond the storage.

    Attributes:
        points: Observed, and not judged yet, by progress.
        steps: Steps of which the objective was taken.
        due: Rungs reached while another trial was judged.
        written: Progress when the summary was written last.
        caught_up: Progress when other trials were read last.
        judged: Whether this process judges it.
    """

    def __init__(self) -> None:
        self.points: dict[float, Observation] = {}
        self.steps: set[int] = set()
        self.due: list[Rung] = []
        self.written = -math.inf
        self.caught_up = -math.inf
        self.judged = False

    def observe(
        self,
        progress: float,
        *,
        loss: float | None = None,
        grad_norm: float | None = None,
        metric: float | None = None,
    ) -> None:
        """Add what is new at this point."""
        point = self.points.get(progress, Observation(int(progress), progress))
        if loss is not None and math.isnan(point.loss):
            point = point._replace(loss=loss if math.isfinite(loss) else math.inf)
        if grad_norm is not None and math.isnan(point.grad_norm):
            point = point._replace(grad_norm=grad_norm)
        if metric is not None:
            self.steps.add(int(progress))
            if math.isfinite(metric):
                point = point._replace(metric=metric)
        self.points[progress] = point

    def report(self, trial: FrozenTrial) -> Report:
        """Everything since the last call."""
        for step, value in trial.intermediate_values.items():
            if step not in self.steps:
                self.observe(float(step), metric=value)
        points, self.points = self.points, {}
        return Report([points[p] for p in sorted(points)])


class _Study:
    """One study as this process knows it.

    Args:
        early_stopper: Judges its trials.
        storage: Kept alive, for its identity names the study.
    """

    def __init__(self, early_stopper: EarlyStopper, storage: Any) -> None:
        self._early_stopper, self._storage = early_stopper, storage
        self._running: dict[int, _Running] = {}
        self._ended: set[int] = set()
        self._first_open = 0  # all trials before this one have ended

    def running(self, number: int) -> _Running:
        """What is known of a running trial."""
        return self._running.setdefault(number, _Running())

    def judge(self, study: optuna.Study, trial: FrozenTrial) -> tuple[list[StopDecision], bool]:
        """Take what the trial has reported, judge it; returns the decisions and whether it is to end."""
        early_stopper, running = self._early_stopper, self.running(trial.number)
        first = not running.judged
        if first:
            self._catch_up(study, trial.number)
        record = self._record(trial)
        if first:  # another process may have begun it
            self._take_summary(record, trial)
            running.judged = True
        if record.status != "running":
            return [], True  # decided before
        report = running.report(trial)
        reached = running.due + early_stopper.take(record.trial_id, report)
        running.due = []
        if not report.observations and not reached:
            return [], False
        due = record.last_progress >= running.caught_up + _EVERY * early_stopper.budget
        if not first and (reached or due):  # a database reads all trials for it: not at every step
            self._catch_up(study, trial.number)
        if first or reached or due:
            running.caught_up = record.last_progress
        # Steps counted from 0 end one short of the budget: then there is nothing left to save.
        if 0 in trial.intermediate_values and record.last_progress + 1 >= early_stopper.budget:
            return [], False
        decisions = early_stopper.judge(record.trial_id, reached)
        if decisions or reached or record.last_progress >= running.written + _EVERY * early_stopper.budget:
            running.written = record.last_progress
            self._storage.set_trial_system_attr(trial._trial_id, _SUMMARY, record.to_summary())
        return decisions, bool(decisions) and decisions[-1].ends_trial

    def _record(self, trial: FrozenTrial) -> TrialRecord:
        name = str(trial.number)
        self._early_stopper.add(name, trial.params)
        record = self._early_stopper.cohort.trials[name]
        record.set_params(trial.params)  # Optuna's grow as it suggests
        return record

    def _catch_up(self, study: optuna.Study, own: int) -> None:
        """Take in what has become of all other trials."""
        trials = study.get_trials(deepcopy=False)[self._first_open :]
        ended = []
        for trial in trials:
            if trial.number in self._ended or trial.number == own or trial.state is TrialState.WAITING:
                continue
            if trial.state.is_finished():
                ended.append(trial)
            else:
                self._follow(trial)
        for trial in sorted(
            ended, key=lambda t: (t.datetime_complete is None, t.datetime_complete or 0, t.number)
        ):
            self._end(trial)
        while self._first_open in self._ended:
            self._ended.discard(self._first_open)
            self._first_open += 1

    def _follow(self, trial: FrozenTrial) -> TrialRecord:
        """A trial that is judged elsewhere, or has not asked yet."""
        record, running = self._record(trial), self.running(trial.number)
        if running.judged:
            return record
        if _SUMMARY in trial.system_attrs:
            self._take_summary(record, trial)
        else:
            report = running.report(trial)
            running.due += self._early_stopper.take(record.trial_id, report)
        return record

    def _take_summary(self, record: TrialRecord, trial: FrozenTrial) -> None:
        summary = trial.system_attrs.get(_SUMMARY)
        if summary is not None and summary["last"][1] > record.last_progress:
            early_stopper = self._early_stopper
            for rung, snapshot in record.take_summary(summary, early_stopper.rungs):
                early_stopper.cohort.put(record.trial_id, rung, snapshot)

    def _end(self, trial: FrozenTrial) -> None:
        record, early_stopper = self._follow(trial), self._early_stopper
        last = self.running(trial.number).report(trial)
        if trial.state is TrialState.COMPLETE and trial.value is not None:
            if record.status != "running":  # it was to end, and trained on
                early_stopper.cohort.set_status(record, "running")
            early_stopper.complete(
                record.trial_id, last, final=trial.value if math.isfinite(trial.value) else None
            )
        elif trial.state is TrialState.PRUNED and record.status == "running":
            early_stopper.mark_stopped(record.trial_id)
        elif trial.state is TrialState.FAIL:
            early_stopper.fail(record.trial_id)
        record.curve.drop_points()
        self._ended.add(trial.number)
        self._running.pop(trial.number, None)

"""`EarlyDynamicsPruner`, an Optuna pruner with the early-stopping rules, and `observe`, which records what it reads.

It reads the study's storage alone, so that several processes can work on one study. Objectives come from
``trial.report``; losses and gradient norms, which Optuna has no place for, are kept in the trials' user attributes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Final

import optuna
from optuna.trial import FrozenTrial, TrialState

from sweepft.early_stopping import (
    EarlyStopper,
    Observation,
    PriorSweepsLike,
    Report,
    StopDecision,
    make_rule,
    parse_rungs,
    read_prior_sweeps,
)
from sweepft.early_stopping.rungs import RungSpec

_CURVE: Final = "sweepft:curve"


def observe(
    trial: optuna.Trial,
    progress: int,
    *,
    metric: float | None = None,
    loss: float | None = None,
    grad_norm: float | None = None,
) -> None:
    """Record what training shows at this point; call it before ``trial.should_prune()``.

    Args:
        trial: The running trial.
        progress: Samples seen or steps done, in the units of the pruner's budget; growing.
        metric: The objective on validation data; also reported to Optuna.
        loss: Training loss, averaged since the last call.
        grad_norm: Gradient norm, averaged since the last call.
    """
    if loss is not None or grad_norm is not None:
        curve = [*trial.user_attrs.get(_CURVE, []), [progress, _json(loss), _json(grad_norm)]]
        trial.set_user_attr(_CURVE, curve)
    if metric is not None:
        trial.report(metric, progress)


class EarlyDynamicsPruner(optuna.pruners.BasePruner):
    """Prunes trials that are unlikely to end among the best.

    Args:
        budget: A full trial, in the units of ``observe``'s progress.
        rungs: Fractions of the budget at which trials are judged.
        rule: As for `sweepft.schedulers.EarlyDynamicsScheduler`, like all that follows.
        min_progress: Trials are not judged before.
        covariates: Parameters that may explain final results (``calibrated``).
        top_fraction: The best share of the trials, which should be kept.
        max_false_stop_rate: Share of the top trials that may be pruned (``calibrated``).
        audit: Share of flagged trials trained to completion to measure the error rate.
        max_false_discovery_rate: Share of top trials among the flagged ones above which the rule is switched off.
        min_peers: Other trials needed at a rung.
        seed: Of the audits.
        prior_sweeps: As for the scheduler.

    Only the process that pruned a trial knows its chance of the top fraction; others count it as zero.

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
        audit: float = 0.0,
        max_false_discovery_rate: float = 0.10,
        min_peers: int = 3,
        seed: int = 0,
        prior_sweeps: PriorSweepsLike = None,
    ) -> None:
        known = read_prior_sweeps(
            prior_sweeps, rule=rule, top_fraction=top_fraction, max_false_stop_rate=max_false_stop_rate
        )
        self._rule = make_rule(
            rule,
            min_peers=min_peers,
            top_fraction=top_fraction,
            max_false_stop_rate=max_false_stop_rate,
            covariates=covariates,
            audit=audit,
            prior_sweeps=known,
        )
        self._settings: dict[str, Any] = {
            "rungs": parse_rungs(rungs),
            "budget": budget,
            "top_fraction": top_fraction,
            "audit": audit,
            "max_false_discovery_rate": max_false_discovery_rate,
            "seed": seed,
            "prior_sweeps": known,
        }
        self._min_progress = min_progress
        self._chances: dict[int, float | None] = {}
        self._flagged: dict[int, str] = {}
        self.decisions: list[StopDecision] = []

    def prune(self, study: optuna.Study, trial: FrozenTrial) -> bool:
        """Whether to end this trial; judged when its last report reaches a rung, and by some rules after it."""
        points = _points(trial)
        if not points or points[-1].progress < self._min_progress:
            return False
        maximize = study.direction == optuna.study.StudyDirection.MAXIMIZE
        probe = EarlyStopper(rule=None, mode="max" if maximize else "min", **self._settings)
        name = str(trial.number)
        probe.take(name, _report(points[:-1]))
        if _is_bad(points[-1], trial):
            return True
        reached = probe.take(name, _report(points[-1:]))
        seen = list(probe.cohort.trials[name].snapshots)
        again = self._rule.rejudges and trial.number not in self._flagged
        if not seen or not (reached or again):
            return False
        early_stopper = self._rebuild(study, trial, probe.cohort.mode)
        early_stopper.take(name, _report(points))
        decision = early_stopper.decide(name, seen[-1])
        if reached or decision.action != "continue":
            self.decisions.append(decision)
        if decision.action in ("stop", "audit"):
            self._chances[trial.number] = decision.p_top
            self._flagged[trial.number] = seen[-1].name
        return decision.ends_trial

    def _rebuild(self, study: optuna.Study, own: FrozenTrial, mode: Any) -> EarlyStopper:
        """An early stopper with everything in the storage, trials in order of number."""
        early_stopper = EarlyStopper(rule=self._rule, mode=mode, **self._settings)
        for trial in study.get_trials(deepcopy=False):
            name = str(trial.number)
            early_stopper.add(name, trial.params)
            record = early_stopper.cohort.trials[name]
            if trial.number in self._flagged:
                record.flagged_at = self._flagged[trial.number]
                record.audited = trial.state is not TrialState.PRUNED
            if trial.number == own.number:
                continue
            early_stopper.take(name, _report(_points(trial)))
            if trial.state is TrialState.COMPLETE and trial.value is not None:
                early_stopper.complete(name, final=trial.value)
            elif trial.state is TrialState.PRUNED:
                early_stopper.mark_stopped(name, self._chances.get(trial.number))
            elif trial.state is TrialState.FAIL:
                early_stopper.fail(name)
        return early_stopper


def _points(trial: FrozenTrial) -> list[Observation]:
    """Objectives and signals of a trial by progress."""
    merged: dict[float, dict[str, float]] = {}
    for progress, value in trial.intermediate_values.items():
        merged.setdefault(float(progress), {})["metric"] = value
    for progress, loss, norm in trial.user_attrs.get(_CURVE, ()):
        point = merged.setdefault(float(progress), {})
        point["loss"], point["grad_norm"] = _number(loss), _number(norm)
    return [Observation(int(p), p, **merged[p]) for p in sorted(merged)]


def _report(points: Sequence[Observation]) -> Report:
    return Report(list(points))


def _is_bad(point: Observation, trial: FrozenTrial) -> bool:
    """Whether a loss or objective was reported at this point that is not finite."""
    raw = {p: loss for p, loss, _ in trial.user_attrs.get(_CURVE, ())}.get(int(point.progress))
    reported = trial.intermediate_values.get(int(point.progress))
    return isinstance(raw, str) or (reported is not None and not math.isfinite(reported))


def _json(value: float | None) -> float | str | None:
    """Storages keep JSON: a non-finite number is kept as text."""
    return value if value is None or math.isfinite(value) else str(float(value))


def _number(value: Any) -> float:
    return math.nan if value is None else float(value)

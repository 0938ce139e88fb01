"""`EarlyDynamicsScheduler`: a Ray Tune scheduler that stops trials on their early training dynamics.

It works in any `tune.Tuner`. It reads results into reports, leaves all decisions to `EarlyStopper`, and hands them to
Ray.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha1
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ray.tune.result import DEFAULT_METRIC
from ray.tune.schedulers import FIFOScheduler, TrialScheduler

from sweepft.early_stopping import (
    EarlyStopper,
    PausedTrial,
    PriorSweepsLike,
    Report,
    StopDecision,
    make_report,
    make_rule,
    read_prior_sweeps,
)
from sweepft.early_stopping.audit import audit_rate
from sweepft.early_stopping.from_ledger import replay_state, restore_stopper
from sweepft.early_stopping.rungs import RungSpec, parse_rungs
from sweepft.ledger import SweepState

if TYPE_CHECKING:
    from ray.tune.execution.tune_controller import TuneController
    from ray.tune.experiment import Trial


@dataclass(frozen=True)
class ResultReader:
    """Which result keys hold what. Any of them may be absent from a result.

    Attributes:
        metric: The objective.
        loss: Training loss.
        grad_norm: Gradient norm.
        time_attr: A counter that grows: the progress of a trial.
        step_attr: Optimizer steps; Ray's ``training_iteration`` stands in when absent.
    """

    metric: str
    loss: str
    grad_norm: str
    time_attr: str
    step_attr: str

    def read(self, result: Mapping[str, Any]) -> Report | None:
        """The report in a result; None for a result without progress."""
        history = {k: _nested(result, "history", k) for k in ("step", "samples_seen", "loss", "grad_norm")}
        last = result.get(self.time_attr)
        progress = _nested(result, "history", self.time_attr)
        columns: dict[str, Sequence[Any]]
        if progress and history["step"]:
            columns = {"step": history["step"], "progress": progress}
            for name, key in (("loss", self.loss), ("grad_norm", self.grad_norm)):
                values = _nested(result, "history", key)
                if values:
                    columns[name] = values
        elif last is not None:
            step = result.get(self.step_attr, result.get("training_iteration", 0))
            columns = {"step": [step], "progress": [last]}
            columns["loss"] = [result.get(self.loss)]
            columns["grad_norm"] = [result.get(self.grad_norm)]
        else:
            return None
        return make_report(
            **columns,
            metric=result.get(self.metric),
            blocks=_blocks(result),
            data_order=result.get("data_order"),
            warmup_steps=int(result.get("warmup_steps") or 0),
            diverged=result.get("diverged") or None,
        )


def _nested(result: Mapping[str, Any], outer: str, inner: str) -> Any:
    nested = result.get(outer)
    return nested.get(inner) if isinstance(nested, Mapping) else result.get(f"{outer}/{inner}")


def _blocks(result: Mapping[str, Any]) -> dict[int, tuple[float, float]]:
    index, loss, tokens = (_nested(result, "blocks", k) or [] for k in ("index", "loss", "tokens"))
    return {int(i): (float(x), float(t)) for i, x, t in zip(index, loss, tokens, strict=True)}


class EarlyDynamicsScheduler(FIFOScheduler):
    """Judges trials at rungs of their budget and stops those that are unlikely to end among the best.

    Args:
        metric: Result key of the objective; may come from `TuneConfig` instead. Results may lack it.
        mode: ``min`` or ``max``; may come from `TuneConfig` instead.
        loss: Result key of the training loss; may be absent from results.
        grad_norm: Result key of the gradient norm; may be absent from results.
        time_attr: Result key of a counter that only grows; ``budget`` and rungs are in its units.
        step_attr: Result key of the optimizer steps; ``training_iteration`` is used where it is absent.
        budget: What a full trial reaches in ``time_attr``.
        rungs: Fractions of the budget, or counts ``{"steps": n}``, ``{"samples": n}``.
        min_steps: A trial is judged at a rung only after this many steps and past its warmup (result key
            ``warmup_steps``), else at the next rung.
        rule: ``none``, ``median``, ``recipe``, ``asha`` or ``calibrated``; see ``docs/how-to/scheduler.md``.
        covariates: Hyperparameters that may explain final results (``calibrated``).
        top_fraction: The best share of the trials, which should be kept (``calibrated``, audits).
        max_false_stop_rate: Share of the top trials that may be flagged (``calibrated``).
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
        divergence_check: Stop trials with a non-finite loss or objective, and those that diverge.
        trial_name_key: Config key that holds the trial's name in decisions; Ray's own id where it is absent.

    Raises:
        ValueError: An argument is wrong; the message begins with its name.

    Ray does not save a scheduler's state. To resume a sweep call `load_state_dict`, or `load_ledger` with the state of
    its ledger.

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
        time_attr: str = "samples_seen",
        step_attr: str = "step",
        budget: float,
        rungs: Sequence[RungSpec] = (0.05, 0.10, 0.25, 0.50),
        min_steps: int = 20,
        rule: str = "calibrated",
        covariates: Sequence[str] = (),
        top_fraction: float = 0.2,
        max_false_stop_rate: float = 0.10,
        audit: float | None = None,
        max_false_discovery_rate: float = 0.10,
        min_peers: int = 3,
        eta: float = 3.0,
        seed: int = 0,
        prior_sweeps: PriorSweepsLike = None,
        pause: bool = False,
        keep_last: int = 1,
        divergence_check: bool = True,
        trial_name_key: str = "trial_id",
    ) -> None:
        super().__init__()
        audit = audit_rate(rule, audit)
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
        self._keys = {"loss": loss, "grad_norm": grad_norm, "time_attr": time_attr, "step_attr": step_attr}
        self._trial_name_key = trial_name_key
        self._settings: dict[str, Any] = {
            "rungs": parse_rungs(rungs),
            "budget": budget,
            "min_steps": min_steps,
            "keep_last": keep_last,
            "divergence_check": divergence_check,
            "top_fraction": top_fraction,
            "audit": audit,
            "max_false_discovery_rate": max_false_discovery_rate,
            "seed": seed,
            "pause": pause,
            "prior_sweeps": known,
        }
        self._rule = make_rule(
            rule,
            min_peers=min_peers,
            eta=eta,
            top_fraction=top_fraction,
            max_false_stop_rate=max_false_stop_rate,
            covariates=covariates,
            audit=audit,
            prior_sweeps=known,
        )
        self._names: dict[str, str] = {}
        self._drained = 0
        self._early_stopper: EarlyStopper | None = None
        self._reader: ResultReader | None = None
        if mode is not None:
            self._start()

    def _start(self) -> None:
        self._early_stopper = EarlyStopper(rule=self._rule, mode=self._mode or "min", **self._settings)
        self._reader = ResultReader(metric=self._wanted_metric or DEFAULT_METRIC, **self._keys)

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
        if self._mode and (
            self._early_stopper is None or (changed and not self._early_stopper.cohort.trials)
        ):
            self._start()
        return True

    def on_trial_add(self, tune_controller: TuneController, trial: Trial) -> None:
        """A trial starts, or is tried again."""
        self.early_stopper.add(self._name(trial), _plain(self._hyperparameters(trial)))

    def _hyperparameters(self, trial: Trial) -> Mapping[str, Any]:
        """Covariates are looked up there, and trials with equal ones are repeats."""
        return trial.config or {}

    def on_trial_result(self, tune_controller: TuneController, trial: Trial, result: dict[str, Any]) -> str:
        """Judge the trial if the result reaches a rung."""
        report = self._read(result)
        if report is None:
            return str(TrialScheduler.CONTINUE)
        decisions = self.early_stopper.report(self._name(trial), report)
        stop = bool(decisions) and decisions[-1].ends_trial
        return str(TrialScheduler.STOP if stop else TrialScheduler.CONTINUE)

    def on_trial_complete(
        self, tune_controller: TuneController, trial: Trial, result: dict[str, Any]
    ) -> None:
        """A trial ended; a last result with ``done`` comes only here. Trials stopped by the scheduler are known
        already.

        Without ``done`` Tune itself is stopping (time budget, Ctrl-C): such a trial has no final result.
        """
        if result and result.get("done"):
            self.early_stopper.complete(self._name(trial), self._read(result))
        else:
            self.early_stopper.remove(self._name(trial))

    def on_trial_error(self, tune_controller: TuneController, trial: Trial) -> None:
        """A trial failed; Ray adds it again if it has retries left."""
        self.early_stopper.fail(self._name(trial))

    def on_trial_remove(self, tune_controller: TuneController, trial: Trial) -> None:
        """A pending or paused trial was withdrawn."""
        self.early_stopper.remove(self._name(trial))

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
        Path(checkpoint_path).write_text(json.dumps(self.state_dict()))

    def restore(self, checkpoint_path: str) -> None:
        """Read what `save` wrote."""
        self.load_state_dict(json.loads(Path(checkpoint_path).read_text()))

    # ----- beyond Ray's interface ------------------------------------------------------------------------

    def drain_decisions(self) -> list[StopDecision]:
        """All decisions since the last call, in order, those to continue included."""
        if self._early_stopper is None:
            return []
        fresh = self._early_stopper.decisions[self._drained :]
        self._drained = len(self._early_stopper.decisions)
        return fresh

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
            name = self._names[trial.trial_id] = str(config.get(self._trial_name_key) or trial.trial_id)
        return name

    def _read(self, result: Mapping[str, Any] | None) -> Any:
        return self._reader.read(result) if self._reader is not None and result else None


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

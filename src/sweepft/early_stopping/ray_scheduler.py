"""Ray Tune's door to the rules: a `TrialScheduler` that stops trials on their early training dynamics.

It stands alone: put it into any `tune.Tuner`. All thinking is done by `sweepft.early_stopping.Referee`; here results
are read, and verdicts are handed to Ray (as decisions) and to the caller (by `drain_decisions`).
"""
# MERGED From a Tune result to a report for the referee.

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha1
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
        """The report a result holds; None when it tells no progress at all."""
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
    """Judges trials at windows of their budget and stops those that will not win.

    Args:
        metric: Result key of the objective; may come from `TuneConfig` instead. Results may lack it.
        mode: ``min`` or ``max``; may come from `TuneConfig` instead.
        loss: Result key of the training loss; may be absent from results.
        grad_norm: Result key of the gradient norm; may be absent from results.
        time_attr: Result key of a counter that only grows; ``budget`` and windows are in its units.
        step_attr: Result key of the optimizer steps; ``training_iteration`` stands in where it is absent.
        budget: What a full trial reaches in ``time_attr``.
        rungs: Fractions of the budget, or counts ``{"steps": n}``, ``{"samples": n}``.
        min_steps: A trial is judged at a window only after that many steps and past its warmup (result key
            ``warmup_steps``), else at the next one.
        rule: ``none``, ``median``, ``recipe``, ``asha`` or ``calibrated``; see ``docs/how-to/scheduler.md``.
        covariates: Config keys that may explain final results (``calibrated``).
        good: Share of trials that count as good (``calibrated``, audits).
        false_stop: Share of the good trials that may be condemned (``calibrated``).
        audit: Share of the condemned trials that run on, so that mistakes can be counted; by default 0.05 for
            ``calibrated`` and none for the others.
        max_false_discovery_rate: Share of good ones among the condemned above which the rule is switched off.
        eta: Reduction factor of ``asha``.
        seed: Of the audits.
        prior_sweeps: What earlier sweeps taught: a calibration (a `sweepft.early_stopping.Calibration`, its dict or its JSON
            file), run folders of earlier sweeps whose audits are pooled with this one's, or a list of these.
        park: Condemned trials may come back. Needs a tuner that brings them back, as sweepft's own does.
        min_peers: Other trials needed at a window to judge one.
        keep_last: That many trials are left standing, whatever the rule says; so is the leader at a window.
        guards: Stop trials with non-finite loss or objective, and those that diverge.
        trial_name_key: Config key that holds the trial's name in verdicts; Ray's own id where it is absent.

    Raises:
        ValueError: A setting is wrong; the message names it.

    Ray keeps no scheduler's state: who resumes a sweep calls `load_state_dict`, or `load_ledger` with the state of its ledger.
    """

    brings_back = False
    """Whether who runs this scheduler proposes parked trials again; a subclass that does says so."""

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
        guards: bool = True,
        trial_name_key: str = "trial_id",
    ) -> None:
        super().__init__()
        audit = audit_rate(rule, audit)
        if pause and not self.brings_back:
            raise ValueError(
                "park: a plain Tuner brings no parked trial back\n"
                "  leave it out (condemned trials are then stopped), or run the sweep with `sweepft run`"
            )
        known = read_prior_sweeps(
            prior_sweeps, rule=rule, top_fraction=top_fraction, max_false_stop_rate=max_false_stop_rate
        )
        if mode not in (None, "min", "max"):
            raise ValueError(f"mode: 'min' or 'max' is needed (got {mode!r})")
        self._wanted_metric = metric
        self._mode = mode
        self._keys = {"loss": loss, "grad_norm": grad_norm, "time_attr": time_attr, "step_attr": step_attr}
        self._trial_name_key = trial_name_key
        self._settings: dict[str, Any] = {
            "rungs": parse_rungs(rungs),
            "budget": budget,
            "min_steps": min_steps,
            "keep_last": keep_last,
            "guards": guards,
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
        """Who judges. Raises `ValueError` while metric and mode are not known."""
        if self._early_stopper is None:
            raise ValueError(
                "mode: the scheduler has neither metric nor mode yet\n"
                "  pass them here or to tune.TuneConfig(metric=..., mode=...)"
            )
        return self._early_stopper

    # ----- Ray's interface -------------------------------------------------------------------------------

    @property
    def metric(self) -> str:
        """Ray's anonymous metric: Tune would otherwise refuse results without the objective."""
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
        """A trial joins, or is tried again."""
        self.early_stopper.add(self._name(trial), _plain(self._hyperparameters(trial)))

    def _hyperparameters(self, trial: Trial) -> Mapping[str, Any]:
        """What a trial trains with: covariates are looked up there, and trials that have it alike are repeats."""
        return trial.config or {}

    def on_trial_result(self, tune_controller: TuneController, trial: Trial, result: dict[str, Any]) -> str:
        """Judge, if the result reaches a window."""
        report = self._read(result)
        if report is None:
            return str(TrialScheduler.CONTINUE)
        decisions = self.early_stopper.report(self._name(trial), report)
        stop = bool(decisions) and decisions[-1].ends_trial
        return str(TrialScheduler.STOP if stop else TrialScheduler.CONTINUE)

    def on_trial_complete(
        self, tune_controller: TuneController, trial: Trial, result: dict[str, Any]
    ) -> None:
        """A trial ended; a last result with ``done`` comes only here. One that we stopped is known already.

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
            f" verdicts={summary['decisions']} trials_saved={summary['trials_saved']:.2f}"
        )

    def save(self, checkpoint_path: str) -> None:
        """Write the state as JSON."""
        import json
        from pathlib import Path

        Path(checkpoint_path).write_text(json.dumps(self.state_dict()))

    def restore(self, checkpoint_path: str) -> None:
        """Read what `save` wrote."""
        import json
        from pathlib import Path

        self.load_state_dict(json.loads(Path(checkpoint_path).read_text()))

    # ----- ours ------------------------------------------------------------------------------------------

    def drain_decisions(self) -> list[StopDecision]:
        """Everything judged since the last call, in order, ``continue`` verdicts included."""
        if self._early_stopper is None:
            return []
        fresh = self._early_stopper.decisions[self._drained :]
        self._drained = len(self._early_stopper.decisions)
        return fresh

    def paused_trials(self, *, from_scratch: bool = False) -> list[PausedTrial]:
        """The parked trials, the likeliest to be good first; see `sweepft.early_stopping.pausing`."""
        return self.early_stopper.paused_trials(from_scratch=from_scratch)

    def give_up(self, trial_id: str) -> None:
        """Say that a parked trial will not come back."""
        self.early_stopper.give_up(trial_id)

    def summary(self) -> dict[str, Any]:
        """Counts and what the rule has learned, JSON-able."""
        return self.early_stopper.summary()

    def state_dict(self) -> dict[str, Any]:
        """Everything the scheduler knows, JSON-able and versioned; settings are not in it."""
        return {**self.early_stopper.state_dict(), "drained": self._drained}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over a saved state. Raises `ValueError` for another version or mode."""
        self.early_stopper.load_state_dict(state)
        self._drained = int(state.get("drained", 0))

    def load_ledger(self, state: SweepState) -> list[StopDecision]:
        """Rebuild from a sweep's ledger; returns the decisions this rule makes on its reports.

        They count as drained: the ledger has its own record of them.
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
    """A config as JSON-able data, nested mappings included: what covariates are read from, and repeats are told by."""
    if not isinstance(config, Mapping):
        return {}
    return {str(key): _plain_value(value) for key, value in config.items()}


def _plain_value(value: Any) -> Any:
    """Anything else than plain data is kept by what it shows: trials that differ there must differ."""
    if isinstance(value, Mapping):
        return _plain(value)
    if isinstance(value, list | tuple):
        return [_plain_value(v) for v in value]
    if value is None or isinstance(value, (str, int, float, bool)):
        return value
    if hasattr(value, "item") and getattr(value, "ndim", None) == 0:
        return value.item()
    return f"{type(value).__name__} {sha1(repr(value).encode(), usedforsecurity=False).hexdigest()[:16]}"

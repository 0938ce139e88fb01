"""One trial's learning curve, append-only, and the `Snapshot` of it that is taken at a rung.

A snapshot is taken once, when the trial is first at a rung, from what had been reported by then. Nothing changes it
later, so that a rule sees the same numbers live, after a restart and in a replay.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sweepft.early_stopping.divergence import LossWatch

Floats = NDArray[np.float64]
_NAN: Final = math.nan
TAIL: Final = 0.2
"""Share of the progress so far over which training signals are averaged: equal samples, whatever the batch size."""


def in_tail(progress: Floats, end: float) -> NDArray[np.bool_]:
    """Which points lie in the last fifth of the progress up to ``end``."""
    inside: NDArray[np.bool_] = (progress > end * (1 - TAIL)) & (progress <= end)
    return inside


class Observation(NamedTuple):
    """One point of a curve. NaN means not reported; a loss that was reported and is not finite is infinity.

    Attributes:
        step: Optimizer steps done.
        progress: The time attribute, e.g. samples seen.
        loss: Training loss of this step.
        grad_norm: Gradient norm of this step.
        metric: The objective on validation data, in its own direction.
        metric_stderr: Its standard error.
    """

    step: int
    progress: float
    loss: float = _NAN
    grad_norm: float = _NAN
    metric: float = _NAN
    metric_stderr: float = _NAN


@dataclass(frozen=True)
class Report:
    """What a trial reported in one result.

    Attributes:
        observations: In order of progress; those not beyond the curve's end are ignored.
        blocks: Training loss and target tokens per completed block of the sample order.
        data_order: Digest of the sample order; equal digests compare sample by sample.
        warmup_steps: The trial's warmup.
        bad: The trial itself says that it has diverged, and how; or None.
        phase_starts: Progress at which later phases of its curriculum begin: training losses of different phases are
            not compared.
        phase: Name or number of the phase, where the starts are not known; another one begins a phase.
        losses: Losses by validation set, and costs by task, as of the last observation.
    """

    observations: Sequence[Observation]
    blocks: Mapping[int, tuple[float, float]] = field(default_factory=dict)
    data_order: str | None = None
    warmup_steps: int = 0
    bad: str | None = None
    phase_starts: Sequence[float] = ()
    phase: str | float | None = None
    losses: Mapping[str, float] = field(default_factory=dict)


def make_report(
    *,
    step: Sequence[Any],
    progress: Sequence[Any],
    loss: Sequence[Any] | None = None,
    grad_norm: Sequence[Any] | None = None,
    metric: Any = None,
    metric_stderr: Any = None,
    blocks: Mapping[int, tuple[float, float]] | None = None,
    data_order: str | None = None,
    warmup_steps: int = 0,
    diverged: str | None = None,
    phase_starts: Sequence[float] = (),
    phase: str | float | None = None,
    losses: Mapping[str, float] | None = None,
) -> Report:
    """A report from raw values: columns of equal length, and the objective as of the last row.

    None stands for a value that was not reported. So does an objective that is not finite: where nothing was evaluated,
    many programs log NaN or infinity. A training loss that is not finite counts against the trial if it stays so (see
    `sweepft.early_stopping.divergence`); a gradient norm does not: loss scaling in fp16 makes such ones now and then.
    """
    train_losses, norms = loss or [None] * len(step), grad_norm or [None] * len(step)
    points = []
    for s, p, raw_loss, raw_norm in zip(step, progress, train_losses, norms, strict=True):
        value = _float(raw_loss)
        if raw_loss is not None and not math.isfinite(value):
            value = math.inf
        points.append(Observation(int(s), float(p), value, _float(raw_norm)))
    value = _float(metric)
    if points and math.isfinite(value):
        points[-1] = points[-1]._replace(metric=value, metric_stderr=_float(metric_stderr))
    return Report(
        points,
        blocks or {},
        data_order,
        warmup_steps,
        diverged or None,
        tuple(phase_starts),
        phase,
        losses or {},
    )


def _float(value: Any) -> float:
    return _NAN if value is None else float(value)


@dataclass(slots=True)
class Snapshot:
    """A trial at a rung: everything that rules look at. NaN where it was not reported.

    Attributes:
        step: Optimizer steps done.
        progress: Value of the time attribute.
        metric: Last objective on validation data so far, in its own direction.
        metric_step: The step at which it was computed; 0 without any.
        metric_stderr: Its standard error.
        mean_metric: Mean of all objectives so far, each weighted by its progress: late ones count most, and the
            noise of one evaluation counts little.
        metric_weight: The sum of those weights; 0 without any objective.
        loss: Mean training loss over the last fifth of the progress so far.
        log_grad_norm: Mean log gradient norm over the last fifth of the progress so far.
        block_loss: Token-weighted loss over the last fifth of the completed blocks: paired where data_order
            is equal.
        data_order: Digest of the sample order.
    """

    step: int
    progress: float
    metric: float = _NAN
    loss: float = _NAN
    log_grad_norm: float = _NAN
    block_loss: float = _NAN
    data_order: str | None = None
    mean_metric: float = _NAN
    metric_weight: float = 0.0
    metric_step: int = 0
    metric_stderr: float = _NAN

    def to_state(self) -> dict[str, Any]:
        """JSON-able fields; NaN becomes None."""
        return {k: None if isinstance(v, float) and math.isnan(v) else v for k, v in asdict(self).items()}

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Snapshot:
        """The inverse of `to_state`."""
        fields: dict[str, Any] = {k: _NAN if v is None and k != "data_order" else v for k, v in state.items()}
        return cls(**fields)


class Curve:
    """What one trial has reported so far, in order of progress."""

    def __init__(self) -> None:
        self.step = array("q")
        self.progress = array("d")
        self.loss = array("d")
        self.grad_norm = array("d")
        self.metric = array("d")
        self.blocks: dict[int, tuple[float, float]] = {}
        self.data_order: str | None = None
        self.last_step = 0
        self.last_progress = -math.inf
        self.last_metric = _NAN
        self.last_metric_step = 0
        self.last_metric_stderr = _NAN
        self.watch = LossWatch()
        self.phase_starts: Sequence[float] = ()
        self.phase: str | float | None = None

    def append(self, observation: Observation) -> bool:
        """Add a point. Returns False, and takes no new point, for one not beyond the end (after a restart).

        What arrives later for the last point, such as an objective evaluated after it was logged, is added to that
        point.
        """
        if observation.progress <= self.last_progress:
            if observation.progress == self.last_progress:
                self._merge(observation)
            return False
        if any(self.last_progress <= start < observation.progress for start in self.phase_starts):
            self.watch.begin_phase()
        self.step.append(observation.step)
        self.progress.append(observation.progress)
        self.loss.append(observation.loss)
        self.grad_norm.append(observation.grad_norm)
        self.metric.append(observation.metric)
        self.last_step, self.last_progress = observation.step, observation.progress
        if not math.isnan(observation.loss):
            self.watch.add_loss(observation.loss, self.last_progress)
        if math.isfinite(observation.metric):
            self._add_objective(observation)
        return True

    def _merge(self, observation: Observation) -> None:
        """Add what the last point lacks; a later objective replaces the one there."""
        if self.loss and math.isnan(self.loss[-1]) and not math.isnan(observation.loss):
            self.loss[-1] = observation.loss
            self.watch.add_loss(observation.loss, self.last_progress)
        if self.grad_norm and math.isnan(self.grad_norm[-1]):
            self.grad_norm[-1] = observation.grad_norm
        if math.isfinite(observation.metric):
            if self.metric:
                self.metric[-1] = observation.metric
            self._add_objective(observation)

    def _add_objective(self, observation: Observation) -> None:
        self.last_metric, self.last_metric_step = observation.metric, self.last_step
        self.last_metric_stderr = observation.metric_stderr
        self.watch.add_objective(observation.metric, self.last_progress)

    def set_phases(self, report: Report) -> bool:
        """Take over what a report says of the phases, before its points. True where its ``phase`` is another one: a
        phase begins after it, for some of its points may belong to the one before.
        """
        self.phase_starts = report.phase_starts or self.phase_starts
        if report.phase is None or report.phase == self.phase:
            return False
        changed, self.phase = self.phase is not None, report.phase
        return changed

    def drop_points(self) -> None:
        """Drop the points but keep the curve's end: for trials that will not be judged again."""
        for points in (self.step, self.progress, self.loss, self.grad_norm, self.metric):
            del points[:]
        self.blocks = {}

    def snapshot(self) -> Snapshot:
        """The trial as of its last point."""
        snap = Snapshot(step=self.last_step, progress=self.last_progress, metric=self.last_metric)
        snap.metric_step, snap.data_order = self.last_metric_step, self.data_order
        snap.metric_stderr = self.last_metric_stderr
        progress = np.frombuffer(self.progress) if self.progress else np.empty(0)
        tail = in_tail(progress, self.last_progress)
        loss = np.frombuffer(self.loss) if self.loss else np.empty(0)
        seen = np.isfinite(loss)
        if seen.any():
            late = loss[seen & tail]
            snap.loss = float(late.mean()) if late.size else float(loss[seen][-1])
        metrics = np.frombuffer(self.metric) if self.metric else np.empty(0)
        evaluated = np.isfinite(metrics)
        snap.metric_weight = float(progress[evaluated].sum())
        if snap.metric_weight > 0:
            snap.mean_metric = float(progress[evaluated] @ metrics[evaluated] / snap.metric_weight)
        norms = np.frombuffer(self.grad_norm) if self.grad_norm else np.empty(0)
        usable = np.isfinite(norms) & (norms > 0)
        if usable.any():
            late = norms[usable & tail]
            snap.log_grad_norm = float(np.log(late if late.size else norms[usable][-1:]).mean())
        if self.blocks:
            last = sorted(self.blocks)[-max(1, round(len(self.blocks) * TAIL)) :]
            tokens = sum(self.blocks[i][1] for i in last)
            if tokens > 0:
                snap.block_loss = sum(self.blocks[i][0] * self.blocks[i][1] for i in last) / tokens
        return snap

    def to_state(self) -> dict[str, Any]:
        """JSON-able state; NaN becomes None."""
        columns = {
            name: [None if isinstance(v, float) and math.isnan(v) else v for v in getattr(self, name)]
            for name in ("step", "progress", "loss", "grad_norm", "metric")
        }
        return {
            "columns": columns,
            "blocks": [[i, loss, tokens] for i, (loss, tokens) in self.blocks.items()],
            "data_order": self.data_order,
            "last_step": self.last_step,
            "last_progress": self.last_progress if math.isfinite(self.last_progress) else None,
            "last_metric": self.last_metric if math.isfinite(self.last_metric) else None,
            "last_metric_step": self.last_metric_step,
            "last_metric_stderr": self.last_metric_stderr if math.isfinite(self.last_metric_stderr) else None,
            "watch": self.watch.to_state(),
            "phase_starts": list(self.phase_starts),
            "phase": self.phase,
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Curve:
        """The inverse of `to_state`."""
        curve = cls()
        for name, values in state["columns"].items():
            getattr(curve, name).extend(_NAN if v is None else v for v in values)
        curve.blocks = {int(i): (loss, tokens) for i, loss, tokens in state["blocks"]}
        curve.data_order = state["data_order"]
        curve.last_step = state["last_step"]
        curve.last_progress = -math.inf if state["last_progress"] is None else state["last_progress"]
        curve.last_metric = _NAN if state["last_metric"] is None else state["last_metric"]
        curve.last_metric_step = state["last_metric_step"]
        stderr = state.get("last_metric_stderr")
        curve.last_metric_stderr = _NAN if stderr is None else stderr
        curve.watch = LossWatch.from_state(state["watch"])
        curve.phase_starts, curve.phase = tuple(state["phase_starts"]), state["phase"]
        return curve

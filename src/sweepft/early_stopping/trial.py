"""One trial as rules see it: its hyperparameters, learning curve, snapshots at rungs and outcome."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import sha1
from typing import Any, Final, Literal

from sweepft.early_stopping.curve import Curve, Snapshot
from sweepft.early_stopping.divergence import LossWatch
from sweepft.early_stopping.rungs import Rung

Status = Literal["running", "completed", "paused", "stopped", "diverged", "failed", "removed"]


@dataclass
class TrialRecord:
    """What is known of one trial.

    Attributes:
        trial_id: Its name.
        params: Its hyperparameters; may be nested.
        number: 0, 1, 2, ... in order of arrival.
        status: Only ``completed`` trials have a ``final``.
        final: Objective at the full budget, in its own direction.
        flagged_at: Name of the rung at which the rule flagged it, if it did.
        audited: Flagged, but trained to completion so that the rule's errors can be counted.
        lowest_score: The lowest score a rule has given it so far.
        warmup_steps: As reported.
        judged_on: What was known when it was last judged; see `Cohort.has_news`.
        snapshots: By rung; a rung at which the trial was not eligible has none.
        reached: All rungs it has reached, judged there or not.
        losses: Its last losses by validation set, and costs by task.
    """

    trial_id: str
    params: dict[str, Any]
    number: int
    status: Status = "running"
    final: float | None = None
    flagged_at: str | None = None
    audited: bool = False
    lowest_score: float | None = None
    warmup_steps: int = 0
    judged_on: int = 0
    curve: Curve = field(default_factory=Curve)
    snapshots: dict[Rung, Snapshot] = field(default_factory=dict)
    reached: set[Rung] = field(default_factory=set)
    losses: dict[str, float] = field(default_factory=dict)
    _covariates: dict[str, Any] = field(default_factory=dict, repr=False, compare=False)
    _numbers: dict[str, float] = field(default_factory=dict, repr=False, compare=False)

    def set_params(self, params: Mapping[str, Any]) -> None:
        """Its hyperparameters, where they become known only as it runs."""
        if params != self.params:
            self.params = dict(params)
            for name in ("configuration", "loss_shifts"):
                self.__dict__.pop(name, None)
            self._covariates.clear()
            self._numbers.clear()

    def to_summary(self) -> dict[str, Any]:
        """What other trials are compared with, and where this one stands: JSON-able, of a size that does not grow."""
        curve = self.curve
        return {
            "snapshots": [[w.kind, w.value, s.to_state()] for w, s in self.snapshots.items()],
            "reached": [[w.kind, w.value] for w in self.reached],
            "watch": curve.watch.to_state(),
            "last": [
                curve.last_step,
                curve.last_progress,
                _or_none(curve.last_metric),
                curve.last_metric_step,
            ],
            "flagged": [self.flagged_at, self.audited, self.lowest_score],
        }

    def take_summary(self, summary: Mapping[str, Any], rungs: Sequence[Rung]) -> list[tuple[Rung, Snapshot]]:
        """Take over a summary; returns the snapshots that are new, at those of these rungs that it has."""
        curve = self.curve
        curve.watch = LossWatch.from_state(summary["watch"])
        step, progress, metric, metric_step = summary["last"]
        curve.last_step, curve.last_progress, curve.last_metric_step = step, progress, metric_step
        curve.last_metric = math.nan if metric is None else metric
        self.flagged_at, self.audited, self.lowest_score = summary["flagged"]
        self.reached |= {Rung(kind, value) for kind, value in summary["reached"]}
        found = ((Rung(kind, value), state) for kind, value, state in summary["snapshots"])
        return [
            (rung, Snapshot.from_state(state))
            for rung, state in found
            if rung in rungs and rung not in self.snapshots
        ]

    @property
    def watch(self) -> LossWatch:
        """What the divergence check keeps of it."""
        return self.curve.watch

    @property
    def last_progress(self) -> float:
        """The end of its curve; minus infinity before the first report."""
        return self.curve.last_progress

    @property
    def last_metric(self) -> float:
        """Its last objective; NaN without any."""
        return self.curve.last_metric

    @property
    def audit_status(self) -> bool | None:
        """None for a trial that was never flagged, True for an audited one, False for a stopped or paused one."""
        return None if self.flagged_at is None else self.audited

    @cached_property
    def configuration(self) -> str | None:
        """See `configuration`."""
        return configuration(self.params)

    @cached_property
    def loss_shifts(self) -> tuple[tuple[str, str], ...]:
        """See `loss_shifts`."""
        return loss_shifts(self.params)

    def covariate(self, name: str) -> Any:
        """A hyperparameter by key, at whatever depth; dotted keys name a path; None when absent."""
        if name not in self._covariates:
            self._covariates[name] = self._find(name)
        return self._covariates[name]

    def numeric(self, name: str) -> float:
        """A covariate that is a number; NaN for any other."""
        if name not in self._numbers:
            value = self.covariate(name)
            ok = isinstance(value, (int, float)) and not isinstance(value, bool)
            self._numbers[name] = float(value) if ok else math.nan
        return self._numbers[name]

    def _find(self, name: str) -> Any:
        if "." in name and name not in self.params:
            value: Any = self.params
            for part in name.split("."):
                value = value.get(part) if isinstance(value, Mapping) else None
            return value
        level: list[Mapping[str, Any]] = [self.params]
        while level:
            for mapping in level:
                if name in mapping:
                    return mapping[name]
            level = [v for mapping in level for v in mapping.values() if isinstance(v, Mapping)]
        return None


def _or_none(value: float) -> float | None:
    return value if math.isfinite(value) else None


_SEEDS: Final = ("seed", "random_state", "__trial_index__")  # the last is what Ray's Repeater adds
_SHIFTS: Final = ("dropout", "drop_path", "smoothing", "neftune", "mixup", "cutmix")


def configuration(params: Mapping[str, Any]) -> str | None:
    """A digest of all hyperparameters but seeds: equal for repeats of a configuration with other seeds.

    None where no hyperparameters are known, or where a value is not plain data: such a trial repeats no other.
    """
    try:
        found = _plain(params)
    except TypeError:
        return None
    return sha1(repr(found).encode(), usedforsecurity=False).hexdigest() if found else None


def _plain(value: Any) -> Hashable:
    if isinstance(value, Mapping):
        kept = {str(k): v for k, v in value.items() if not _has(k, _SEEDS)}
        return tuple((k, _plain(kept[k])) for k in sorted(kept))
    if isinstance(value, list | tuple):
        return tuple(_plain(v) for v in value)
    if hasattr(value, "item") and not hasattr(value, "__len__"):
        value = value.item()  # numpy's scalars
    if isinstance(value, int | float) and math.isfinite(value):
        return float(value)
    if value is None or isinstance(value, str | int | float):
        return value
    raise TypeError


def loss_shifts(params: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    """Names and values of hyperparameters that shift the training loss itself, such as dropout, so that losses of
    trials that differ in them cannot be compared.
    """
    return tuple((k, repr(v)) for k, v in _leaves(params) if _has(k, _SHIFTS))


def _leaves(params: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for key, value in params.items():
        if isinstance(value, Mapping):
            yield from _leaves(value)
        else:
            yield str(key).lower(), value


def varies(shifts: Iterable[tuple[tuple[str, str], ...]]) -> bool:
    """Whether any of these hyperparameters, one tuple per trial, has more than one value."""
    seen: dict[str, str] = {}
    return any(seen.setdefault(name, value) != value for own in shifts for name, value in own)


def _has(key: Any, words: Iterable[str]) -> bool:
    return any(word in str(key).lower() for word in words)

"""One trial as rules see it: its hyperparameters, learning curve, snapshots at rungs and outcome."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import sha1
from typing import Any, Final, Literal

from sweepft.early_stopping.curve import Curve, Snapshot
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
        p_flagged: Its probability of ending in the top fraction when it was flagged.
        lowest_score: The lowest score a rule has given it so far.
        warmup_steps: As reported.
        judged_on: Number of snapshots at its rungs when it was last judged; see `Cohort.has_news`.
        snapshots: By rung; a rung at which the trial was not eligible has none.
        reached: All rungs it has reached, judged there or not.
    """

    trial_id: str
    params: dict[str, Any]
    number: int
    status: Status = "running"
    final: float | None = None
    flagged_at: str | None = None
    audited: bool = False
    p_flagged: float | None = None
    lowest_score: float | None = None
    warmup_steps: int = 0
    judged_on: int = 0
    curve: Curve = field(default_factory=Curve)
    snapshots: dict[Rung, Snapshot] = field(default_factory=dict)
    reached: set[Rung] = field(default_factory=set)
    _covariates: dict[str, Any] = field(default_factory=dict, repr=False, compare=False)
    _numbers: dict[str, float] = field(default_factory=dict, repr=False, compare=False)

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


_SEEDS: Final = ("seed", "random_state")
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

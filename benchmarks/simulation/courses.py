"""Simulated learning curves for every configuration of a search space.

There are two sources. `Synthetic` is a response that is smooth in every swept parameter and has the features that
matter to search and early stopping: an optimum of the learning rate that moves with the batch size, runs that diverge
above it, curves that cross, and noise. It makes no claim about any model. `Recorded` plays back the recorded run with
the nearest parameters.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from sweepft.errors import Problem, SpecError
from sweepft.replay.curves import Run, Study
from sweepft.replay.sources import read_source
from sweepft.search.samplers import derived_seed
from sweepft.spec import Dimension, SweepSpec, TrainConfig
from sweepft.training.lr_schedules import lr_at

Floats = NDArray[np.float64]

SECONDS_PER_SAMPLE: Final = 0.2
"""GPU-seconds per sample: about a 7B model on an A100."""

SECONDS_PER_STEP: Final = 0.3
"""Seconds per optimizer step besides those of its samples."""

SECONDS_PER_EVALUATION: Final = 20.0
_TOKENS: Final = 200  # target tokens of a sample
_FLOOR: Final = 1.1  # nats per target token that the best configuration reaches
_SEED_NOISE: Final = 0.004  # of the final loss, standard deviation
_EVAL_NOISE: Final = 0.003  # of a validation loss


@dataclass(frozen=True)
class SimulatedCurve:
    """The full curve of one trial, as if trained to its budget. Arrays have one entry per optimizer step.

    Attributes:
        samples: Samples seen.
        loss: Training loss, nats per target token.
        grad_norm: Gradient norm.
        lr: Learning rate.
        seconds: Seconds of each step.
        validation: Validation loss as measured after each step.
        ideal: True loss: the validation loss at the end without noise; infinity if the trial diverges.
        diverges_at: Index of the step whose loss is not finite, or None.
    """

    samples: NDArray[np.int64]
    loss: Floats
    grad_norm: Floats
    lr: Floats
    seconds: Floats
    validation: Floats
    ideal: float
    diverges_at: int | None = None


class CurveSource(Protocol):
    """A source of simulated curves."""

    @property
    def about(self) -> dict[str, Any]:
        """Their description in the ledger, JSON-able."""
        ...

    def course(self, config: Mapping[str, Any], train_config: TrainConfig) -> SimulatedCurve:
        """The curve of a configuration; deterministic."""
        ...


@dataclass(frozen=True)
class _Clock:
    """Step grid and speed, shared by both sources."""

    spec: SweepSpec
    budget: int

    def samples(self, train_config: TrainConfig) -> NDArray[np.int64]:
        steps = np.arange(1, train_config.planned_steps + 1, dtype=np.int64)
        return np.minimum(steps * train_config.batch_size, self.budget)

    def seconds(self, samples: NDArray[np.int64]) -> Floats:
        ranks = self.spec.resources
        gpus = max(1.0, ranks.workers_per_trial * ranks.gpus_per_worker)
        each: Floats = SECONDS_PER_STEP + SECONDS_PER_SAMPLE / gpus * np.diff(samples, prepend=0)
        return each

    def rates(self, train_config: TrainConfig) -> Floats:
        return np.array([lr_at(step, train_config) for step in range(train_config.planned_steps)])


@dataclass(frozen=True)
class Synthetic:
    """A synthetic response over the space of a spec.

    With every swept parameter scaled to 0..1, the final loss is a floor plus a parabola in the learning rate (optimum
    at 0.45, shifted by a quarter of the batch size's position), one in the batch size, and small ones in all others.
    Curves are power laws, faster for high rates, so that they cross. With a decaying schedule, a part of the loss falls
    late. Rates far above the optimum diverge.

    Args:
        spec: Of the sweep.
        budget: Samples of a trial.
        seed: Of the response and of all noise.
    """

    spec: SweepSpec
    budget: int
    seed: int = 0
    _clock: _Clock = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_clock", _Clock(self.spec, self.budget))

    @property
    def about(self) -> dict[str, Any]:
        """Marks the curves as synthetic, with their seed."""
        return {"courses": "synthetic: a made-up response, no model was trained", "seed": self.seed}

    def course(self, config: Mapping[str, Any], train_config: TrainConfig) -> SimulatedCurve:
        """See `CurveSource`."""
        rng = np.random.default_rng(derived_seed(self.seed, "course", repr(sorted(config.items(), key=str))))
        places = {key: _place(config[key], dim, self.seed) for key, dim in self.spec.search.space.items()}
        rate, batch = places.pop("learning_rate", 0.5), places.pop("batch_size", 0.5)
        off = rate - (0.45 + 0.25 * (batch - 0.5))
        excess = 0.35 * off**2 + 0.05 * (batch - 0.4) ** 2
        for key, place in places.items():
            excess += 0.02 * (place - derived_seed(self.seed, "optimum", key) / 2**32) ** 2
        ideal = _FLOOR + excess
        final = ideal + _SEED_NOISE * rng.standard_normal()
        samples = self._clock.samples(train_config)
        done = samples / self.budget
        lr = self._clock.rates(train_config)
        loss = final + self._above(done, lr, train_config, rate)
        noise = 0.05 * math.sqrt(32.0 / max(32.0, train_config.batch_size))
        validation = loss + _EVAL_NOISE * rng.standard_normal(len(done))
        train = loss + noise * rng.standard_normal(len(done))
        norm = (0.6 + rate) * np.sqrt(1 + 64.0 / train_config.batch_size) * (done + 0.02) ** -0.15
        norm *= np.exp(0.1 * rng.standard_normal(len(done)))
        bad = None
        if off > 0.35 and rng.random() < 3.0 * (off - 0.35):
            bad = int(rng.uniform(0.02, 0.6) * len(done))
            train[bad:] = validation[bad:] = norm[bad:] = math.nan
            ideal = math.inf
        return SimulatedCurve(samples, train, norm, lr, self._clock.seconds(samples), validation, ideal, bad)

    @staticmethod
    def _above(done: Floats, lr: Floats, train_config: TrainConfig, rate: float) -> Floats:
        """Loss above its final value: a power law, plus the part that a decay of the rate has yet to gain."""
        power = 0.25 + 0.35 * rate
        way = (done + 0.01) ** -power - 1.01**-power
        late = 0.06 * (lr / train_config.learning_rate - lr[-1] / train_config.learning_rate).clip(min=0.0)
        above: Floats = 0.25 * way + late * np.minimum(1.0, 5.0 * (1.0 - done))
        return above


class Recorded:
    """Plays back recorded runs: a configuration gets the run with the nearest parameters, each on its own scale.

    Args:
        spec: Of the sweep.
        budget: Samples per trial; recorded runs are rescaled to it.
        studies: As read by `sweepft.replay.sources`; the one with the most runs is used.
    """

    def __init__(self, spec: SweepSpec, budget: int, studies: Sequence[Study]) -> None:
        self._spec, self._clock, self._budget = spec, _Clock(spec, budget), budget
        self._study = max(studies, key=lambda s: len(s.runs))
        self._places = np.array([self._where(run.params) for run in self._study.runs])

    @property
    def about(self) -> dict[str, Any]:
        """Name of the study."""
        return {
            "courses": f"recorded: {self._study.source}, {self._study.name}",
            "runs": len(self._study.runs),
        }

    def course(self, config: Mapping[str, Any], train_config: TrainConfig) -> SimulatedCurve:
        """See `CurveSource`."""
        here = self._where(config)
        known = np.isfinite(self._places) & np.isfinite(here)
        distance = np.where(known, (self._places - here) ** 2, 0.25).sum(axis=1)
        run = self._study.runs[int(distance.argmin())]
        samples = self._clock.samples(train_config)
        at = samples / self._budget * self._study.budget
        sign = -1.0 if self._study.mode == "max" else 1.0
        bad = None if run.bad_row is None else int(np.searchsorted(at, run.progress[run.bad_row]))
        loss, norm = _read(run, run.loss, at), _read(run, run.grad_norm, at)
        validation = sign * _read(run, run.metric, at)
        if math.isfinite(run.final):
            validation[-1] = sign * run.final
        if bad is not None:
            bad = min(bad, len(at) - 1)
            loss[bad:] = norm[bad:] = validation[bad:] = math.nan
        ideal = math.inf if bad is not None else float(validation[-1])
        seconds = self._clock.seconds(samples)
        return SimulatedCurve(
            samples, loss, norm, self._clock.rates(train_config), seconds, validation, ideal, bad
        )

    def _where(self, config: Mapping[str, Any]) -> Floats:
        space = self._spec.search.space
        return np.array([_place(config.get(key), dim, 0) for key, dim in space.items()], dtype=float)


def _read(run: Run, values: Floats, at: Floats) -> Floats:
    """A recorded column interpolated at these points of progress; 1 where nothing was logged."""
    seen = np.isfinite(values)
    return np.interp(at, run.progress[seen], values[seen]) if seen.any() else np.ones(len(at))


def _place(value: Any, dimension: Dimension, seed: int) -> float:
    """Position of a value in its dimension, 0 to 1 on its own scale; random for labels, NaN for None."""
    if value is None:
        return math.nan
    if dimension.choice is not None and not dimension.is_numeric:
        return derived_seed(seed, "label", repr(value)) / 2**32
    if isinstance(value, bool) or not isinstance(value, int | float):
        return math.nan
    low, high = (
        dimension.bounds if dimension.choice is None else (min(dimension.choices), max(dimension.choices))
    )
    if low == high:
        return 0.5
    if low > 0 and value > 0 and high / low >= 8:
        low, high, value = math.log(low), math.log(high), math.log(value)
    return float((value - low) / (high - low))


def budget_of(spec: SweepSpec) -> int:
    """Samples per trial.

    Raises:
        SpecError: If the budget is in tokens or epochs, which only real data can convert to samples.
    """
    samples = spec.train.budget.samples
    if samples is None:
        raise SpecError(
            [Problem(spec.name, "train.budget", "must be in samples here: a simulation reads no data",
                     "for example: --set 'train.budget={samples: 50000}'")]
        )  # fmt: skip
    return samples


def make_courses(spec: SweepSpec, curves: Path | None, seed: int) -> CurveSource:
    """Curves recorded in a table or folder, or synthetic ones if `curves` is None.

    Raises:
        ReplayError: If no learning curves are found there.
        SpecError: If the budget is not in samples.
    """
    budget = budget_of(spec)
    return Synthetic(spec, budget, seed) if curves is None else Recorded(spec, budget, read_source(curves))

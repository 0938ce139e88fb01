"""The whole spec, and the train config of one trial.

A train config is the train section with the swept values filled in and validated again, so a trial never gets a value
that the YAML could not hold. It is made once, when the trial is proposed, and travels unchanged through Tune, the
ledger, the slot and its ranks to the trainer.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from decimal import ROUND_CEILING, Decimal
from functools import cached_property
from typing import Annotated, Any, Final, Self

from pydantic import Field, ValidationError

from sweepft.errors import SpecError
from sweepft.spec.curriculum import CURRICULUM_KEYS, Curriculum, is_data_key, is_mixture_key
from sweepft.spec.evaluation import Evaluate
from sweepft.spec.fields import Checkpoint, Positive, PositiveInt, Section, WarmupSteps, leaf_fields
from sweepft.spec.objective import Objective
from sweepft.spec.outputs import Mirror, Notify, Track
from sweepft.spec.problems import problems_of
from sweepft.spec.sections import (
    Data,
    EarlyStop,
    Faults,
    Keep,
    Model,
    Optimizer,
    Resources,
    Search,
    Train,
)


class TrainConfig(Train):
    """The train config of one trial: frozen, picklable, and plain data by :meth:`to_dict`."""

    batch_size: PositiveInt
    """Samples per optimizer step over all ranks."""
    learning_rate: Positive
    """Peak learning rate."""
    data: Curriculum | None = None
    """Sample order of the trial; None for all rows in one seeded order."""
    budget_samples: PositiveInt
    """Samples the trial sees: `budget` in samples of the prepared data."""

    @classmethod
    def from_dict(cls, train_config: Mapping[str, Any], budget_samples: int) -> Self:
        """Read what :meth:`to_dict` wrote.

        Raises:
            pydantic.ValidationError: If a value is missing or not valid.
        """
        return cls.model_validate({**train_config, "budget_samples": budget_samples})

    def to_dict(self) -> dict[str, Any]:
        """The section as plain data, as the ledger keeps it; the budget in samples is the sweep's own."""
        return self.model_dump(mode="json", exclude={"budget_samples"})

    @cached_property
    def planned_steps(self) -> int:
        """Optimizer steps of the whole trial: ``ceil(budget_samples / batch_size)``."""
        return -(-self.budget_samples // self.batch_size)

    @cached_property
    def warmup_steps(self) -> int:
        """Optimizer steps of warmup, at most ``planned_steps``; a fraction of them is rounded up."""
        if isinstance(self.warmup, WarmupSteps):
            return min(self.warmup.steps, self.planned_steps)
        # In decimals: 0.1 of 30 steps is 3, where binary floats would make it 4.
        exact = Decimal(repr(self.warmup)) * self.planned_steps
        return int(exact.to_integral_value(rounding=ROUND_CEILING))


_FIXED = (
    *("budget", "micro_batch", "precision", "zero_stage", "offload", "liger", "compile"),
    *("lora.quantize", "lora.modules_to_save"),
)
SWEEPABLE: tuple[str, ...] = (
    *(
        key
        for key in leaf_fields(Train)
        if not any(key == fixed or key.startswith(fixed + ".") for fixed in _FIXED)
    ),
    *CURRICULUM_KEYS,
)
"""Keys allowed in ``search.space``, besides ``data.mixture.DOMAIN``: the fields of ``train`` that change neither memory
nor budget, and the fields of ``data`` that order the samples."""


def is_sweepable(key: str) -> bool:
    """Whether a dotted key is allowed in ``search.space``."""
    return key in SWEEPABLE or is_mixture_key(key)


class SweepSpec(Section):
    """A sweep: one YAML file, validated and frozen."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=80)]
    """Name of the sweep and of its Optuna study: letters, digits, `.`, `_` and `-`."""
    model: Model
    """The base model that every trial starts from."""
    data: Data
    """Training, validation and test data."""
    train: Train
    """Training settings of every trial."""
    search: Search
    """Search space, sampler and number of trials."""
    objective: Objective = Objective()
    """What the search optimises; by default it minimizes the validation loss."""
    early_stop: EarlyStop = EarlyStop()
    """Early stopping of trials."""
    resources: Resources = Resources()
    """Workers and GPUs of a trial, and the number of concurrent trials."""
    keep: Keep = Keep()
    """Which trials' weights to keep."""
    evaluate: Evaluate | None = None
    """Evaluation of the finalists after the search; by default trials are ranked by the objective alone."""
    track: Track = Track()
    """Experiment trackers to send curves to."""
    notify: Notify | None = None
    """Message when the sweep ends; none by default."""
    mirror: Mirror | None = None
    """Copy of the run folder on other storage; none by default."""
    faults: Faults = Faults()
    """Handling of lost ranks, slots and nodes."""
    checkpoint: Checkpoint = "auto"
    """When to checkpoint running trials: at every rung (`rungs`), at rungs at least `{minutes: N}` apart, never
    (`none`), or at rungs where training waits for less than a twentieth of the time that it saves (`auto`). Checkpoints
    are written behind training, from a copy in main memory of 12 bytes a trained parameter. After a fault
    a trial resumes from its checkpoint; without one it is trained from the start, with the same results."""

    def train_config(
        self, params: Mapping[str, Any], budget_samples: int, tokens_per_sample: float | None = None
    ) -> TrainConfig:
        """What a trial with these params trains with.

        Args:
            params: Dotted field of ``train``, or of ``data``, to value, for every key of ``search.space``.
            budget_samples: Samples every trial of the sweep trains on, at least 1.
            tokens_per_sample: Mean target tokens of a training row; without it a half-life of the second moment stays
                as it is, and the trial cannot be trained.

        Raises:
            SpecError: If a value is not valid, or a field is missing.
        """
        data = train_dict(self.train)
        if self.data.curriculum != Curriculum() or any(map(is_data_key, self.search.space)):
            data["data"] = self.data.curriculum.model_dump(mode="json", exclude_none=True)
        data = with_beta2(with_ties(apply(data, params), self.search), tokens_per_sample)
        try:
            return TrainConfig.from_dict(data, budget_samples)
        except ValidationError as error:
            raise SpecError(problems_of(error, TrainConfig, data, lambda _: "trial", ("train",))) from None

    @property
    def batch_sizes(self) -> tuple[int, ...]:
        """The possible batch sizes, in increasing order."""
        swept = self.search.space.get("batch_size")
        sizes = swept.choices if swept is not None else (self.train.batch_size,)
        return tuple(sorted(int(size) for size in sizes if size is not None))

    @property
    def rate_range(self) -> tuple[float, float]:
        """The lowest and the highest learning rate that a trial can train with."""
        dimension = self.search.space.get("learning_rate")
        rates = [float(rate) for _, rate in self.search.candidates("learning_rate", self.train.learning_rate)]
        scales = [1.0] if dimension is None else [dimension.scale(size) for size in self.batch_sizes]
        return min(rates) * min(scales), max(rates) * max(scales)

    def evaluation_points(self, budget_samples: int, rows: int | None) -> tuple[float, ...]:
        """Where trials are evaluated before their end, as increasing fractions of the budget: at the rungs, and with
        ``objective.at: best`` at the ends of epochs, at most `MOST_EPOCH_ENDS` of them.

        Args:
            budget_samples: Samples of a trial.
            rows: Training rows, the samples of an epoch; None where the number is not known.
        """
        if self.objective.at == "end" or not rows:
            return self.early_stop.rungs
        return evaluation_points(self.early_stop.rungs, budget_samples / rows)

    @property
    def space_size(self) -> int | None:
        """Number of different params in the search space; None if it has a continuous dimension."""
        sizes = [dimension.size for dimension in self.search.space.values()]
        return None if None in sizes else math.prod(size for size in sizes if size is not None)

    @property
    def kept(self) -> Keep:
        """Which trials' weights are kept: those of ``keep`` and the finalists."""
        finalists = self.evaluate.finalists if self.evaluate is not None else Keep(top=0)
        return Keep(
            top=max(self.keep.top, finalists.top),
            random=max(self.keep.random, finalists.random),
            pareto=self.keep.pareto,
        )

    @property
    def baseline_finalist(self) -> str | None:
        """The trial of ``search.baseline``, which is a finalist whatever its place; None without one, or finalists."""
        return "t000" if self.evaluate is not None and self.search.baseline is not None else None

    def to_dict(self) -> dict[str, Any]:
        """Plain data that validates to an equal spec: with all defaults, without swept fields."""
        data = self.model_dump(mode="json", exclude_none=True)
        for key in (*self.search.space, *self.search.tied):
            remove_dotted(data if is_data_key(key) else data["train"], key)
        if self.train.optimizer.beta2_half_life is not None or HALF_LIFE in self.search.space:
            data["train"]["optimizer"].pop("betas", None)  # a default, and refused beside a half-life
        return data


MOST_EPOCH_ENDS: Final = 20
"""Ends of epochs at which a trial is evaluated, at most; of more epochs, every second, third, ... one."""


def evaluation_points(rungs: Sequence[float], epochs: float) -> tuple[float, ...]:
    """The rungs and the ends of epochs before the end of a trial, as increasing fractions of the budget.

    Args:
        rungs: Increasing fractions.
        epochs: Passes over the training rows in the whole budget.
    """
    whole = math.ceil(epochs - 1e-6) - 1
    every = max(1, math.ceil(whole / MOST_EPOCH_ENDS))
    ends = (epoch / epochs for epoch in range(every, whole + 1, every))
    return tuple(sorted({*rungs, *(end for end in ends if all(abs(end - rung) > 1e-9 for rung in rungs))}))


def train_dict(train: Train) -> dict[str, Any]:
    """The train section as plain data, without empty fields."""
    return train.model_dump(mode="json", exclude_none=True)


def apply(train: Mapping[str, Any], params: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of a train section with dotted fields set."""
    result = copy.deepcopy(dict(train))
    for key, value in params.items():
        set_dotted(result, key, copy.deepcopy(value))
    return result


def with_ties(train: dict[str, Any], search: Search) -> dict[str, Any]:
    """A train section with the fields of ``search.tied`` set from those that they follow."""
    for key, tie in search.tied.items():
        of = get_dotted(train, tie.of)
        if isinstance(of, int | float) and not isinstance(of, bool):
            set_dotted(train, key, tie.value(of))
    return train


HALF_LIFE: Final = "optimizer.beta2_half_life"


def with_beta2(train: dict[str, Any], tokens_per_sample: float | None) -> dict[str, Any]:
    """A train section with ``betas`` in place of a half-life of the second moment in tokens."""
    half_life, batch_size = get_dotted(train, HALF_LIFE), train.get("batch_size")
    if tokens_per_sample is None or not isinstance(half_life, int | float) or not isinstance(batch_size, int):
        return train
    optimizer = train["optimizer"]
    del optimizer["beta2_half_life"]
    beta1, _ = Optimizer().betas
    optimizer["betas"] = [beta1, 0.5 ** (batch_size * tokens_per_sample / half_life)]
    return train


def get_dotted(data: Mapping[str, Any], key: str) -> Any:
    """``a.b`` of nested mappings; None where it is not there."""
    value: Any = data
    for part in key.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


def set_dotted(data: dict[str, Any], key: str, value: Any) -> None:
    """Set ``a.b`` in nested mappings, replacing values on the path that are not mappings."""
    *parents, last = key.split(".")
    for part in parents:
        if not isinstance(data.get(part), dict):
            data[part] = {}
        data = data[part]
    data[last] = value


def remove_dotted(data: dict[str, Any], key: str) -> None:
    """Remove ``a.b`` from nested mappings, or ``a`` if it is not a mapping."""
    first, _, rest = key.partition(".")
    if rest and isinstance(data.get(first), dict):
        remove_dotted(data[first], rest)
    else:
        data.pop(first, None)

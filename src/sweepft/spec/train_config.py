"""What one trial trains with: the `train` section with the trial's params in place, resolved to optimizer steps.

It is made once, when the trial is proposed (:meth:`sweepft.spec.SweepSpec.train_config`), and then travels unchanged
through Tune, the ledger, the slot and its ranks to the trainer.
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import ROUND_CEILING, Decimal
from functools import cached_property
from typing import Any, Self

from sweepft.spec.curriculum import Curriculum
from sweepft.spec.fields import Positive, PositiveInt, WarmupSteps
from sweepft.spec.sections import Train


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

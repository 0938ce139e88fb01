"""Names, units and directions of everything a trial reports.

One vocabulary for trainable, scheduler, ledger and report: who needs a key takes it from here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

__all__ = ["METRICS", "Metric"]


@dataclass(frozen=True)
class Metric:
    """A reported quantity.

    Attributes:
        name: Key in results, ledger and tables.
        unit: Unit, in words.
        better: Which way is good, or None where that is not a question.
    """

    name: str
    unit: str
    better: Literal["min", "max"] | None = None


METRICS: Final[dict[str, Metric]] = {
    m.name: m
    for m in (
        Metric("step", "optimizer steps done in this trial"),
        Metric("samples_seen", "training samples consumed by this trial, whatever its batch size"),
        Metric("tokens_seen", "target tokens (those with a loss) consumed by this trial"),
        Metric("loss", "nats per target token, mean over the global batch", "min"),
        Metric("grad_norm", "L2 norm of the global-batch gradient before clipping"),
        Metric("lr", "learning rate the optimizer step used"),
        Metric("seconds", "wall seconds of the optimizer step"),
        Metric(
            "eval_loss", "the objective: weighted mean of the held-out sets' nats per target token", "min"
        ),
    )
}

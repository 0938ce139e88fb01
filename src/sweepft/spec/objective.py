"""The ``objective`` section: what the search optimises, the validation loss or a metric of a task."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal

from pydantic import BeforeValidator, Discriminator, Field, Tag, model_validator

from sweepft.spec.fields import NonNegativeInt, Paths, PositiveInt, Section, invalid

VALIDATION_LOSS: Final = "validation_loss"


class TaskMetric(Section):
    """A metric of a task of the lm-evaluation-harness, measured at the end of every trial and at rungs. Needs
    `pip install 'sweepft[eval]'`."""

    task: Annotated[str, Field(min_length=1, max_length=200)]
    """Harness task or group (`gsm8k`), or a task from `include_path`."""
    metric: Annotated[str, Field(min_length=1, max_length=200)]
    """Metric of the task, e.g. `exact_match`; with several filters `exact_match,strict-match`."""
    limit: PositiveInt | None = None
    """Number of items (in a group: per task), the same ones for every trial; by default all. The noise of a score is
    about 0.5 / sqrt(items), so 200 items tell 0.60 from 0.70, and not from 0.63."""
    num_fewshot: NonNegativeInt | None = None
    """Number of few-shot examples; by default the task's own."""
    chat_template: bool = True
    """Format items as chat turns with the model's chat template, as in training; as plain text if there is none."""
    include_path: Paths = ()
    """Folders with your own task files. Relative data paths in them are resolved against the folder."""
    batch_size: PositiveInt = 8
    """Items per batch and rank; halved if they do not fit in memory."""
    max_share: Annotated[float, Field(gt=0, le=1)] = 0.1
    """Largest share of a trial's time for the task. Once a trial has shown what it costs, later ones are measured at
    fewer rungs, the latest ones; at the end always."""


def _kind(value: Any) -> str:
    return "as_task" if isinstance(value, Mapping | TaskMetric) else "as_loss"


def _a_task(value: Any) -> Any:
    if value == VALIDATION_LOSS:
        raise invalid("must be a task: a loss is minimized", f"write minimize: {VALIDATION_LOSS}")
    return value


_Minimized = Annotated[
    Annotated[Literal["validation_loss"], Tag("as_loss")] | Annotated[TaskMetric, Tag("as_task")],
    Discriminator(_kind),
]


class Objective(Section):
    """What the search optimises: sampler, early stopping, ranking and report follow it. Give `maximize` or
    `minimize`."""

    maximize: Annotated[TaskMetric | None, BeforeValidator(_a_task)] = None
    """A task's metric of which more is better, e.g. `{task: gsm8k, metric: exact_match, limit: 200}`."""
    minimize: _Minimized | None = None
    """`validation_loss`, the weighted mean over the sets of `data.validation` (the default), or a task's metric of
    which less is better, with the keys of `maximize`."""
    at: Literal["end", "best"] = "end"
    """Which evaluation of a trial gives its value: the one at its end, or its best one (at a rung, at the end of an
    epoch, or at its end). With `best` the weights of that evaluation are kept and exported, and trials are also
    evaluated at the ends of epochs."""

    @model_validator(mode="before")
    @classmethod
    def _minimize_the_loss(cls, data: Any) -> Any:
        if isinstance(data, dict) and data.get("minimize") is None and data.get("maximize") is None:
            return {**data, "minimize": VALIDATION_LOSS}
        return data

    @model_validator(mode="after")
    def _one_direction(self) -> Objective:
        if self.minimize is not None and self.maximize is not None:
            raise invalid("must have minimize or maximize, not both", "remove one of them")
        return self

    @property
    def task(self) -> TaskMetric | None:
        """The task, None for the validation loss."""
        if self.maximize is not None:
            return self.maximize
        return self.minimize if isinstance(self.minimize, TaskMetric) else None

    @property
    def mode(self) -> Literal["min", "max"]:
        """Which way it is good."""
        return "min" if self.maximize is None else "max"

    @property
    def key(self) -> str:
        """``objective.maximize`` or ``objective.minimize``, for messages."""
        return "objective.minimize" if self.maximize is None else "objective.maximize"

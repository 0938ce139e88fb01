"""The ``objective`` section: what the search optimises, the validation loss, a metric of a task, or a function of the
user's own.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal

from pydantic import BeforeValidator, Discriminator, Field, Tag, ValidationInfo, model_validator

from sweepft.spec.fields import BatchSize, LocalPath, NonNegativeInt, Paths, PositiveInt, Section, invalid
from sweepft.spec.row_source import RowForm

VALIDATION_LOSS: Final = "validation_loss"


_FUNCTION: Final = re.compile(r"[A-Za-z_]\w*:[A-Za-z_]\w*")


def _as_function(value: Any) -> Any:
    if isinstance(value, str) and not _FUNCTION.fullmatch(value):
        raise invalid(
            "must be module:function, for a file module.py beside the spec",
            "for example my_metrics:score; files of other folders are found by include_path",
        )
    return value


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
    batch_size: BatchSize = 8
    """Items per batch and rank, or `auto` (see `evaluate.batch_size`), by which batches may differ between slots with
    other free memory. Halved if they do not fit in memory."""

    @property
    def names(self) -> tuple[str, str]:
        """The names of task and metric in ledger and report."""
        return self.task, self.metric


class _OwnMetric(Section):
    data: LocalPath
    """File of rows to answer (.jsonl, .json, .csv, .parquet, ...), in a format of `data.train`. The request is what
    comes before the row's last answer; the answer, and every other column, is for your function and may be missing."""
    metric: Annotated[str, BeforeValidator(_as_function)]
    """`module:function`, e.g. `my_metrics:score` for `def score(answer, row)` in `my_metrics.py`."""
    include_path: Paths = ()
    """Folders that the module's file may be in; by default the folder of the spec. Never a run folder."""
    limit: PositiveInt | None = None
    """Number of rows, the first ones of the file; by default all. More rows make a more precise mean."""
    max_tokens: PositiveInt = 256
    """Maximum tokens of an answer."""
    batch_size: BatchSize = 8
    """Rows per batch and rank, or `auto` (see `evaluate.batch_size`). Halved if they do not fit in memory."""


class OwnMetric(RowForm, _OwnMetric):
    """A function of your own that scores the model's answers to the rows of a file: `score(answer: str, row: dict)`
    returns a number for each row, and the mean is the value. The answers are greedy."""

    @model_validator(mode="before")
    @classmethod
    def _beside_the_spec(cls, data: Any, info: ValidationInfo) -> Any:
        root = (info.context or {}).get("root")
        if isinstance(data, dict) and root is not None and not data.get("include_path"):
            return {**data, "include_path": [str(root)]}
        return data

    @property
    def names(self) -> tuple[str, str]:
        """The names of task and metric in ledger and report: the file's, without its endings, and the function's."""
        from sweepft.ledger import measured_names  # which loads numpy: not for `validate`

        return measured_names(self.model_dump(mode="json", include={"data", "metric"}))


def _kind(value: Any) -> str:
    if isinstance(value, OwnMetric) or (isinstance(value, Mapping) and "data" in value):
        return "as_function"
    return "as_task" if isinstance(value, Mapping | TaskMetric) else "as_loss"


def _a_task(value: Any) -> Any:
    if value == VALIDATION_LOSS:
        raise invalid("must be a task: a loss is minimized", f"write minimize: {VALIDATION_LOSS}")
    if not isinstance(value, Mapping | TaskMetric | OwnMetric | None):
        raise invalid(
            "must be a task, or the file and function of a metric of your own",
            "for example {task: gsm8k, metric: exact_match} or {data: prompts.jsonl, metric: my_metrics:score}",
        )
    return value


Measured = Annotated[
    Annotated[TaskMetric, Tag("as_task")] | Annotated[OwnMetric, Tag("as_function")], Discriminator(_kind)
]
"""What is measured on generated answers or choices: a task, or a function of the user's own."""


class MeasuredTask(TaskMetric):
    """A task of the lm-evaluation-harness that is measured beside the objective."""

    lower_is_better: bool = False
    """Whether less is better, as of a perplexity."""


class MeasuredFunction(OwnMetric):
    """A function of your own that is measured beside the objective: `score(answer: str, row: dict)`."""

    lower_is_better: bool = False
    """Whether less is better, as of a number of errors."""


_Minimized = Annotated[
    Annotated[Literal["validation_loss"], Tag("as_loss")]
    | Annotated[TaskMetric, Tag("as_task")]
    | Annotated[OwnMetric, Tag("as_function")],
    Discriminator(_kind),
]


class Objective(Section):
    """What the search optimises: sampler, early stopping, ranking and report follow it. Give `maximize` or
    `minimize`."""

    maximize: Annotated[Measured | None, BeforeValidator(_a_task)] = None
    """A task's metric of which more is better, e.g. `{task: gsm8k, metric: exact_match, limit: 200}`, or a function of
    your own, e.g. `{data: prompts.jsonl, metric: my_metrics:score}`."""
    minimize: _Minimized | None = None
    """`validation_loss`, the weighted mean over the sets of `data.validation` (the default), or a metric of
    which less is better, with the keys of `maximize`."""
    max_share: Annotated[float, Field(gt=0, le=1)] = 0.1
    """Largest share of a trial's time for all tasks and functions together. Once a trial has shown what they cost,
    later ones are measured at fewer rungs, the latest ones; at the end always."""
    measure: Annotated[
        tuple[
            Annotated[
                Annotated[MeasuredTask, Tag("as_task")] | Annotated[MeasuredFunction, Tag("as_function")],
                Discriminator(_kind),
            ],
            ...,
        ],
        Field(strict=False),
    ] = ()
    """Further tasks or functions that trials are measured on, at the points where a task as the objective is, e.g.
    `[{task: gsm8k, metric: exact_match, limit: 100}]`: for bounds in `search.subject_to`, and for the report."""
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
    def _each_once(self) -> Objective:
        names = [wanted.names[0] for wanted in self.measured.values()]
        twice = next((name for i, name in enumerate(names) if name in names[:i]), None)
        if twice is not None:
            raise invalid(
                f"must not measure {twice} twice", "remove it from measure, or rename the file of rows"
            )
        return self

    @model_validator(mode="after")
    def _one_direction(self) -> Objective:
        if self.minimize is not None and self.maximize is not None:
            raise invalid("must have minimize or maximize, not both", "remove one of them")
        return self

    @property
    def task(self) -> TaskMetric | OwnMetric | None:
        """The task or function, None for the validation loss."""
        if self.maximize is not None:
            return self.maximize
        return self.minimize if isinstance(self.minimize, TaskMetric | OwnMetric) else None

    @property
    def measured(self) -> dict[str, TaskMetric | OwnMetric]:
        """All that trials are measured on beside the validation sets, by its place in the spec: the objective's task
        first.
        """
        own = {} if self.task is None else {self.key: self.task}
        return own | {f"objective.measure.{i}": wanted for i, wanted in enumerate(self.measure)}

    @property
    def mode(self) -> Literal["min", "max"]:
        """Which way it is good."""
        return "min" if self.maximize is None else "max"

    @property
    def key(self) -> str:
        """``objective.maximize`` or ``objective.minimize``, for messages."""
        return "objective.minimize" if self.maximize is None else "objective.maximize"

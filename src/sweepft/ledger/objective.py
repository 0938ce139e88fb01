"""The objective of a sweep: its name, and the one place that knows which way it is good.

The ledger holds the values as they are measured. What ranks or compares trials turns them with `Objective.cost`; early
stopping and the sampler, which know both directions, take `Objective.mode`.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any, Final, Literal

from sweepft.ledger.trial_state import TrialState


def measured_names(wanted: Mapping[str, Any]) -> tuple[str, str]:
    """The names of task and metric of what is measured on answers.

    Args:
        wanted: The spec's section as plain data: a task, or a file of rows and a function (``module:function``).
    """
    if "task" in wanted:
        return wanted["task"], wanted["metric"]
    file = PurePath(wanted["data"]).name
    return file.lstrip(".").partition(".")[0] or file, wanted["metric"].partition(":")[2] or wanted["metric"]


def measured_tasks(spec: Mapping[str, Any]) -> dict[str, str]:
    """The tasks and functions that trials of a resolved spec are measured on, that of the objective included.

    Returns:
        Name -> metric.
    """
    section = spec.get("objective") or {}
    wanted = [section.get("maximize"), section.get("minimize"), *(section.get("measure") or ())]
    return dict(measured_names(one) for one in wanted if isinstance(one, Mapping))


@dataclass(frozen=True)
class Objective:
    """What a sweep optimises; by default the validation loss.

    Attributes:
        maximize: Whether larger is better.
        task: Task of the harness, or name of the file whose rows are answered; None for the validation loss.
        metric: Of the task, or name of the function that scores the answers.
        max_share: Largest share of a trial's time for the task.
    """

    maximize: bool = False
    task: str | None = None
    metric: str | None = None
    max_share: float = 1.0

    @classmethod
    def of(cls, spec: Mapping[str, Any]) -> Objective:
        """The objective of a resolved spec, as plain data; one without the section minimizes the validation loss."""
        section = spec.get("objective") or {}
        wanted = section.get("maximize") or section.get("minimize")
        if not isinstance(wanted, Mapping):
            return cls()
        maximize = section.get("maximize") is not None
        share = section.get("max_share")
        return cls(maximize, *measured_names(wanted), 1.0 if share is None else float(share))

    @property
    def name(self) -> str:
        """For people: ``validation loss``, or ``gsm8k exact_match``."""
        return "validation loss" if self.task is None else f"{self.task} {self.metric}"

    @property
    def short(self) -> str:
        """On a line of the terminal: ``eval_loss``, or ``exact_match``."""
        return "eval_loss" if self.metric is None else self.metric

    @property
    def mode(self) -> Literal["min", "max"]:
        """Which way it is good."""
        return "max" if self.maximize else "min"

    def cost(self, value: float | None) -> float:
        """The value turned so that lower is better; infinite where it is not known."""
        if value is None or math.isnan(value):
            return math.inf
        return -value if self.maximize else value

    def ahead(self, first: float, second: float) -> float:
        """How far the first value is ahead of the second one: positive where it is better."""
        return self.cost(second) - self.cost(first)


VALIDATION_LOSS: Final = Objective()
"""The default."""


def task_cost(trials: Iterable[TrialState]) -> tuple[float, float] | None:
    """What the tasks take that trials are measured on: median seconds of one measurement of all of them, and of the
    rest of a whole trial.

    The start of a trial is left out: that of a slot's first one includes the start of its ranks.

    Args:
        trials: Of the sweep.
    Returns:
        None before a trial has completed.
    """
    each, rest = [], []
    for trial in trials:
        taken = [seconds for row in trial.evals if (seconds := task_seconds(row)) is not None]
        each += taken
        if trial.status == "completed" and taken:
            own = sum(seconds for phase, seconds in trial.costs.items() if phase not in ("lost", "switch"))
            rest.append(max(0.0, own - sum(taken)))
    return (statistics.median(each), statistics.median(rest)) if rest else None


def task_seconds(row: Mapping[str, Any]) -> float | None:
    """Seconds that an evaluation took for tasks, that of the objective and others; None where none was measured."""
    found = [*(row.get("tasks") or {}).values(), *([row["task"]] if row.get("task") else [])]
    return sum(float(one["seconds"]) for one in found) if found else None


def affordable_rungs(rungs: Sequence[float], each: float, rest: float, max_share: float) -> tuple[float, ...]:
    """The rungs at which a task is measured so that, with the end, it takes no more than a share of a trial's time.

    The latest rungs are kept: early in training a score says least. The end is measured even where it alone takes more.

    Args:
        rungs: Fractions of the budget.
        each: Seconds of one measurement.
        rest: Seconds of a trial without any.
        max_share: Of the time of a trial with them.
    """
    if max_share >= 1 or each <= 0:
        return tuple(rungs)
    room = math.floor(max_share * rest / ((1 - max_share) * each))
    kept = min(len(rungs), max(0, room - 1))
    return tuple(sorted(rungs)[len(rungs) - kept :])

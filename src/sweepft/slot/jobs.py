"""What a slot is given to do: train one trial, or score one set of weights.

Tune carries a job to the slot as the only value of a trial's Tune config. ``to_tune_config`` and ``job_of`` are the
two places that know this. ``report_points`` says when a trial reports.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

from sweepft.early_stopping import parse_rungs, rung_steps
from sweepft.slot.best_point import BestPoint

if TYPE_CHECKING:
    from sweepft.evaluation import EvalTask, OwnTask
    from sweepft.spec import MtBench, TrainConfig


@dataclass(frozen=True)
class TrialJob:
    """Train one trial.

    Attributes:
        trial_id: ``t007``, or ``t007-seed1`` for a replicate.
        number: Its place in the order of proposals; that of the replicated trial for a replicate.
        params: Values of the swept keys.
        train_config: What it trains with, resolved.
        origin: ``start_with``, ``sampler``, ``clone`` or ``replicate``.
        study_number: Number of the trial in the Optuna study, None for a replicate.
        replicate_of: The trial whose params are trained again with another seed, None for a trial of the search.
        resumed: Whether the trial had started before: it was interrupted, paused, or lost its slot.
        reported_samples: Samples up to which the ledger holds its results; it trains up to there without reporting.
        restarts: How often new ranks or a new slot have taken it over after a fault.
        keep_weights: Whether to keep its weights whatever its objective.
        proven: Train config of another trial of the sweep that has taken steps, None if there is none. Where this trial
            cannot start, that one is tried: it tells whether slot or settings are the cause.
        coordinates: Values on the sampler's own scale where these differ from ``params``.
        objective_rungs: Rungs at which tasks are measured, beside the end; None for all of them.
        best: Its best evaluation up to ``reported_samples``, where trials count by their best one.
        limits: Largest cost allowed by validation set or task, by which the best evaluation is chosen.
        patience: Evaluations without a better one after which it ends; None where it trains to its end.
    """

    trial_id: str
    number: int
    params: Mapping[str, Any]
    train_config: TrainConfig
    origin: str = "sampler"
    study_number: int | None = None
    replicate_of: str | None = None
    resumed: bool = False
    reported_samples: int = 0
    restarts: int = 0
    keep_weights: bool = False
    proven: TrainConfig | None = None
    coordinates: Mapping[str, Any] = field(default_factory=dict)
    objective_rungs: tuple[float, ...] | None = None
    best: BestPoint | None = None
    limits: Mapping[str, float] = field(default_factory=dict)
    patience: int | None = None

    @property
    def name(self) -> str:
        """The name of the job's Tune trial and folder."""
        return self.trial_id

    @property
    def is_search_trial(self) -> bool:
        """Whether study and scheduler know the trial."""
        return self.replicate_of is None

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True)
class ObjectiveTask:
    """A task that trials are measured on: that of the objective, or another one.

    Attributes:
        task: The task, or a file of rows with a function of the user's own.
        metric: As the spec has it; the name of the function.
        tokenizer: Folder of the tokenizer.
        higher_is_better: Whether more is better.
    """

    task: EvalTask | OwnTask
    metric: str
    tokenizer: str
    higher_is_better: bool = True

    def result(self, found: Mapping[str, Any]) -> dict[str, Any]:
        """The entry of a result's ``eval_tasks``; ``cost`` is the value, turned where more is better.

        Args:
            found: What ``Rank.measure`` has returned.
        """
        value = found["value"]
        kept = {key: found[key] for key in ("value", "stderr", "items", "seconds")}
        cost = -value if self.higher_is_better else value
        return {**kept, "higher_is_better": self.higher_is_better, "cost": cost}


@dataclass(frozen=True)
class Judging:
    """How the answers to MT-Bench are judged.

    Attributes:
        settings: The spec's section.
        weights: Digest of the weights; answers of the same weights are cached.
        cache: Folder of cached answers and verdicts.
        batch_size: Chats a rank runs at once; None for as many as fit.
    """

    settings: MtBench
    weights: str
    cache: str
    batch_size: int | None


@dataclass(frozen=True)
class EvalItem:
    """One thing to score weights on: a token set, a task of lm-eval, MT-Bench, or a task as trials are measured on it.

    Attributes:
        what: ``test``, ``validation``, ``task``, ``mt_bench`` or ``measured``.
        name: Of the set or task.
        digest: Of what it is scored on.
        cache: Folder of the token set, for ``test`` and ``validation``.
        task: For ``task``.
        judging: For ``mt_bench``.
        measured: For ``measured``.
        items: File for the results item by item, relative to the run folder.
    """

    what: str
    name: str
    digest: str
    cache: str | None = None
    task: EvalTask | None = None
    judging: Judging | None = None
    measured: ObjectiveTask | None = None
    items: str | None = None


@dataclass(frozen=True)
class EvalJob:
    """Score the kept weights of one trial, or the base model, on some items.

    Attributes:
        name: ``score-t007`` or ``score-base``.
        subject: The trial, None for the base model.
        weights: Folder of its weights, None for the base model.
        run_dir: The run folder.
        tokenizer: Folder of the tokenizer.
        items: What to score on, in this order.
        train_config: What the engine builds a model with.
    """

    name: str
    subject: str | None
    weights: str | None
    run_dir: str
    tokenizer: str
    items: tuple[EvalItem, ...]
    train_config: TrainConfig

    @property
    def is_search_trial(self) -> bool:
        """Never: study and scheduler know nothing of it."""
        return False

    def __str__(self) -> str:
        return self.name


Job: TypeAlias = TrialJob | EvalJob


def to_tune_config(job: Job) -> dict[str, Any]:
    """The Tune config that carries a job."""
    return {"job": job}


def job_of(config: Mapping[str, Any]) -> Job:
    """The job in a Tune config."""
    job: Job = config["job"]
    return job


_REPORTS_PER_TRIAL = 20
_STEPS_PER_REPORT = (
    3  # at least, between rungs: a report costs some milliseconds, which only very fast trials notice
)


@dataclass(frozen=True)
class ReportPoint:
    """A point of a trial at which it reports.

    Attributes:
        samples: Samples seen there.
        rung: Nominal fraction of the budget where validation loss is due, None at points in between.
    """

    samples: int
    rung: float | None


def report_points(budget_samples: int, rungs: Sequence[float], batch_size: int) -> list[ReportPoint]:
    """Report points of a trial, ascending; the last one is the whole budget and has rung 1.0.

    Of several points in one optimizer step the last rung remains.
    """
    steps = math.ceil(budget_samples / batch_size)
    reports = max(1, min(_REPORTS_PER_TRIAL, steps // _STEPS_PER_REPORT))
    rung_at: dict[int, float | None] = {
        math.ceil(math.ceil(budget_samples * i / reports) / batch_size): None for i in range(1, reports)
    }
    at_rungs = rung_steps(parse_rungs(sorted(rungs)), batch_size=batch_size, budget=budget_samples)
    rung_at |= {step: rung.fraction for rung, step in at_rungs.items()}
    rung_at[steps] = 1.0
    return [ReportPoint(min(budget_samples, step * batch_size), rung_at[step]) for step in sorted(rung_at)]

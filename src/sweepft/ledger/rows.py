"""The kinds of row a ledger holds, each with its fields, units and meaning.

A kind is a frozen dataclass: a field without a default is required, and no other field is written. Readers ignore
kinds and fields that they do not know, so a new one keeps `SCHEMA_VERSION`; a new meaning or name raises it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from typing import Any, Final, TypeAlias

Row: TypeAlias = dict[str, Any]
"""One row as read: ``seq``, ``time``, ``kind`` and the fields of that kind."""

Numbers: TypeAlias = dict[str, Any]
"""A field that holds numbers by name, nested or in lists. JSON has no NaN and no infinity: a row spells them as text,
and a reader turns the text back into a number in fields declared as `Numbers` or ``float``, and nowhere else."""

FreeText: TypeAlias = str
"""A field for people: secrets are taken out of it. Other fields are written as they are, because a resumed run
compares them with the spec and with what is on disk."""

SCHEMA_VERSION: Final = 2

STATUSES: Final = ("completed", "stopped", "diverged", "failed", "interrupted")
"""How a trial can end."""

OPEN_STATUSES: Final = ("running", "interrupted", "paused")
"""The status of a trial without an ``end`` row. It is ``paused`` from a decision to pause it until its next start, and
``interrupted`` when no driver works on the sweep."""

DECISION_ACTIONS: Final = ("continue", "stop", "pause", "audit", "divergence_check", "patience")


def is_time(value: Any) -> bool:
    """Whether a value is a time in Unix seconds that a calendar can show."""
    return type(value) in (int, float) and 0 <= value <= 253402300799  # the end of the year 9999


@dataclass(frozen=True)
class SweepRow:
    """The sweep's spec and environment. The first row, and one with ``resumed=True`` at each resume.

    ``budget_samples`` is the budget of every trial; ``data`` holds counts and digests of the data sets;
    ``model_digest`` is that of `sweepft.data.model_digest`, None where the model is not on the driver's machine;
    ``changes`` has what differs from the spec before a resume, by dotted key: ``[old, new]``;
    ``prior_sweeps`` is a `sweepft.early_stopping.PriorSweeps` as a dict; ``simulated`` describes the simulation of a
    sweep that trained nothing, and is None in a real one; ``learned`` has the trials of earlier sweeps that the sampler
    is shown (``search.learn_from``): ``{sweeps: [...]}``, each a `sweepft.spec.learn_from.EarlierSweep` as a dict;
    ``own_metrics`` has the digests of the user's own metrics, by name.
    """

    name: str
    spec: dict[str, Any]
    spec_digest: str
    seed: int
    budget_samples: int
    sweepft_version: str
    schema_version: int = SCHEMA_VERSION
    data: dict[str, Any] = field(default_factory=dict)
    model_digest: str | None = None
    changes: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, Any] = field(default_factory=dict)
    hardware: dict[str, Any] = field(default_factory=dict)
    git_commit: str | None = None
    command: FreeText | list[str] | None = None
    resumed: bool = False
    prior_sweeps: Numbers | None = None
    simulated: dict[str, Any] | None = None
    learned: dict[str, Any] | None = None
    own_metrics: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class TrialRow:
    """A proposed trial: ``params`` has the swept values, ``train_config`` the whole train section.

    ``origin`` is ``start_with | sampler | clone | replicate``; a replicate trains the params of trial ``replicate_of``
    with another seed. ``study_number`` is the trial's number in the Optuna study. ``coordinates`` has the values on the
    sampler's own scale where these differ from ``params``: a learning rate at ``at_batch``. ``objective_rungs`` are the
    rungs at which the task of the objective is measured beside the end; None for all of them.
    """

    trial_id: str
    number: int
    params: dict[str, Any]
    train_config: dict[str, Any]
    origin: str
    planned_steps: int
    warmup_steps: int
    study_number: int | None = None
    replicate_of: str | None = None
    coordinates: dict[str, Any] = field(default_factory=dict)
    objective_rungs: list[float] | None = None


@dataclass(frozen=True)
class StartRow:
    """An attempt at a trial begins; ``from_step`` is the last step kept from earlier attempts (0: none).

    ``warm`` says that living ranks took the trial over, in ``switch_seconds``; ``nodes`` are the hosts of the ranks.
    ``phase_starts`` are the samples at which later phases of the trial's curriculum begin.
    """

    trial_id: str
    attempt: int
    slot: int | str
    from_step: int = 0
    warm: bool = False
    switch_seconds: float = 0.0
    nodes: list[str] | None = None
    phase_starts: list[int] = field(default_factory=list)


@dataclass(frozen=True)
class StepsRow:
    """Every optimizer step since the last such row, as parallel lists with one entry a step.

    ``history`` has ``step, samples_seen, tokens_seen, loss, grad_norm, lr, seconds``; ``blocks`` has
    ``index, loss, tokens`` with one entry a block of the sample order, whose digest is ``data_order``;
    ``phase_seconds`` has wall seconds by phase.
    """

    trial_id: str
    attempt: int
    history: Numbers
    blocks: Numbers | None = None
    data_order: str | None = None
    phase_seconds: Numbers | None = None


@dataclass(frozen=True)
class EvalRow:
    """Validation losses, and the objective, at a rung or at the end (``final``).

    ``objective`` is the weighted mean of the losses in nats per target token, or the metric of a task as the spec has
    it, None at a rung where the task is not measured; ``sets`` holds ``{name: {loss, stderr, tokens, samples}}``,
    ``task`` ``{stderr, items, seconds}`` of the objective's task, ``tasks`` ``{name: {value, stderr, items, seconds,
    higher_is_better}}`` of others that were measured here, and of the objective's own where it is bounded. A row that
    may give the trial's value, the final one or a best one, also has ``residuals`` of each set: for up to 64 groups of
    samples, the sum of their losses minus what the mean loss predicts (nats), which gives the error of a difference
    between two trials; those of ``task`` are sums of items' scores minus the mean score. ``counts`` says
    whether the trial's value would be that of this evaluation if there were no later one: False for one that is worse
    than an earlier one, where trials count by their best (``objective.at``).
    """

    trial_id: str
    attempt: int
    step: int
    samples_seen: int
    rung: float | None
    final: bool
    objective: float | None
    sets: Numbers
    seconds: float = 0.0
    task: Numbers | None = None
    counts: bool = True
    tasks: Numbers = field(default_factory=dict)


@dataclass(frozen=True)
class DecisionRow:
    """What the early-stopping rule decided on a trial, at a rung or between two, and why.

    ``action`` is one of `DECISION_ACTIONS`; ``p_top`` the estimated probability that the trial is among the top
    fraction; ``score`` the number that the rule compared with its threshold.
    """

    trial_id: str
    step: int
    samples_seen: int
    rung: float | None
    action: str
    rule: str
    reason: FreeText
    p_top: float | None = None
    evidence: Numbers = field(default_factory=dict)
    score: float | None = None


@dataclass(frozen=True)
class EndRow:
    """A trial ended; ``status`` is one of `STATUSES`, ``objective`` the trial's value (at full budget, or of its best
    evaluation) or None. ``step``, ``samples_seen`` and ``tokens_seen`` are those trained.
    """

    trial_id: str
    attempt: int
    status: str
    reason: FreeText | None
    objective: float | None
    step: int
    samples_seen: int
    tokens_seen: int


@dataclass(frozen=True)
class CostRow:
    """Wall ``seconds`` that a slot spent in a ``phase`` with ``gpus`` GPUs (0 on a CPU).

    The cost rows of a result follow its other rows: a result without any was cut off by a crash and does not count.
    """

    trial_id: str | None
    slot: int | str | None
    phase: str
    seconds: float
    gpus: float = 0.0


@dataclass(frozen=True)
class FaultRow:
    """A failure, the ``action`` taken, and the seconds of slot time that were lost.

    ``node`` has the host names and addresses of the nodes where a trial could not start, or of the node that the row is
    about: `NODE_KEPT_OUT` or `NODE_USED_AGAIN`. ``gpu`` has Ray's ids of the GPUs, where these are known and lie on one
    node: `GPU_GIVEN_UP` or `GPU_USED_AGAIN`.
    """

    trial_id: str | None
    slot: int | str | None
    rank: int | None
    error: FreeText
    message: FreeText
    action: FreeText
    lost_seconds: float = 0.0
    node: str | None = None
    gpu: str | None = None


NODE_KEPT_OUT: Final = "node kept out"
"""Action of a fault after which no new slot is placed on its node, until the sweep is resumed."""

NODE_USED_AGAIN: Final = "node used again"
"""Action that takes it back: the trials that failed there failed elsewhere, too."""

GPU_GIVEN_UP: Final = "GPU given up"
"""Action of a fault after which no new slot is placed on its GPU, until the sweep is resumed."""

GPU_USED_AGAIN: Final = "GPU used again"
"""Action that takes it back."""


@dataclass(frozen=True)
class CommandRow:
    """A user's command to the running sweep, and the driver's answer (see `sweepft.ledger.commands`). A resume writes
    ``retry`` for each failed trial that it sets back.

    ``asked`` is when it was sent, in Unix seconds; ``answer`` what it does, or why it was not ``accepted``.
    """

    command_id: str
    command: str
    trial_id: str | None
    arguments: dict[str, Any]
    who: FreeText
    asked: float
    accepted: bool
    answer: FreeText


@dataclass(frozen=True)
class EnoughRow:
    """What a further trial is expected to gain (``search.enough``), written when a trial has completed.

    ``completed`` counts the trials that the estimate is based on; ``expected`` is in the unit of the objective, None
    where it cannot be estimated; ``gain`` is the spec's; ``enough`` says that the search ends here, with ``left``
    trials of ``search.trials`` not proposed (None where the spec sets no number).
    """

    completed: int
    expected: float | None
    gain: float
    enough: bool
    left: int | None = None


@dataclass(frozen=True)
class FinalistsRow:
    """The trials to evaluate after the search, and on what. A later row replaces an earlier one.

    ``chosen`` has ``{trial_id, why}`` (``top``, ``random`` or ``baseline``); ``items`` has ``{what, name, digest}``,
    where ``what`` is ``test`` (a test set), ``task`` (a benchmark), ``mt_bench``, or ``validation`` (evaluated for the
    base model only); ``rank_by`` is the weight of each metric in the ranking.
    """

    chosen: list[dict[str, Any]]
    items: list[dict[str, Any]]
    rank_by: Numbers


@dataclass(frozen=True)
class ScoreRow:
    """Scores of a trial's kept weights, or of the base model (``trial_id`` None), on one item of the finalists row.

    ``metrics`` holds ``{metric: {value, stderr, higher_is_better}}``, ``parts`` the same for each task of a group;
    ``items`` counts the samples or questions; ``file`` in the run folder has the result of each, ``file_digest`` its
    SHA-256. ``reason`` says why there is no score.
    """

    trial_id: str | None
    what: str
    name: str
    digest: str
    metrics: Numbers
    parts: Numbers = field(default_factory=dict)
    items: int = 0
    version: str | None = None
    num_fewshot: int | None = None
    file: str | None = None
    file_digest: str | None = None
    slot: int | str | None = None
    seconds: float = 0.0
    reason: FreeText | None = None


@dataclass(frozen=True)
class FinishRow:
    """The driver ends (``finished | interrupted | limit | failed``) or waits (``paused``)."""

    status: str
    reason: FreeText | None = None


KINDS: Final[dict[str, type]] = {
    "sweep": SweepRow,
    "trial": TrialRow,
    "start": StartRow,
    "steps": StepsRow,
    "eval": EvalRow,
    "decision": DecisionRow,
    "end": EndRow,
    "cost": CostRow,
    "fault": FaultRow,
    "enough": EnoughRow,
    "finalists": FinalistsRow,
    "score": ScoreRow,
    "command": CommandRow,
    "finish": FinishRow,
}

DURABLE: Final = frozenset({"sweep", "end", "fault", "command", "enough", "finalists", "score", "finish"})
"""Kinds that are on disk (fsync), with all rows before them, before `Ledger.append` returns. Decisions are not: on a
slow file system all slots would wait, and a lost decision is lost with its steps, which are then trained again."""

_DECLARED: Final = {kind: {f.name: f for f in fields(row)} for kind, row in KINDS.items()}

REQUIRED: Final = {
    kind: [n for n, f in declared.items() if f.default is MISSING and f.default_factory is MISSING]
    for kind, declared in _DECLARED.items()
}


def declared_types(kind: str) -> dict[str, str]:
    """The fields of a kind, each with its type as it is written above."""
    return {name: str(f.type) for name, f in _DECLARED[kind].items()}


NUMBER_FIELDS: Final = {
    kind: frozenset(n for n, f in declared.items() if "float" in str(f.type) or "Numbers" in str(f.type))
    for kind, declared in _DECLARED.items()
}
"""Fields of each kind in which the texts ``nan``, ``inf`` and ``-inf`` stand for numbers."""


FREE_TEXT_FIELDS: Final = {
    kind: frozenset(n for n, f in declared.items() if "FreeText" in str(f.type))
    for kind, declared in _DECLARED.items()
}
"""Fields of each kind that are redacted."""


def complete_fields(kind: str, given: dict[str, Any]) -> dict[str, Any]:
    """The fields of a row of this kind, defaults filled in, in their declared order.

    Raises:
        ValueError: If the kind or a field is unknown, or a required field is missing.
    """
    if kind not in KINDS:
        raise ValueError(f"ledger row: unknown kind {kind!r}; use one of {', '.join(KINDS)}")
    declared = _DECLARED[kind]
    missing = [n for n in REQUIRED[kind] if n not in given]
    if missing or not given.keys() <= declared.keys():
        unknown = sorted(set(given) - set(declared))
        problems = [f"unknown {', '.join(unknown)}"] * bool(unknown) + [
            f"missing {', '.join(missing)}"
        ] * bool(missing)
        raise ValueError(f"ledger row {kind!r}: {'; '.join(problems)}; its fields are {', '.join(declared)}")
    return {name: given[name] if name in given else default_of(kind, name) for name in declared}


def default_of(kind: str, name: str) -> Any:
    """The default of a field that has one."""
    declaration = _DECLARED[kind][name]
    if declaration.default_factory is not MISSING:
        return declaration.default_factory()
    return declaration.default


def without_residuals(sets: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """``sets`` of an `EvalRow` without the residuals, which only the final row has."""
    return {name: {k: v for k, v in found.items() if k != "residuals"} for name, found in sets.items()}


def costs_of(
    sets: Mapping[str, Mapping[str, Any]], tasks: Mapping[str, Mapping[str, Any]]
) -> dict[str, float | None]:
    """What bounds apply to, lower is better: losses by validation set, and values by task, turned where more is better.

    Args:
        sets, tasks: Of an evaluation (see `EvalRow`).
    """
    found: dict[str, float | None] = {name: entry.get("loss") for name, entry in sets.items()}
    for name, entry in tasks.items():
        value = entry.get("value")
        found[name] = -value if value is not None and entry.get("higher_is_better", True) else value
    return found

"""The kinds of row a ledger holds, each with its fields, units and meaning.

A kind is a frozen dataclass: a field without a default must be given, one with a default may be left out, and
nothing else is written. Adding a kind or a field with a default keeps `SCHEMA_VERSION`, for readers ignore
what they do not know; changing the meaning of a field raises it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from typing import Any, Final, TypeAlias

Row: TypeAlias = dict[str, Any]


"""One row as read: ``seq``, ``time``, ``kind`` and the fields of that kind."""


SCHEMA_VERSION: Final = 1


STATUSES: Final = ("completed", "stopped", "diverged", "failed", "interrupted")


"""How a trial can end."""


OPEN_STATUSES: Final = ("running", "interrupted", "paused")


"""What a trial without an `end` row is: `paused` from a verdict that says so until it starts again; else `interrupted`
once nobody works on the sweep any more."""


DECISION_ACTIONS: Final = ("continue", "stop", "pause", "audit", "divergence_check")


@dataclass(frozen=True)
class SweepRow:
    """What was asked and where it runs. The first row; again with ``resumed=True`` at each resume.

    ``budget_samples`` is the budget of every trial; ``data`` holds counts and digests of the data sets;
    ``prior_sweeps`` what the scheduler knows of earlier sweeps (`sweepft.early_stopping.PriorSweeps`), None without;
    ``simulated`` what stood in for training where none took place, None in a real sweep.
    """

    name: str
    spec: dict[str, Any]
    spec_digest: str
    seed: int
    budget_samples: int
    sweepft_version: str
    schema_version: int = SCHEMA_VERSION
    data: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, Any] = field(default_factory=dict)
    hardware: dict[str, Any] = field(default_factory=dict)
    git_commit: str | None = None
    command: Any = None
    resumed: bool = False
    prior_sweeps: dict[str, Any] | None = None
    simulated: dict[str, Any] | None = None


@dataclass(frozen=True)
class TrialRow:
    """A proposed configuration: ``params`` has the swept keys, ``train_config`` the whole train section.

    ``replicate_of`` names the trial whose configuration it trains again with a fresh seed (origin ``replicates``), else None.
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


@dataclass(frozen=True)
class StartRow:
    """A try of a trial begins; ``from_step`` is the last step kept from earlier tries (0: none)."""

    trial_id: str
    attempt: int
    slot: int | str
    from_step: int = 0
    warm: bool = False
    switch_seconds: float = 0.0
    nodes: list[str] | None = None


@dataclass(frozen=True)
class StepsRow:
    """Every optimizer step since the last such row: parallel lists, one entry a step.

    ``history`` has ``step, samples_seen, tokens_seen, loss, grad_norm, lr, seconds``; ``blocks`` has
    ``index, loss, tokens``, one entry a block of the sample order; ``phase_seconds`` wall seconds by phase.
    """

    trial_id: str
    attempt: int
    history: dict[str, Any]
    blocks: dict[str, Any] | None = None
    data_order: str | None = None
    phase_seconds: dict[str, float] | None = None


@dataclass(frozen=True)
class EvalRow:
    """Held-out losses at a window, or at the end (``final``).

    ``objective`` is the weighted mean in nats per target token; ``sets`` holds
    ``{name: {loss, stderr, tokens, samples}}``, and ``residuals`` in the final one: of up to 64 groups of samples, the
    sum of their losses less what the mean loss would make it (nats), from which two trials' difference gets its error.
    """

    trial_id: str
    attempt: int
    step: int
    samples_seen: int
    rung: float | None
    final: bool
    objective: float | None
    sets: dict[str, Any]
    seconds: float = 0.0


@dataclass(frozen=True)
class DecisionRow:
    """What the scheduler decided on a trial at a window, by which rule, and why.

    ``action`` is one of `DECISION_ACTIONS`; ``p_top`` the estimated probability that the trial is a good one;
    ``score`` what the rule compared with its threshold.
    """

    trial_id: str
    step: int
    samples_seen: int
    rung: float | None
    action: str
    rule: str
    reason: str
    p_top: float | None = None
    evidence: dict[str, Any] = field(default_factory=dict)
    score: float | None = None


@dataclass(frozen=True)
class EndRow:
    """A trial ended; ``status`` is one of `STATUSES`, ``objective`` the value at full budget or None."""

    trial_id: str
    attempt: int
    status: str
    reason: str | None
    objective: float | None
    step: int
    samples_seen: int
    tokens_seen: int


@dataclass(frozen=True)
class CostRow:
    """Wall ``seconds`` a slot spent in a ``phase``, holding ``gpus`` (0 on a CPU)."""

    trial_id: str | None
    slot: int | str | None
    phase: str
    seconds: float
    gpus: float = 0.0


@dataclass(frozen=True)
class FaultRow:
    """Something broke: what was done (``action``), and the slot's seconds that must be spent again."""

    trial_id: str | None
    slot: int | str | None
    rank: int | None
    error: str
    message: str
    action: str
    lost_seconds: float = 0.0


@dataclass(frozen=True)
class CommandRow:
    """What a person has asked of the running sweep, and the driver's answer (see `sweepft.ledger.commands`).

    ``asked`` is when it was asked, in Unix seconds; ``answer`` what comes of it, or why it was not ``accepted``.
    """

    command_id: str
    command: str
    trial_id: str | None
    arguments: dict[str, Any]
    who: str
    asked: float
    accepted: bool
    answer: str


@dataclass(frozen=True)
class FinalistsRow:
    """Whom the search leaves to be scored, and on what. A later one replaces it.

    ``chosen`` has ``{trial_id, why}`` (``top`` or ``random``), ``parts`` has ``{what, name, digest}``, where ``what``
    is ``test`` (a sealed set), ``task``, ``judge``, or ``validation``, on which the base model alone is scored;
    ``rank_by`` is the weight of each thing that orders them.
    """

    chosen: list[dict[str, Any]]
    parts: list[dict[str, Any]]
    rank_by: dict[str, float]


@dataclass(frozen=True)
class ScoreRow:
    """A trial's kept weights, or the base model (``trial_id`` None), scored on one test set or task.

    ``metrics`` holds ``{metric: {value, stderr, higher_is_better}}``, ``parts`` the same by task of a group; ``file``
    in the run folder has the results item by item, ``file_digest`` its SHA-256. ``reason`` says why there is no score.
    """

    trial_id: str | None
    what: str
    name: str
    digest: str
    metrics: dict[str, Any]
    parts: dict[str, Any] = field(default_factory=dict)
    items: int = 0
    version: str | None = None
    num_fewshot: int | None = None
    file: str | None = None
    file_digest: str | None = None
    slot: int | str | None = None
    seconds: float = 0.0
    reason: str | None = None


@dataclass(frozen=True)
class FinishRow:
    """The driver is done with the sweep: ``finished | interrupted | limit | failed``, or waits: ``paused``."""

    status: str
    reason: str | None = None


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
    "finalists": FinalistsRow,
    "score": ScoreRow,
    "command": CommandRow,
    "finish": FinishRow,
}


DURABLE: Final = frozenset({"sweep", "end", "fault", "command", "finalists", "score", "finish"})


"""Kinds that are on disk (fsync), with all rows before them, before `Ledger.append` returns. Verdicts are not: on a
slow file system all slots would wait, and one that is lost is lost with its steps and given again."""


TEXT_FIELDS: Final = frozenset(
    {
        *(
            "kind",
            "name",
            "spec",
            "spec_digest",
            "sweepft_version",
            "data",
            "versions",
            "hardware",
            "git_commit",
        ),
        *(
            "command",
            "trial_id",
            "params",
            "train_config",
            "origin",
            "slot",
            "nodes",
            "data_order",
            "action",
            "rule",
        ),
        *("reason", "status", "phase", "error", "message", "simulated"),
        *("command_id", "arguments", "who", "answer"),
        *("replicate_of", "chosen", "what", "digest", "file", "file_digest", "version"),
    }
)


"""Fields a reader leaves as written: there the text ``"nan"`` is a text, elsewhere it is the number."""


_DECLARED: Final = {kind: {f.name: f for f in fields(row)} for kind, row in KINDS.items()}


_REQUIRED: Final = {
    kind: [n for n, f in declared.items() if f.default is MISSING and f.default_factory is MISSING]
    for kind, declared in _DECLARED.items()
}


def complete_fields(kind: str, given: dict[str, Any]) -> dict[str, Any]:
    """The fields of a row of this kind, defaults filled in, in their declared order.

    Raises:
        ValueError: If the kind or a field is unknown, or a required field is missing.
    """
    if kind not in KINDS:
        raise ValueError(f"ledger row: unknown kind {kind!r}; use one of {', '.join(KINDS)}")
    declared = _DECLARED[kind]
    missing = [n for n in _REQUIRED[kind] if n not in given]
    if missing or not given.keys() <= declared.keys():
        unknown = sorted(set(given) - set(declared))
        problems = [f"unknown {', '.join(unknown)}"] * bool(unknown) + [
            f"missing {', '.join(missing)}"
        ] * bool(missing)
        raise ValueError(f"ledger row {kind!r}: {'; '.join(problems)}; its fields are {', '.join(declared)}")
    out: dict[str, Any] = {}
    for name, declaration in declared.items():
        if name in given:
            out[name] = given[name]
        elif declaration.default is not MISSING:
            out[name] = declaration.default
        elif declaration.default_factory is not MISSING:
            out[name] = declaration.default_factory()
    return out


def without_residuals(sets: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """``sets`` of an `EvalRow` as people and windows need them; residuals are for comparing ends."""
    return {name: {k: v for k, v in found.items() if k != "residuals"} for name, found in sets.items()}

"""The append-only ledger of a sweep, the state folded from its rows, and the ranking of its trials.

Everything else in a run folder can be rebuilt from the ledger. Needs the standard library and numpy only::

    state = SweepState.load("runs/gsm8k")
    print(state.status, winner(state))
"""

from __future__ import annotations

from sweepft.ledger.bounds import Bound, Bounds, base_score, excesses, pareto_front, violation
from sweepft.ledger.commands import Command, CommandInbox, commands_path, send_command
from sweepft.ledger.lease import WriterWatch, current_writer
from sweepft.ledger.objective import (
    VALIDATION_LOSS,
    Objective,
    affordable_rungs,
    measured_names,
    measured_tasks,
    task_cost,
    task_seconds,
)
from sweepft.ledger.owner import Owner
from sweepft.ledger.ranking import (
    Finalist,
    Ranked,
    Standing,
    all_scored,
    finalists,
    metric_of,
    missing_scores,
    ranking,
    scores_of,
    winner,
)
from sweepft.ledger.reader import LedgerTail, has_trials, iter_ledger, ledger_path, read_ledger
from sweepft.ledger.rows import SCHEMA_VERSION, STATUSES, Row, costs_of, without_residuals
from sweepft.ledger.state import SweepState, is_baseline
from sweepft.ledger.trial_state import HISTORY_KEYS, RETRY, Attempt, StepsReport, TrialState
from sweepft.ledger.writer import EventLog, Ledger

__all__ = [
    "HISTORY_KEYS",
    "RETRY",
    "SCHEMA_VERSION",
    "STATUSES",
    "VALIDATION_LOSS",
    "Attempt",
    "Bound",
    "Bounds",
    "Command",
    "CommandInbox",
    "EventLog",
    "Finalist",
    "Ledger",
    "LedgerTail",
    "Objective",
    "Owner",
    "Ranked",
    "Row",
    "Standing",
    "StepsReport",
    "SweepState",
    "TrialState",
    "WriterWatch",
    "affordable_rungs",
    "all_scored",
    "base_score",
    "commands_path",
    "costs_of",
    "current_writer",
    "excesses",
    "finalists",
    "has_trials",
    "is_baseline",
    "iter_ledger",
    "ledger_path",
    "measured_names",
    "measured_tasks",
    "metric_of",
    "missing_scores",
    "pareto_front",
    "ranking",
    "read_ledger",
    "scores_of",
    "send_command",
    "task_cost",
    "task_seconds",
    "violation",
    "winner",
    "without_residuals",
]

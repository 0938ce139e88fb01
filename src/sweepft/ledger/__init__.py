"""The append-only ledger: the one truth about a sweep, and the fold that turns its rows into a state.

Everything else in a run folder can be made again from it. Needs the standard library and numpy only.
"""

from __future__ import annotations

from sweepft.ledger.commands import Command, CommandInbox, commands_path, send_command
from sweepft.ledger.event_log import EventLog
from sweepft.ledger.ledger import Ledger, iter_ledger, ledger_path, read_ledger
from sweepft.ledger.lock import Owner, current_writer, named_writer
from sweepft.ledger.ranking import (
    Finalist,
    Standing,
    all_scored,
    finalists,
    metric_of,
    missing_scores,
    scores_of,
)
from sweepft.ledger.rows import SCHEMA_VERSION, STATUSES, Row, without_residuals
from sweepft.ledger.state import Ranked, SweepState
from sweepft.ledger.tail import LedgerTail, complete_results
from sweepft.ledger.trial_state import HISTORY_KEYS, Attempt, TrialState

__all__ = [
    "HISTORY_KEYS",
    "SCHEMA_VERSION",
    "STATUSES",
    "Attempt",
    "Command",
    "CommandInbox",
    "EventLog",
    "Finalist",
    "Ledger",
    "LedgerTail",
    "Owner",
    "Ranked",
    "Row",
    "Standing",
    "SweepState",
    "TrialState",
    "all_scored",
    "commands_path",
    "complete_results",
    "current_writer",
    "finalists",
    "iter_ledger",
    "ledger_path",
    "metric_of",
    "missing_scores",
    "named_writer",
    "read_ledger",
    "scores_of",
    "send_command",
    "without_residuals",
]

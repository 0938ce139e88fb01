"""The append-only ledger: the one truth about a sweep, and the fold that turns its rows into a state.

Everything else in a run folder can be made again from it. Needs the standard library and numpy only.
"""

from __future__ import annotations

from sweepft.recorder.commands import Command, CommandInbox, commands_path, send_command
from sweepft.recorder.finalists import (
    Finalist,
    Standing,
    all_scored,
    finalists,
    metric_of,
    missing_scores,
    scores_of,
)
from sweepft.recorder.ledger import Ledger, iter_ledger, ledger_path, read_ledger
from sweepft.recorder.lock import Owner, current_writer, named_writer
from sweepft.recorder.rows import SCHEMA_VERSION, STATUSES, Row, without_residuals
from sweepft.recorder.tail import LedgerTail
from sweepft.recorder.trial import HISTORY_KEYS, AttemptView, TrialView
from sweepft.recorder.view import Ranked, RunView
from sweepft.recorder.whole import whole_results

__all__ = [
    "HISTORY_KEYS",
    "SCHEMA_VERSION",
    "STATUSES",
    "AttemptView",
    "Command",
    "CommandInbox",
    "Finalist",
    "Ledger",
    "LedgerTail",
    "Owner",
    "Ranked",
    "Row",
    "RunView",
    "Standing",
    "TrialView",
    "all_scored",
    "commands_path",
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
    "whole_results",
    "without_residuals",
]

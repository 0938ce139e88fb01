"""Early-termination rules, pure: what trials reported in, continue or condemn out.

Standard library and numpy only. `Referee` is the one object that the Ray scheduler, the Optuna pruner and the
replay all drive; `windows` is shared with the trainable, which computes held-out loss at the same points.
"""

from __future__ import annotations

from sweepft.early_stopping.audit import AuditResult, clopper_pearson
from sweepft.early_stopping.calibrated import CalibratedRule, Calibration
from sweepft.early_stopping.cohort import Cohort, TrialRecord
from sweepft.early_stopping.curve import Observation, Report, Snapshot, make_report
from sweepft.early_stopping.decisions import BY_PERSON, Judgement, Verdict
from sweepft.early_stopping.early_stopper import Referee
from sweepft.early_stopping.from_ledger import adopt_rows, replay_rows
from sweepft.early_stopping.pausing import Prospect
from sweepft.early_stopping.prior_sweeps import History, HistoryLike, PastAudits, read_history
from sweepft.early_stopping.rules import RULES, AshaRule, MedianRule, NoRule, RecipeRule, Rule, make_rule
from sweepft.early_stopping.rungs import Window, eligible, parse_windows, window_steps, windows_reached

__all__ = [
    "BY_PERSON",
    "RULES",
    "AshaRule",
    "AuditResult",
    "CalibratedRule",
    "Calibration",
    "Cohort",
    "History",
    "HistoryLike",
    "Judgement",
    "MedianRule",
    "NoRule",
    "Observation",
    "PastAudits",
    "Prospect",
    "RecipeRule",
    "Referee",
    "Report",
    "Rule",
    "Snapshot",
    "TrialRecord",
    "Verdict",
    "Window",
    "adopt_rows",
    "clopper_pearson",
    "eligible",
    "make_report",
    "make_rule",
    "parse_windows",
    "read_history",
    "replay_rows",
    "window_steps",
    "windows_reached",
]

"""Early-termination rules, pure: what trials reported in, continue or condemn out.

Standard library and numpy only. `Referee` is the one object that the Ray scheduler, the Optuna pruner and the
replay all drive; `windows` is shared with the trainable, which computes held-out loss at the same points.
"""

from __future__ import annotations

from sweepft.rules.asha import AshaRule
from sweepft.rules.audit import AuditResult, clopper_pearson
from sweepft.rules.base import NoRule, Rule
from sweepft.rules.calibrated import CalibratedRule, Calibration
from sweepft.rules.cohort import Cohort, TrialRecord
from sweepft.rules.curve import Observation, Report, Snapshot, make_report
from sweepft.rules.factory import RULES, make_rule
from sweepft.rules.history import History, HistoryLike, PastAudits, read_history
from sweepft.rules.median import MedianRule
from sweepft.rules.parking import Prospect
from sweepft.rules.recipe import RecipeRule
from sweepft.rules.referee import Referee
from sweepft.rules.rows import adopt_rows, replay_rows
from sweepft.rules.verdict import BY_PERSON, Judgement, Verdict
from sweepft.rules.windows import Window, eligible, parse_windows, window_steps, windows_reached

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

"""Early stopping: rules that judge trials at rungs of their budget, and adapters for Ray Tune and Optuna.

The rules and the `EarlyStopper`, which the Ray scheduler, the Optuna pruner and the replay all drive, need the standard
library and numpy only. Start with `rules` for a simple rule, with `early_stopper` for what follows from its decision.
"""

from __future__ import annotations

from sweepft.early_stopping.audit import AuditResult, clopper_pearson
from sweepft.early_stopping.calibrated import CalibratedRule
from sweepft.early_stopping.cohort import Cohort
from sweepft.early_stopping.curve import Observation, Report, Snapshot, make_report
from sweepft.early_stopping.decisions import BY_USER, PATIENCE, RuleDecision, StopDecision
from sweepft.early_stopping.early_stopper import EarlyStopper
from sweepft.early_stopping.from_ledger import replay_state, restore_stopper
from sweepft.early_stopping.level import Calibration
from sweepft.early_stopping.pausing import PausedTrial
from sweepft.early_stopping.prior_sweeps import PastAudits, PriorSweeps, PriorSweepsLike, read_prior_sweeps
from sweepft.early_stopping.result_reader import set_losses, value_so_far
from sweepft.early_stopping.rules import RULES, AshaRule, MedianRule, NoRule, RecipeRule, Rule, make_rule
from sweepft.early_stopping.rungs import Rung, eligible, parse_rungs, rung_steps
from sweepft.early_stopping.trial import TrialRecord

__all__ = [
    "BY_USER",
    "PATIENCE",
    "RULES",
    "AshaRule",
    "AuditResult",
    "CalibratedRule",
    "Calibration",
    "Cohort",
    "EarlyStopper",
    "MedianRule",
    "NoRule",
    "Observation",
    "PastAudits",
    "PausedTrial",
    "PriorSweeps",
    "PriorSweepsLike",
    "RecipeRule",
    "Report",
    "Rule",
    "RuleDecision",
    "Rung",
    "Snapshot",
    "StopDecision",
    "TrialRecord",
    "clopper_pearson",
    "eligible",
    "make_report",
    "make_rule",
    "parse_rungs",
    "read_prior_sweeps",
    "replay_state",
    "restore_stopper",
    "rung_steps",
    "set_losses",
    "value_so_far",
]

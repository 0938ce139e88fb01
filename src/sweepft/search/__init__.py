"""Proposes trials: Optuna by ask and tell, and its adapter to Ray Tune.

`Proposer` needs no Ray; `sweepft.search.ray_searcher.OptunaSearcher` adapts it to a Tuner.
"""

from __future__ import annotations

from sweepft.search.proposer import Proposal, Proposer
from sweepft.search.samplers import startup_trials
from sweepft.search.study import STUDY_FILE, open_study

__all__ = ["STUDY_FILE", "Proposal", "Proposer", "open_study", "startup_trials"]

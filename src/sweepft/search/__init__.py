"""Who proposes the next trial: Optuna by ask-and-tell, and its bridge into Ray Tune.

``Proposer`` needs no Ray; :class:`sweepft.search.ray_searcher.OptunaSearcher` wraps it for a Tuner.
"""

from __future__ import annotations

from sweepft.search.proposer import Proposal, Proposer
from sweepft.search.study import STUDY_FILE, open_study

__all__ = ["STUDY_FILE", "Proposal", "Proposer", "open_study"]

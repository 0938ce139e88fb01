"""The winner, ready to use: ``best/`` in the run folder, with weights, specs to train it again, and a model card.

Runs on a copied run folder, without torch and without Ray.
"""

from __future__ import annotations

from sweepft.export.facts import BestFacts, best_facts
from sweepft.export.write import write_best, write_trial_spec

__all__ = ["BestFacts", "best_facts", "write_best", "write_trial_spec"]

"""Rules by name: the one list that the scheduler, the pruner, the replay and the spec read."""

from __future__ import annotations

from typing import Final

from sweepft.rules.base import NoRule, Rule
from sweepft.rules.median import MedianRule
from sweepft.rules.recipe import RecipeRule

__all__ = ["RULES", "make_rule"]

RULES: Final = ("none", "median", "recipe")


def make_rule(name: str, *, min_peers: int = 6, batch_key: str = "batch_size") -> Rule:
    """The rule of this name.

    Raises:
        ValueError: Unknown name.
    """
    if name == "none":
        return NoRule()
    if name == "median":
        return MedianRule(min_peers)
    if name == "recipe":
        return RecipeRule(min_peers, batch_key)
    raise ValueError(f"rule: one of {', '.join(RULES)} is needed (got {name!r})")

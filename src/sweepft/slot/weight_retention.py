"""Which trials' weights to keep: those of the best completed trials, and of some drawn at random.

A slot decides when a trial ends, from a file that the driver keeps in ``weights/``; the driver then removes weights
that are no longer chosen. The random draw takes the smallest hashes, so that it does not depend on the order in which
trials end.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from sweepft.bounded_json import read_json_file
from sweepft.files import atomic_write, remove_tree

_NOTE = "kept.json"


@dataclass(frozen=True)
class KeepPolicy:
    """Which weights stay.

    Attributes:
        folder: The run's ``weights/``.
        tokenizer: Folder of the tokenizer that goes with them.
        top: Best completed trials to keep.
        random: Others to keep, drawn at random.
        seed: Of the draw.
    """

    folder: str
    tokenizer: str
    top: int = 1
    random: int = 0
    seed: int = 0

    def wanted(self, trial_id: str, objective: float) -> bool:
        """Whether to keep a trial that ends with this objective, as far as a slot knows the others."""
        note = Path(self.folder) / _NOTE
        known: dict[str, float] = read_json_file(note) if note.exists() else {}
        return trial_id in self.chosen({**known, trial_id: objective})

    def chosen(self, objectives: Mapping[str, float]) -> set[str]:
        """The trials to keep among completed ones; see `choose_trials`."""
        return choose_trials(objectives, top=self.top, random=self.random, seed=self.seed)

    def settle(self, objectives: Mapping[str, float]) -> dict[str, float]:
        """Write the file for the slots and remove weights that are no longer chosen, as the driver does.

        Args:
            objectives: Of completed trials: all of them, or those chosen before and those that ended since.
        Returns:
            The objectives of the trials chosen now, which is enough to choose among later ones.
        """
        chosen = self.chosen(objectives)
        kept = {trial_id: value for trial_id, value in objectives.items() if trial_id in chosen}
        folder = Path(self.folder)
        folder.mkdir(parents=True, exist_ok=True)
        atomic_write(
            folder / _NOTE, json.dumps({t: v for t, v in kept.items() if math.isfinite(v)}), sync=False
        )
        for weights in folder.iterdir():
            if weights.name in objectives and weights.name not in chosen:
                remove_tree(weights)
        return kept


def choose_trials(objectives: Mapping[str, float], *, top: int, random: int, seed: int) -> set[str]:
    """The best trials, and some others drawn at random.

    The draw does not depend on the order in which trials end. A trial that is not chosen now is never chosen later,
    whatever trials end after it.

    Args:
        objectives: Of completed trials, lower is better.
        top: How many of the best.
        random: How many of the others.
        seed: Of the draw.
    """

    def draw(trial_id: str) -> str:
        return hashlib.sha256(f"{seed}:{trial_id}".encode()).hexdigest()

    best = set(sorted(objectives, key=lambda t: (objectives[t], t))[:top])
    return best | set(sorted(objectives.keys() - best, key=draw)[:random])

"""Which trials' weights to keep: those of the best completed trials, of some drawn at random, and of some on the front
of objective against bounded losses.

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
from typing import TypeAlias

from sweepft.bounded_json import read_json_file
from sweepft.files import atomic_write, remove_tree
from sweepft.ledger import VALIDATION_LOSS, Objective, SweepState, pareto_front, violation

_NOTE = "kept.json"

Standing: TypeAlias = tuple[float, ...]
"""What a completed trial is chosen by, lower is better: how far it is above the bounds on validation losses (0 where it
meets them), its objective (`Objective.cost`), and its losses or costs on what is bounded, in the order of the spec."""


@dataclass(frozen=True)
class KeepPolicy:
    """Which weights stay.

    Attributes:
        folder: The run's ``weights/``.
        tokenizer: Folder of the tokenizer that goes with them.
        top: Best completed trials to keep.
        random: Others to keep, drawn at random.
        seed: Of the draw.
        pareto: Trials to keep from the front of objective against bounded losses.
        bounded: Validation sets and tasks with a bound.
        baseline: A trial that is kept whatever its place: it is a finalist.
        objective: Which way the objective is good.
    """

    folder: str
    tokenizer: str
    top: int = 1
    random: int = 0
    seed: int = 0
    pareto: int = 0
    bounded: tuple[str, ...] = ()
    baseline: str | None = None
    objective: Objective = VALIDATION_LOSS

    def wanted(
        self, trial_id: str, objective: float, losses: Mapping[str, float | None] | None = None
    ) -> bool:
        """Whether to keep a trial that ends with this objective and these losses by validation set, as far as a slot
        knows the others. While the base model's loss, and so a bound, is not known, every trial is kept.
        """
        note = Path(self.folder) / _NOTE
        found = read_json_file(note) if note.exists() else {"limits": None if self.bounded else {}}
        limits = found.get("limits")
        if limits is None:
            return True
        known = {name: tuple(values) for name, values in found.get("trials", {}).items()}
        own = make_standing(self.objective.cost(objective), losses or {}, self.bounded, limits)
        return trial_id in self.chosen({**known, trial_id: own})

    def chosen(self, standings: Mapping[str, Standing]) -> set[str]:
        """The trials to keep among completed ones: the baseline, and those of `choose_trials`."""
        found = choose_trials(standings, top=self.top, random=self.random, seed=self.seed, pareto=self.pareto)
        return found | ({self.baseline} & standings.keys() if self.baseline is not None else set())

    def settle(
        self, standings: Mapping[str, Standing], limits: Mapping[str, float] | None = None
    ) -> dict[str, Standing]:
        """Write the file for the slots and remove weights that are no longer chosen, as the driver does.

        Args:
            standings: Of completed trials: all of them, or those chosen before and those that ended since.
            limits: Largest loss allowed by bounded set; None while the base model's loss is not known, when all stay.
        Returns:
            The standings of the trials chosen now, which is enough to choose among later ones.
        """
        if not self.bounded:
            limits = {}
        chosen = set(standings) if limits is None else self.chosen(standings)
        kept = {trial_id: value for trial_id, value in standings.items() if trial_id in chosen}
        folder = Path(self.folder)
        folder.mkdir(parents=True, exist_ok=True)
        finite = {name: value for name, value in kept.items() if all(map(math.isfinite, value))}
        atomic_write(folder / _NOTE, json.dumps({"limits": limits, "trials": finite}), sync=False)
        for weights in folder.iterdir():
            if weights.name in standings and weights.name not in chosen:
                remove_tree(weights)
        return kept


def make_standing(
    cost: float,
    losses: Mapping[str, float | None],
    bounded: tuple[str, ...],
    limits: Mapping[str, float],
) -> Standing:
    """The `Standing` of a trial with this objective, as of `Objective.cost`, and these losses by validation set."""
    own = (losses.get(name) for name in bounded)
    return violation(losses, limits), cost, *(math.inf if loss is None else loss for loss in own)


def standing_of(state: SweepState, trial_id: str) -> Standing:
    """The `Standing` of a completed trial as the ledger has it."""
    trial, bounds = state.trials[trial_id], state.bounds
    bounded = tuple(bound.name for bound in bounds.entries)
    return make_standing(state.objective.cost(trial.objective), trial.losses, bounded, bounds.limits)


def choose_trials(
    standings: Mapping[str, Standing], *, top: int, random: int, seed: int, pareto: int = 0
) -> set[str]:
    """The best trials, some others drawn at random, and some on the front of objective against bounded losses.

    The draw does not depend on the order in which trials end. A trial that is not chosen now is never chosen later,
    whatever trials end after it, unless it was left out of a front with more trials than ``pareto``.

    Args:
        standings: Of completed trials.
        top: How many of the best.
        random: How many of the others.
        seed: Of the draw.
        pareto: How many of the front, spread evenly over it.
    """

    def draw(trial_id: str) -> str:
        return hashlib.sha256(f"{seed}:{trial_id}".encode()).hexdigest()

    best = set(sorted(standings, key=lambda t: (standings[t][:2], t))[:top])
    drawn = set(sorted(standings.keys() - best, key=draw)[:random])
    front = pareto_front({name: value[1:] for name, value in standings.items()}) if pareto else []
    return best | drawn | set(spread(front, pareto))


def spread(names: list[str], most: int) -> list[str]:
    """At most so many of the names, evenly over the list, with its ends."""
    if len(names) <= most:
        return names
    if most == 1:
        return names[:1]
    return [names[round(i * (len(names) - 1) / (most - 1))] for i in range(most)]

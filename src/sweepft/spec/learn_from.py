"""Earlier sweeps as a start for a new one (``search.learn_from``): which of their trials lie in the new search space.

Losses of different models, data or budgets do not compare, so a trial is known by its place in the ranking of its own
sweep. What is read here is plain data: the new sweep records it in its own ledger and never reads the runs again.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

import numpy as np

from sweepft.errors import LearnFromError, LedgerError
from sweepft.ledger import Bounds, SweepState, TrialState, excesses, iter_ledger, ledger_path
from sweepft.spec.sections import Search
from sweepft.spec.space import Dimension
from sweepft.spec.sweep import get_dotted

MOST: Final = 100
"""Trials of one earlier sweep that are recorded: of more, some spread evenly over its ranking."""

_MOST_OVER: Final = 100.0
"""Largest excess above a bound that is recorded, in nats."""


@dataclass(frozen=True)
class EarlierTrial:
    """A trial of an earlier sweep.

    Attributes:
        values: By key of the new search space, on the dimension's own scale; keys of which nothing is known are left
            out.
        place: In the ranking of its sweep: 0 is the best, 1 the worst.
        over: By bounded validation set, how far its loss is above the new sweep's bound, in nats.
    """

    values: Mapping[str, Any]
    place: float
    over: Mapping[str, float]


@dataclass(frozen=True)
class EarlierSweep:
    """What a new sweep knows of an earlier one.

    Attributes:
        source: As the spec names it.
        name: Of the sweep.
        began: Unix seconds of its start, which are the same in every copy of its ledger.
        spread: Of its final losses, as a standard deviation without outliers, in nats.
        trials: The best first.
        notes: What was not used, in sentences.
    """

    source: str
    name: str
    began: float
    spread: float
    trials: tuple[EarlierTrial, ...]
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """JSON-able."""
        trials = [{"values": dict(t.values), "place": t.place, "over": dict(t.over)} for t in self.trials]
        return {**self.__dict__, "trials": trials, "notes": list(self.notes)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """The inverse of `to_dict`."""
        trials = tuple(EarlierTrial(t["values"], t["place"], t["over"]) for t in data["trials"])
        return cls(data["source"], data["name"], data["began"], data["spread"], trials, tuple(data["notes"]))


def read_earlier_sweeps(search: Search, objective: str | None = None) -> list[EarlierSweep]:
    """Read what ``search.learn_from`` names, in its order.

    Args:
        search: Of the new sweep.
        objective: Name of the new sweep's objective (`Objective.name`); None where it does not matter.
    Raises:
        LearnFromError: Names the entry, what is wrong with it and what to do.
    """
    found: list[EarlierSweep] = []
    for entry in search.learn_from:
        sweep = _sweep(_read(entry), entry, search, objective)
        for other in found:
            if other.began == sweep.began:
                raise LearnFromError(
                    entry,
                    f"is the same sweep as {other.source}",
                    "list it once",
                    "search.learn_from.repeated",
                )
        found.append(sweep)
    return found


def _read(entry: str) -> SweepState:
    """The state of an earlier sweep, without its steps."""
    ledger = ledger_path(entry)
    if not ledger.is_file():
        missing = "does not exist" if not Path(entry).exists() else "holds no ledger"
        raise LearnFromError(
            entry, missing, "give the folder of an earlier run", "search.learn_from.no_ledger"
        )
    try:
        state = SweepState.from_rows(iter_ledger(entry, steps=False), source=entry)
    except LedgerError as error:
        rule, _, remedy = str(error).removeprefix(f"{ledger}:").partition("\n")
        raise LearnFromError(
            entry, f"has no readable ledger: {rule.strip()}", remedy.strip(), "search.learn_from.no_ledger"
        ) from error
    if not state.header:
        raise LearnFromError(
            entry, "has an empty ledger", "give a run that has started", "search.learn_from.no_ledger"
        )
    if state.simulated:
        raise LearnFromError(
            entry, "is a simulated sweep: nothing was trained", "remove it", "search.learn_from.simulated"
        )
    return state


def _sweep(state: SweepState, entry: str, search: Search, objective: str | None) -> EarlierSweep:
    limits = _limits(state, entry, search)
    ranked = _ranked(state, limits)
    there = state.spec.get("search") or {}
    varied = {*(there.get("space") or {}), *(there.get("tied") or {})}
    keys = [key for key in search.space if key in varied]
    if not keys:
        rule = f"sweeps none of this sweep's keys ({', '.join(search.space)})"
        raise LearnFromError(
            entry,
            rule,
            f"remove it; it sweeps {', '.join(sorted(varied)) or 'nothing'}",
            "search.learn_from.keys",
        )
    trials = []
    for i, trial in enumerate(ranked):
        values = {key: _value(trial, key, search.space[key]) for key in keys}
        if all(search.space[key].contains(value) for key, value in values.items()):
            over = {name: min(o, _MOST_OVER) for name, o in excesses(trial.losses, limits).items()}
            trials.append(EarlierTrial(values, (i + 0.5) / len(ranked), over))
    if len(trials) < 2:
        few = "none" if not trials else "only one"
        rule = f"has {few} of its {len(ranked)} ended trials in this search space"
        raise LearnFromError(entry, rule, "remove it, or widen search.space", "search.learn_from.few")
    notes = []
    if objective not in (None, state.objective.name):
        notes.append(f"Its ranking is by {state.objective.name}, not by {objective}.")
    if len(trials) < len(ranked):
        outside = len(ranked) - len(trials)
        notes.append(
            f"{outside} of its {len(ranked)} ended trials lie outside of this search space and are left out."
        )
    for key in search.space:
        if key not in varied:
            notes.append(f"It does not vary {key}, so nothing is learned about that.")
    only_there = [key for key in there.get("space") or {} if key not in search.space]
    if only_there:
        notes.append(f"What it varies and this sweep does not is ignored: {', '.join(only_there)}.")
    return EarlierSweep(
        entry, state.name, float(state.first_time), _spread(ranked), tuple(_thinned(trials)), tuple(notes)
    )


def _value(trial: TrialState, key: str, dimension: Dimension) -> Any:
    """A trial's value on the dimension's own scale: a scaled learning rate is that at ``at_batch``."""
    value = trial.params.get(key, get_dotted(trial.train_config, key))
    batch_size = trial.params.get("batch_size", trial.train_config.get("batch_size"))
    if dimension.at_batch is None or not isinstance(value, int | float) or not isinstance(batch_size, int):
        return value
    own = value / dimension.scale(batch_size)
    ends = dimension.choices or dimension.bounds
    return next((end for end in ends if math.isclose(own, end, rel_tol=1e-9)), own)


def _limits(state: SweepState, entry: str, search: Search) -> dict[str, float]:
    """Largest cost allowed by validation set or task: this sweep's bounds, from the earlier sweep's base model."""
    asked = {
        "search": {"subject_to": {n: bound.model_dump() for n, bound in search.subject_to.items()}},
        "objective": state.spec.get("objective"),  # which tasks it has measured
    }
    bounds = Bounds.of(asked, state.scores)
    for bound in bounds.entries:
        if not any(bound.name in trial.losses for trial in state.search_trials):
            rule = f"has no losses or scores on {bound.name}, which search.subject_to bounds"
            raise LearnFromError(entry, rule, "remove it, or the bound", "search.learn_from.bounds")
        if bound.limit is None:
            rule = (
                f"has no loss or score of its base model on {bound.name}, from which search.subject_to counts"
            )
            raise LearnFromError(
                entry, rule, "remove it, or give the bound as a value", "search.learn_from.bounds"
            )
    return {bound.name: bound.limit for bound in bounds.entries if bound.limit is not None}


def _ranked(state: SweepState, limits: Mapping[str, float]) -> list[TrialState]:
    """Its ended trials, the best first: completed ones, those that were stopped (the later the better), diverged."""
    groups = ("completed", "stopped", "diverged")

    def key(trial: TrialState) -> tuple[float, ...]:
        value = trial.objective if trial.objective is not None else _last_objective(trial)
        cost = state.objective.cost(value)
        above = sum(over for over in excesses(trial.losses, limits).values() if over > 0)
        reached = -trial.evals[-1]["samples_seen"] if trial.status == "stopped" and trial.evals else 0.0
        return groups.index(trial.status), above, reached, cost, trial.number

    return sorted((t for t in state.search_trials if t.status in groups), key=key)


def _last_objective(trial: TrialState) -> float | None:
    """The last one that was measured: a task is not measured at every rung."""
    measured = [trial.counted_at(row)["objective"] for row in trial.evals if row["objective"] is not None]
    return float(measured[-1]) if measured and math.isfinite(measured[-1]) else None


def _spread(trials: Iterable[TrialState]) -> float:
    """Standard deviation of the final losses, by their quartiles; 1 where they do not differ."""
    finals = [trial.objective for trial in trials if trial.ranked and trial.objective is not None]
    if len(finals) < 2:
        return 1.0
    low, high = np.quantile(finals, [0.25, 0.75])
    return float((high - low) / 1.349) or float(np.std(finals)) or 1.0


def _thinned(trials: Sequence[EarlierTrial]) -> list[EarlierTrial]:
    if len(trials) <= MOST:
        return list(trials)
    return [trials[i] for i in np.linspace(0, len(trials) - 1, MOST).round().astype(int)]

"""Brings an early stopper to where it was when a ledger was written.

A resumed sweep continues with what the scheduler knew, and a replay decides again what the live sweep decided.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from sweepft.early_stopping.curve import Report, make_report
from sweepft.early_stopping.decisions import NOT_BY_RULES, StopDecision
from sweepft.early_stopping.early_stopper import EarlyStopper
from sweepft.ledger import Row, StepsReport, SweepState, TrialState, base_score, costs_of

BASELINE: Final = "the spec, as the baseline"
"""Who pins the baseline."""
MAX_DECIDED_AGAIN: Final = 2000
"""Decisions that `restore_stopper` makes again, at most: about ten seconds."""


def replay_state(early_stopper: EarlyStopper, state: SweepState) -> list[StopDecision]:
    """Feed a sweep's reports to a new early stopper, in the order of the ledger; returns the decisions it makes.

    A trial that has not ended is still running afterwards: its next report continues its curve.
    """
    before = len(early_stopper.decisions)
    _feed(early_stopper, state, early_stopper.report)
    return early_stopper.decisions[before:]


def restore_stopper(early_stopper: EarlyStopper, state: SweepState) -> None:
    """Bring a new early stopper to where it was at the end of the ledger.

    Up to `MAX_DECIDED_AGAIN` decisions are made again, as by `replay_state`, and so are those without a ``score``. In
    a longer sweep that would take as long as all decisions took, so the recorded ones are adopted. Then only the scores
    of judgements between rungs that led to no decision are unknown, one of which may have been a trial's lowest.
    """
    decided = [d for trial in state.search_trials for d in trial.decisions if _by_the_rule(d)]
    if len(decided) <= MAX_DECIDED_AGAIN or any("score" not in d for d in decided):
        replay_state(early_stopper, state)
        return
    _feed(early_stopper, state, early_stopper.note, adopt=True)


def _feed(
    early_stopper: EarlyStopper,
    state: SweepState,
    report: Callable[[str, Report], Any],
    *,
    adopt: bool = False,
) -> None:
    """Give an early stopper what happened in the sweep, and the recorded decisions where they are to be adopted."""
    events = [
        event for trial in state.search_trials for event in _events(trial, early_stopper, report, adopt)
    ]
    if state.baseline is not None:
        early_stopper.pin(state.baseline.trial_id, BASELINE)
    events += [(p["seq"], partial(early_stopper.pin, p["trial_id"], p["who"])) for p in state.accepted("pin")]
    bounds = state.bounds
    names = [base_score(b.name, b.metric is not None) for b in bounds.entries if b.needs_base]
    known = [state.scores[None, name]["seq"] for name in names if (None, name) in state.scores]
    take = partial(early_stopper.set_bounds, bounds.limits, bounds.base, bounds.noise)
    events.append((max(known, default=-1), take))
    for _, happen in sorted(events, key=lambda event: event[0]):
        happen()


def _events(
    trial: TrialState, early_stopper: EarlyStopper, report: Callable[[str, Report], Any], adopt: bool
) -> Iterator[tuple[int, Callable[[], Any]]]:
    """What happened to a trial: the ``seq`` of the ledger's row, and the call that gives it to the early stopper."""
    name, history = trial.trial_id, trial.history
    yield trial.seq, lambda: early_stopper.add(name, {**trial.train_config, **trial.params})

    def give(first: int, reported: StepsReport | None, evaluated: Row | None) -> None:
        final = evaluated is not None and (
            evaluated.get("final") or evaluated["step"] == trial.ended_early_at
        )
        diverged = _diverged(trial, history, reported, evaluated)
        (early_stopper.complete if final or diverged else report)(
            name, _report(trial, history, first, reported, evaluated, diverged)
        )

    # The rows of one result stand together in the ledger: its steps, then the evaluation at the last of them.
    evals = {row["seq"]: row for row in trial.evals}
    first = 0
    for reported in trial.reports:
        yield reported.seq, partial(give, first, reported, evals.pop(reported.seq + 1, None))
        first = reported.step
    for seq, row in evals.items():
        yield seq, partial(give, first, None, row)
    for decision in filter(_by_the_rule, trial.decisions if adopt else ()):
        yield decision["seq"], partial(_adopt, early_stopper, decision)
    if trial.end is not None:
        yield trial.end["seq"], lambda: _end(early_stopper, trial)


def _report(
    trial: TrialState,
    history: Mapping[str, NDArray[np.float64]],
    after: int,
    reported: StepsReport | None,
    evaluated: Row | None,
    diverged: str | None,
) -> Report:
    """The report of the steps after step ``after``, as the live sweep made it; or of an evaluation alone."""
    counted = None if evaluated is None else trial.value_at(evaluated)
    metric = None if counted is None else counted["objective"]
    stderr = None if counted is None else (counted.get("task") or {}).get("stderr")
    if reported is None:
        assert evaluated is not None
        return make_report(
            step=[evaluated["step"]],
            progress=[evaluated["samples_seen"]],
            metric=metric,
            metric_stderr=stderr,
            diverged=diverged,
            phase_starts=trial.phase_starts,
            losses=_losses(counted),
        )
    first, last = np.searchsorted(history["step"], [after, reported.step], side="right")
    step, progress, loss, grad_norm = (
        history[key][first:last].tolist() for key in ("step", "samples_seen", "loss", "grad_norm")
    )
    return make_report(
        step=step,
        progress=progress,
        loss=loss,
        grad_norm=grad_norm,
        metric=metric,
        metric_stderr=stderr,
        blocks={index: (loss, float(tokens)) for index, (loss, tokens) in reported.blocks.items()},
        data_order=trial.data_order,
        warmup_steps=trial.warmup_steps,
        diverged=diverged,
        phase_starts=trial.phase_starts,
        losses=_losses(counted),
    )


def _losses(evaluated: Row | None) -> dict[str, float]:
    found = {} if evaluated is None else costs_of(evaluated.get("sets") or {}, evaluated.get("tasks") or {})
    return {name: float(cost) for name, cost in found.items() if cost is not None}


def _diverged(
    trial: TrialState,
    history: Mapping[str, NDArray[np.float64]],
    reported: StepsReport | None,
    evaluated: Row | None,
) -> str | None:
    """Why the trial ended by itself with this report, without a usable model; None where it did not.

    Its ranks end a trial at the first gradient norm that is not finite, and a trial with a final objective that is not
    finite has diverged.
    """
    if trial.status != "diverged":
        return None
    if evaluated is not None and evaluated.get("final"):
        return final_problem(evaluated["objective"])
    if reported is None or reported is not trial.reports[-1] or math.isfinite(history["grad_norm"][-1]):
        return None
    return str(trial.reason)


def final_problem(value: float | None) -> str | None:
    """Why a trial with this objective at the full budget has diverged; None for a finite one."""
    finite = value is not None and math.isfinite(value)
    return None if finite else f"the objective at the end is {value}"


def _adopt(early_stopper: EarlyStopper, decision: Row) -> None:
    early_stopper.adopt(StopDecision.from_row(dict(decision)))


def _end(early_stopper: EarlyStopper, trial: TrialState) -> None:
    name = trial.trial_id
    if trial.status == "completed":
        early_stopper.complete(name, final=trial.objective)
    elif trial.status == "diverged":
        early_stopper.complete(name, Report((), bad=str(trial.reason or "diverged")))
    elif trial.status == "failed":
        early_stopper.fail(name)
    elif trial.status == "stopped":
        early_stopper.remove(name)
        early_stopper.give_up(name)


def _by_the_rule(decision: Row) -> bool:
    """Whether the rule made it. Checks of divergence and bounds are made again at no cost; a user's stop shows in the
    trial's end.
    """
    return decision["rule"] not in NOT_BY_RULES

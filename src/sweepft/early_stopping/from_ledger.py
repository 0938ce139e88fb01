"""A ledger's rows fed to a referee, so that a resumed sweep goes on with what the scheduler knew.

The rows of one result stand together (``steps``, then ``eval`` where held-out loss was computed), and are
taken as one report, as they were when the sweep ran. Rows are plain mappings; the recorder is not imported.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

from sweepft.early_stopping.curve import Report, make_report
from sweepft.early_stopping.decisions import BY_USER, StopDecision
from sweepft.early_stopping.early_stopper import EarlyStopper
from sweepft.early_stopping.prior_sweeps import search_trials

_WORDS = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}


REJUDGED: Final = 2000


"""Verdicts: some ten seconds."""


def replay_rows(early_stopper: EarlyStopper, rows: Iterable[Mapping[str, Any]]) -> list[StopDecision]:
    """Feed rows to a referee in order; returns the verdicts it gives.

    Reads the kinds ``trial``, ``steps``, ``eval``, ``end`` and ``command`` (pins); others are skipped. A trial without
    an ``end`` row is still running afterwards; its next attempt goes on where its curve ends.
    """
    given = len(early_stopper.decisions)
    _walk(early_stopper, rows, early_stopper.report)
    return early_stopper.decisions[given:]


def adopt_rows(early_stopper: EarlyStopper, rows: Sequence[Mapping[str, Any]]) -> None:
    """Bring a referee to where it was when the last row was written.

    Up to `REJUDGED` verdicts are given again, as by `replay_rows`, and so are those of ledgers without ``score``.
    In longer sweeps that would take as long as all verdicts took: those that were given then are taken over. Only
    scores of judgements between windows that led to nothing are then not known; they may have been a trial's lowest.
    """
    judged = [row for row in rows if row.get("kind") == "decision" and _of_the_rule(row)]
    if len(judged) <= REJUDGED or any("score" not in row for row in judged):
        replay_rows(early_stopper, rows)
        return
    _walk(early_stopper, rows, early_stopper.note, decisions=True)


def _walk(
    early_stopper: EarlyStopper,
    rows: Iterable[Mapping[str, Any]],
    report: Callable[[str, Report], Any],
    decisions: bool = False,
) -> None:
    """Feed rows, each result as one report; verdicts are taken over where they are wanted."""
    steps: Mapping[str, Any] | None = None
    warmup: dict[str, int] = {}
    for row in search_trials(rows):
        kind = row.get("kind")
        if kind == "eval" and steps is not None and row["trial_id"] == steps["trial_id"]:
            _feed(early_stopper, steps, row, warmup, report)
            steps = None
            continue
        if steps is not None:
            _feed(early_stopper, steps, None, warmup, report)
            steps = None
        if kind == "trial":
            config = {**dict(row.get("train_config") or {}), **dict(row.get("params") or {})}
            early_stopper.add(row["trial_id"], config)
            warmup[row["trial_id"]] = int(row.get("warmup_steps") or 0)
        elif kind == "steps":
            steps = row
        elif kind == "eval":
            _feed(early_stopper, None, row, warmup, report)
        elif kind == "decision" and decisions and _of_the_rule(row):
            early_stopper.adopt(StopDecision.from_row(dict(row)))
        elif kind == "end":
            _end(early_stopper, row)
        elif kind == "command" and row["command"] == "pin" and row["accepted"]:
            early_stopper.pin(row["trial_id"], row["who"])
    if steps is not None:
        _feed(early_stopper, steps, None, warmup, report)


def _of_the_rule(decision: Mapping[str, Any]) -> bool:
    """Whether the rule gave it: guards are given again, they cost nothing; what a person asked for shows in the end."""
    return bool(decision["action"] != "divergence_check" and decision["rule"] != BY_USER)


def _feed(
    early_stopper: EarlyStopper,
    steps: Mapping[str, Any] | None,
    evaluation: Mapping[str, Any] | None,
    warmup: Mapping[str, int],
    take: Callable[[str, Report], Any],
) -> None:
    row = steps or evaluation or {}
    trial_id = row["trial_id"]
    if steps is not None:
        history = steps["history"]
        blocks = steps.get("blocks") or {}
        report = make_report(
            step=history["step"],
            progress=history["samples_seen"],
            loss=[_number(v) for v in history["loss"]],
            grad_norm=[_number(v) for v in history.get("grad_norm") or [None] * len(history["step"])],
            metric=_number(evaluation["objective"]) if evaluation else None,
            blocks={
                int(i): (_number(x), float(t))
                for i, x, t in zip(*(blocks.get(k) or [] for k in ("index", "loss", "tokens")), strict=True)
            },
            data_order=steps.get("data_order"),
            warmup_steps=warmup.get(trial_id, 0),
        )
    else:
        assert evaluation is not None
        report = make_report(
            step=[evaluation["step"]],
            progress=[evaluation["samples_seen"]],
            metric=_number(evaluation["objective"]),
        )
    if evaluation is not None and evaluation.get("final"):
        early_stopper.complete(trial_id, report)
    else:
        take(trial_id, report)


def _end(early_stopper: EarlyStopper, row: Mapping[str, Any]) -> None:
    trial_id, status = row["trial_id"], row["status"]
    if status == "completed":
        early_stopper.complete(trial_id, final=_number(row.get("objective")))
    elif status == "diverged":
        early_stopper.complete(trial_id, Report((), bad=str(row.get("reason") or "diverged")))
    elif status == "failed":
        early_stopper.fail(trial_id)
    elif status == "stopped":
        early_stopper.remove(trial_id)
        early_stopper.give_up(trial_id)


def _number(value: Any) -> Any:
    return _WORDS.get(value, value) if isinstance(value, str) else value

"""Run folders of sweepft: the curves in a ledger, and the decisions that its sweep's rule makes on them."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from sweepft.early_stopping import EarlyStopper, PriorSweeps, StopDecision, make_rule, replay_state
from sweepft.early_stopping.audit import audit_rate
from sweepft.errors import Problem, ReplayError
from sweepft.ledger import SweepState, TrialState
from sweepft.replay.curves import Curves, Mode, Run, Study, count_reasons


def read_run_folder(
    path: Path,
    *,
    columns: dict[str, str] | None = None,
    mode: Mode | None = None,
    budget: float | None = None,
    cut_runs: bool = False,
) -> Curves:
    """The trials of a sweep that ran to their end or diverged.

    Raises:
        ReplayError: Fewer than two did, or an option says what the run folder itself says.
    """
    state = SweepState.load(path)
    objective = state.objective
    for option, value in (("--column", columns), ("--mode", None if mode == objective.mode else mode)):
        if value:
            better = "more" if objective.maximize else "less"
            rule = f"does not apply to a run folder: its objective is {objective.name}, {better} is better"
            problem = Problem(str(path), option, rule, "leave it out", value)
            raise ReplayError(str(problem), key="replay.column" if columns else "replay.mode")
    return state_to_curves(
        state, name=path.name or str(path), source=str(path), budget=budget, cut_runs=cut_runs
    )


def state_to_curves(
    state: SweepState, *, name: str, source: str, budget: float | None = None, cut_runs: bool = False
) -> Curves:
    """The completed and diverged trials of a sweep; others have no result to compare, unless ``cut_runs``.

    Raises:
        ReplayError: If fewer than two trials ran to their end.
    """
    runs, omitted = [], Counter[str]()
    for trial in state.search_trials:
        run = _ledger_run(trial, cut_runs) if trial.reports else None
        if run is None:
            omitted["never trained"] += 1
        elif trial.status == "diverged" or (
            (cut_runs or trial.status == "completed") and math.isfinite(run.final)
        ):
            runs.append(run)
        else:
            omitted[trial.status if trial.status != "completed" else "without an objective"] += 1
    if len(runs) < 2:
        found = f": {count_reasons(omitted)}" if omitted else ""
        raise ReplayError(
            f"{source}: fewer than two trials ran to their end{found}\n"
            "  a replay needs whole curves; --cut-runs takes trials that ended early as they are",
            key="replay.no_runs",
        )
    full = float(budget or state.budget_samples)
    objective = state.objective
    study = Study(name, source, objective.mode, full, runs, dict(omitted))
    return Curves(
        source, "run folder", (study,), objective.name, objective.mode, f"{full:g} samples", omitted
    )


def _ledger_run(trial: TrialState, cut_runs: bool) -> Run:
    history = trial.history
    metric = {int(row["step"]): _number(trial.value_at(row)["objective"]) for row in trial.evals}
    metrics = np.array([metric.get(int(step), math.nan) for step in history["step"]], dtype=float)
    seconds = np.cumsum(np.nan_to_num(history["seconds"]))
    bad = np.nonzero(~np.isfinite(history["loss"]))[0].tolist() if trial.status == "diverged" else []
    seen = metrics[np.isfinite(metrics)]
    ended = trial.status in ("completed", "diverged") or not cut_runs
    return Run(
        trial.trial_id,
        {**trial.train_config, **trial.params},
        history["step"],
        history["samples_seen"],
        seconds if seconds.any() else history["samples_seen"],
        history["loss"],
        history["grad_norm"],
        metrics,
        _number(trial.objective) if ended else float(seen[-1]) if len(seen) else math.nan,
        bad[0] if bad else None,
        warmup_steps=trial.warmup_steps,
    )


def live_decisions(state: SweepState) -> list[StopDecision]:
    """What the rule of a sweep's own spec decides on its reports: the decisions of the live sweep.

    Raises:
        ReplayError: If the ledger is empty.
    """
    if not state.header:
        raise ReplayError(
            "ledger: it has no sweep row\n  give the run folder of a sweep that has started",
            key="replay.no_curves",
        )
    state.drop_partial_results()
    stop = dict(state.header["spec"].get("early_stop") or {})
    name = stop.get("rule", "median")
    stop["audit"] = audit_rate(name, stop.get("audit"))
    prior_sweeps = PriorSweeps.from_dict(state.header.get("prior_sweeps") or {})
    keys = ("min_peers", "eta", "top_fraction", "max_false_stop_rate", "covariates", "audit")
    rule = make_rule(name, **{k: stop[k] for k in keys if k in stop}, prior_sweeps=prior_sweeps)
    keys = ("min_steps", "top_fraction", "audit", "max_false_discovery_rate", "pause", "divergence_check")
    early_stopper = EarlyStopper(
        rule=rule,
        rungs=stop["rungs"],
        budget=float(state.budget_samples),
        mode=state.objective.mode,
        seed=int(state.header.get("seed") or 0),
        prior_sweeps=prior_sweeps,
        **{k: stop[k] for k in keys if k in stop},
    )
    return replay_state(early_stopper, state)


def _number(value: Any) -> float:
    return math.nan if value is None else float(value)

"""What this sweep says on its hyperparameters: recipe findings, and the importance of each swept key.

A finding is an effect of batch size, learning rate, warmup, schedule or data order in one linear model of the final
loss over completed trials, so that it holds at equal values of the other hyperparameters. It has its interval, or the
statement that there are not enough trials. Importance is Optuna's PED-ANOVA.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import asdict
from operator import itemgetter
from typing import Any, Final

import numpy as np

from sweepft.ledger import VALIDATION_LOSS, Objective, SweepState
from sweepft.report.signals import Estimate, final_metrics, least_squares

Columns = dict[str, list[float]]


def recipe_findings(
    sweep: SweepState, trials: list[dict[str, Any]], signals: list[dict[str, Any]]
) -> list[dict[str, Any]]:
    """Effects of the swept hyperparameters on the objective and every validation set, and what the early signals say.

    Returns:
        Rows ``finding, claim, metric, effect, unit, low, high, n, conclusion, text``; ``effect`` is in nats per
        target token, or in the unit of the objective (negative: better), None without enough trials, or where nothing
        was varied.
    """
    done = [t for t in trials if t["rank"] is not None]
    train_config = {name: t.train_config for name, t in sweep.trials.items()}
    full = [{**train_config.get(t["trial_id"], {}), **t["params"]} for t in done]
    finals = final_metrics(done, sweep.objective)
    columns = _columns(full)
    rows = []
    for metric, final in finals.items() if finals["objective"] else [("objective", [])]:
        keep = np.isfinite(np.asarray(final, dtype=float))
        used = {k: list(np.asarray(v)[keep]) for k, v in columns.items()}
        fitted = least_squares(used, np.asarray(final)[keep]) if keep.any() and used else None
        for key, finding, claim, unit in _CLAIMS:
            if _varies(columns.get(key)):
                effect = fitted.get(key) if fitted else None
                of = sweep.objective if metric == "objective" else VALIDATION_LOSS
                rows.append(_row(finding, claim, metric, unit, effect, int(keep.sum()), of))
            elif metric == "objective":
                rows.append(_not_varied(finding, claim, metric, unit, len(done)))
    rows += _signal_rows(signals)
    order = list(dict.fromkeys(r["claim"] for r in rows))
    return sorted(rows, key=lambda r: order.index(r["claim"]))


_CLAIMS = (
    ("batch", "batch size", "Larger batches give better models, at equal learning rate.", "per doubling"),
    (
        "rate",
        "learning rate",
        "Low learning rates give better models, at equal batch size.",
        "per tenfold rate",
    ),
    ("warmup", "warmup", "Warmup can be omitted without loss.", "with warmup against without"),
    (
        "schedule",
        "schedule",
        "A constant learning rate is as good as a decaying one.",
        "decaying against constant",
    ),
    (
        "strategy",
        "data order",
        "Stacked training is as good as phased training.",
        "phased against stacked",
    ),
)


# Findings that claim the absence of an effect.
_NO_LOSS = {"warmup", "schedule", "data order"}


def _columns(configs: list[dict[str, Any]]) -> Columns:
    """One number a trial and hyperparameter; those that some trial lacks are left out."""
    makers: dict[str, Callable[[dict[str, Any]], float]] = {
        "batch": lambda c: math.log2(c["batch_size"]),
        "rate": lambda c: math.log10(c["learning_rate"]),
        "warmup": lambda c: float(_warmup(c) > 0),
        "schedule": lambda c: float(c["schedule"] != "constant"),
        "strategy": lambda c: float((c.get("data.strategy") or c["data"]["strategy"]) == "phased"),
    }
    weights = dict.fromkeys(key for c in configs for key in c if key.startswith("data.mixture."))
    makers |= {key: itemgetter(key) for key in weights}  # controlled for; no claim is about them
    columns: Columns = {}
    for key, make in makers.items():
        try:
            columns[key] = [float(make(c)) for c in configs]
        except (KeyError, TypeError, ValueError):
            continue
    rates = np.asarray(columns.get("rate", []))
    if len(set(rates.round(6).tolist())) >= 3:  # losses have an optimum in learning rate
        columns["rate_squared"] = list((rates - rates.mean()) ** 2)
    return columns


def _warmup(params: dict[str, Any]) -> float:
    value = params.get("warmup.steps", params["warmup"])
    return float(value["steps"] if isinstance(value, dict) else value)


def _row(
    finding: str, claim: str, metric: str, unit: str, effect: Estimate | None, n: int, objective: Objective
) -> dict[str, Any]:
    row = {"finding": finding, "claim": claim, "metric": metric, "unit": unit}
    if effect is None:
        nothing = {"effect": None, "low": None, "high": None, "n": n}
        return {
            **row,
            **nothing,
            "conclusion": "cannot tell",
            "text": f"Not enough completed trials ({n}).",
        }
    values = asdict(effect)
    values["effect"] = values.pop("value")
    conclusion = _conclusion(finding, effect)
    return {**row, **values, "conclusion": conclusion, "text": _effect_text(unit, effect, objective)}


def _conclusion(finding: str, effect: Estimate) -> str:
    if finding in _NO_LOSS:
        return {0: "no difference seen", 1: "holds here", -1: "does not hold here"}[effect.sign]
    if effect.sign == 0:
        return "cannot tell"
    wanted = -1 if finding == "batch size" else 1
    return "holds here" if effect.sign == wanted else "does not hold here"


def _effect_text(unit: str, effect: Estimate, objective: Objective) -> str:
    """An effect in words, with the numbers of the objective as it is measured: a larger one can be better."""
    of, nats = ("loss", " nats") if objective.task is None else (objective.name, "")
    bounds = (-effect.high, -effect.low) if objective.maximize else (effect.low, effect.high)
    low, high = (f"{bound:+.3f}" for bound in bounds)
    if effect.sign == 0:
        return f"No effect seen, {unit}: anything from {low} to {high}{nats} is possible."
    up = (effect.sign > 0) != objective.maximize
    word = f"{'higher' if up else 'lower'} ({'worse' if effect.sign > 0 else 'better'})"
    return f"Final {of} {abs(effect.value):.3f}{nats} {word} {unit} ({low} to {high})."


def _not_varied(finding: str, claim: str, metric: str, unit: str, n: int) -> dict[str, Any]:
    nothing = {"effect": None, "low": None, "high": None, "n": n, "conclusion": "not varied"}
    text = "Not varied among the completed trials." if n else "No trial has completed yet."
    return {"finding": finding, "claim": claim, "metric": metric, "unit": unit, **nothing, "text": text}


def _signal_rows(signals: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The paper's second finding, by the correlations at the earliest rung, within batch sizes where possible."""
    rows = []
    for signal, claim, wanted in (
        ("grad_norm", "Low early gradient norm goes with better models.", 1),
        ("loss", "High early training loss goes with better models.", -1),
    ):
        here = [s for s in signals if s["signal"] == signal]
        cohort = "batch_size" if any(s["cohort"] == "batch_size" for s in here) else "all"
        for metric in dict.fromkeys(s["metric"] for s in here):
            fitting = [s for s in here if s["metric"] == metric and s["cohort"] == cohort]
            if not fitting:
                continue
            first = min(fitting, key=lambda s: s["rung"])
            sign = (first["low"] > 0) - (first["high"] < 0)
            conclusion = (
                "cannot tell" if sign == 0 else "holds here" if sign == wanted else "does not hold here"
            )
            where = "within batch sizes" if cohort == "batch_size" else "over all trials"
            text = (
                f"Rank correlation with the final loss at {first['rung']:.0%} of the budget, {where}: "
                f"{first['rho']:+.2f} ({first['low']:+.2f} to {first['high']:+.2f}, {first['n']} trials)."
            )
            row = {"finding": "early signals", "claim": claim, "metric": metric, "unit": "Spearman's rho"}
            values = {"effect": first["rho"], "low": first["low"], "high": first["high"], "n": first["n"]}
            rows.append({**row, **values, "conclusion": conclusion, "text": text})
    return rows


def _varies(column: list[float] | None) -> bool:
    return column is not None and len(set(column)) > 1


MIN_TRIALS: Final = 12  # fewer completed trials give no importance


def importances(space: dict[str, Any], trials: list[dict[str, Any]]) -> dict[str, float] | None:
    """Share of importance by swept key, most important first; None with fewer than `MIN_TRIALS`.

    The study is rebuilt in memory from the ledger, so that a copied run folder is enough. Distributions span the values
    seen, not the search space: a ledger can hold values outside of it (``start_with``, an edited space on resume).

    Args:
        space: ``search.space`` of the spec: ``{key: {choice | uniform | log_uniform | int_uniform: ...}}``.
        trials: Records of completed trials, with ``params`` and ``objective``, turned so that lower is better.
    """
    usable = [t for t in trials if isinstance(t["objective"], int | float) and math.isfinite(t["objective"])]
    varied = [k for k in space if len({_label(t["params"].get(k)) for t in usable}) > 1]
    usable = [t for t in usable if all(k in t["params"] for k in varied)]
    if len(usable) < MIN_TRIALS or not varied:
        return None
    if len(varied) == 1:
        return {varied[0]: 1.0}
    import optuna
    from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances

    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        study = optuna.create_study()
        distributions = {k: _distribution([t["params"][k] for t in usable], space[k]) for k in varied}
        for t in usable:
            params = {k: _value(t["params"][k], distributions[k]) for k in varied}
            study.add_trial(
                optuna.trial.create_trial(
                    params=params, distributions=distributions, value=float(t["objective"])
                )
            )
        evaluator = PedAnovaImportanceEvaluator(target_quantile=max(0.1, 3 / len(usable)))
        found = get_param_importances(study, evaluator=evaluator)
    finally:
        optuna.logging.set_verbosity(verbosity)
    return {k: float(v) for k, v in sorted(found.items(), key=lambda item: -item[1])}


def _distribution(values: list[Any], dimension: Any) -> Any:
    """The Optuna distribution of the values seen: numbers as a range, everything else as labels."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution

    if all(isinstance(v, int | float) and not isinstance(v, bool) for v in values):
        low, high = float(min(values)), float(max(values))
        declared = isinstance(dimension, dict) and bool(dimension.get("log_uniform"))
        return FloatDistribution(low, high, log=low > 0 and (declared or high / low >= 8))
    return CategoricalDistribution(sorted({_label(v) for v in values}))


def _value(value: Any, distribution: Any) -> Any:
    return float(value) if hasattr(distribution, "low") else _label(value)


def _label(value: Any) -> str:
    return json.dumps(value, sort_keys=True)

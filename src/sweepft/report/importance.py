"""Importance of each swept hyperparameter, by Optuna's PED-ANOVA over the completed trials.

The study is rebuilt in memory from the ledger, so that a copied run folder is enough. Distributions span the values
seen, not the search space: a ledger can hold values outside of it (``start_with``, an edited space on resume).
"""

from __future__ import annotations

import json
import math
from typing import Any, Final

MIN_TRIALS: Final = 12  # fewer completed trials give no importance


def importances(space: dict[str, Any], trials: list[dict[str, Any]]) -> dict[str, float] | None:
    """Share of importance by swept key, most important first; None with fewer than `MIN_TRIALS`.

    Args:
        space: ``search.space`` of the spec: ``{key: {choice | uniform | log_uniform | int_uniform: ...}}``.
        trials: Records of completed trials, with ``params`` and ``objective``.
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

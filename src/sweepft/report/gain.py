"""What the sweep was worth: how far the winner is ahead of the baseline, and what it lost elsewhere for that.

The winner is the best of several trials, so a difference counts only where it exceeds the noise by more than the
luckiest of them would (Bonferroni over the other completed trials, and over the evaluations of both trials where each
counts by its best one). Seed noise is part of it only where both settings
were trained with several seeds.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from scipy import stats

from sweepft.ledger import Objective, SweepState
from sweepft.report.format import assignments, duration, loss, number, time_unit
from sweepft.report.trials import paired_stderr

MUCH_NATS: Final = 0.1
"""Loss on a validation set, in nats per target token, from which on the winner's disadvantage is warned of."""


def gain_summary(
    sweep: SweepState,
    trials: list[dict[str, Any]],
    result: dict[str, Any],
    cost: dict[str, Any],
    finalists: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """How far the winner is ahead of the baseline, and at what cost.

    Args:
        sweep: The sweep.
        trials: Records of its trials.
        result: Of `sweepft.report.winner.result_summary`.
        cost: Of `sweepft.report.cost.cost_summary`.
        finalists: Of `sweepft.report.finalists.finalists_summary`.

    Returns:
        ``baseline`` (``trial_id, params, objective, status``, or None without one), ``value`` (how far the winner is
        ahead, in the unit of the objective), ``stderr`` and the 95% interval ``low, high``, corrected for the choice of
        the winner among ``compared`` other trials and of the best of so many evaluations of both, at most ``best_of``
        of one (both choices only where there are no seeds); ``seeds`` (smaller number of replicates of the two, 0
        without), ``seed_noise`` (of `seed_noise`, where it widens the interval of single runs), ``samples`` (of the
        objective's validation sets, or items of its task), ``verdict`` (``better``, ``not_better``,
        ``baseline_wins``, ``baseline_over_bounds`` where the winner meets the bounds or comes nearer to them,
        ``no_baseline``, ``baseline_open``, ``no_winner``, ``unknown`` where no standard error is known) and ``text``.
        ``over_base``: rows ``set, base, winner`` of losses on validation sets where the base model's is known;
        ``scores``: rows ``name, metric, higher_is_better, winner, baseline, base`` of tests and tasks, each
        ``{value, stderr, n}`` or None, where ``n`` counts replicates; ``details``: these in sentences.
    """
    first, winner = sweep.baseline, result["winner"]
    record = next((t for t in trials if first is not None and t["trial_id"] == first.trial_id), None)
    found: dict[str, Any] = {
        "baseline": None
        if record is None
        else {key: record[key] for key in ("trial_id", "params", "objective", "status")},
        "value": None, "stderr": None, "low": None, "high": None,
        "compared": 0, "best_of": 1, "seeds": 0, "seed_noise": None, "samples": None,
        "over_base": _over_base(sweep, winner), "scores": _scores(winner, record, finalists),
    }  # fmt: skip
    found["details"] = _details(found, winner, record)
    if record is None:
        return found | {
            "verdict": "no_baseline",
            "text": "No baseline was named, so what the sweep gained is not known: set search.baseline to the "
            "setting you use today, or to a preset.",
        }
    name = f"the baseline {record['trial_id']} ({assignments(record['params'])})"
    if winner is None:
        return found | {"verdict": "no_winner", "text": f"There is no winner to compare with {name}."}
    if record["rank"] is None:
        state = "has not ended yet" if record["status"] in ("running", "paused") else record["status"]
        return found | {"verdict": "baseline_open", "text": f"The gain is not known: {name} {state}."}
    spent = f"the sweep took {duration(cost['used'])} of {time_unit(cost)} time"
    if winner["trial_id"] == record["trial_id"]:
        others = sum(t["rank"] is not None for t in trials) - 1
        return found | {
            "verdict": "baseline_wins",
            "compared": others,
            "text": f"No trial beats {name}: {_none_of(others, record['violation'] == 0)}; {spent}.",
        }
    found |= _difference(sweep, trials, winner, record)
    over = sweep.violation(sweep.trials[winner["trial_id"]])
    if record["violation"] and record["violation"] > over:
        text = _nearer_the_bounds(sweep, winner["trial_id"], over, name, record["violation"])
        ahead = "ahead" if found["value"] >= 0 else "behind"
        by = _amount(sweep.objective, abs(found["value"]), found["stderr"])
        text += f"; by {sweep.objective.name} it is {by} {ahead}; {spent}."
        return found | {"verdict": "baseline_over_bounds", "text": text}
    verdict, text = _verdict(found, winner["trial_id"], name, sweep.objective)
    return found | {"verdict": verdict, "text": f"{text}; {spent}."}


def _over_base(sweep: SweepState, winner: dict[str, Any] | None) -> list[dict[str, Any]]:
    """Losses of the base model and of the winner, on validation sets where both are known."""
    known = base_losses(sweep)
    own = {} if winner is None else winner["validation"]
    return [
        {"set": name, "base": known[name], "winner": found["loss"]}
        for name, found in own.items()
        if name in known
    ]


def base_losses(sweep: SweepState) -> dict[str, float]:
    """The base model's losses by validation set, as far as they were measured."""
    rows = (
        row for (trial_id, _), row in sweep.scores.items() if trial_id is None and row["what"] == "validation"
    )
    found = {row["name"]: (row["metrics"].get("loss") or {}).get("value") for row in rows}
    return {name: value for name, value in found.items() if value is not None}


def _scores(
    winner: dict[str, Any] | None, baseline: dict[str, Any] | None, finalists: dict[str, Any] | None
) -> list[dict[str, Any]]:
    """Scores of winner, baseline and base model on each test set and task of the finalists."""
    if winner is None or finalists is None:
        return []
    rows = {row["trial_id"]: row for row in finalists["rows"]}

    def of(trial: dict[str, Any] | None, name: str, metric: str) -> dict[str, Any] | None:
        row = rows.get((trial or {}).get("trial_id", ""))
        if row is None:
            return None
        over = row["replicate_scores"].get(name, {}).get(metric)
        if over is not None and over["n"] > 1:
            return {"value": over["mean"], "stderr": over["stderr"], "n": over["n"]}
        one = row["scores"].get(name, {}).get(metric)
        return None if one is None else {"value": one["value"], "stderr": one["stderr"], "n": 0}

    found = []
    for column in finalists["columns"]:
        name, metric = column["name"], column["metric"]
        base = finalists["base"].get(name, {}).get(metric)
        found.append(
            {
                "name": name,
                "metric": metric,
                "higher_is_better": column["higher_is_better"],
                "winner": of(winner, name, metric),
                "baseline": of(baseline, name, metric),
                "base": None if base is None else {"value": base["value"], "stderr": base["stderr"], "n": 0},
            }
        )
    return [row for row in found if row["winner"] is not None]


def _details(
    found: dict[str, Any], winner: dict[str, Any] | None, baseline: dict[str, Any] | None
) -> list[str]:
    """The gain over the base model, and that on each test and task, in sentences."""
    if winner is None:
        return []
    lines = []
    if found["over_base"]:
        parts = [
            f"{row['set']} {number(row['base'])} to {number(row['winner'])}" for row in found["over_base"]
        ]
        lines.append(
            f"From the base model to {winner['trial_id']}, loss in nats per token: {', '.join(parts)}."
        )
    other = baseline is not None and baseline["trial_id"] != winner["trial_id"]
    for row in found["scores"]:
        parts = [f"{winner['trial_id']} {_measured(row['winner'])}"]
        parts += [f"baseline {_measured(row['baseline'])}"] if other and row["baseline"] else []
        parts += [f"base model {_measured(row['base'])}"] if row["base"] else []
        better = "higher" if row["higher_is_better"] else "lower"
        lines.append(f"{row['name']} ({row['metric']}, {better} is better): {', '.join(parts)}.")
    return lines


def _measured(score: dict[str, Any]) -> str:
    error = "" if score["stderr"] is None else f" ± {number(score['stderr'], 2)}"
    return f"{number(score['value'])}{error}" + (f" over {score['n']} seeds" if score["n"] else "")


def _difference(
    sweep: SweepState, trials: list[dict[str, Any]], winner: dict[str, Any], baseline: dict[str, Any]
) -> dict[str, Any]:
    compared = sum(t["rank"] is not None for t in trials) - 1
    best_of = [(t["best"] or {"evaluations": 1})["evaluations"] for t in (winner, baseline)]
    level = 0.025 / (max(1, compared) * math.prod(best_of))
    objective = sweep.objective
    noise: dict[str, Any] | None = None
    seeds = [
        [
            objective.cost(t["objective"])
            for t in trials
            if t["replicate_of"] == name and t["objective"] is not None
        ]
        for name in (winner["trial_id"], baseline["trial_id"])
    ]
    stderr: float | None
    if min(map(len, seeds)) > 1:
        # Replicates are new runs, which did not decide who won: no correction for the choice.
        value, stderr, width = seed_difference(seeds[1], seeds[0])
    else:
        value = objective.ahead(winner["objective"], baseline["objective"])
        pair = (sweep.trials[winner["trial_id"]], sweep.trials[baseline["trial_id"]])
        stderr = paired_stderr(sweep, *pair)
        if stderr is None and None not in (winner["stderr"], baseline["objective_stderr"]):
            stderr = math.hypot(winner["stderr"], baseline["objective_stderr"])
        noise = seed_noise(trials)
        stderr, width = single_run_error(stderr, noise, level)
    declared = (sweep.spec.get("data") or {}).get("validation") or []
    unweighted = {d.get("name") for d in declared if isinstance(d, dict) and not d.get("weight", 1.0)}
    sets = [s for name, s in winner["validation"].items() if name not in unweighted]
    samples = sum(s.get("samples") or 0 for s in sets)
    if objective.task is not None:
        counted = sweep.trials[winner["trial_id"]].counted or {}
        samples = (counted.get("task") or {}).get("items") or 0
    return {
        "value": value,
        "stderr": stderr,
        "low": None if width is None else value - width,
        "high": None if width is None else value + width,
        "compared": compared,
        "best_of": max(best_of),
        "seeds": min(map(len, seeds)) if min(map(len, seeds)) > 1 else 0,
        "seed_noise": noise,
        "samples": samples or None,
    }


def seed_noise(trials: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    """How much runs of one configuration differ by their seeds, pooled over all that the sweep has repeated: replicates
    of a trial, and trials that differ in ``seed`` only.

    Args:
        trials: Records of all trials.

    Returns:
        ``value`` (standard deviation, nats), ``runs`` and ``freedom`` (degrees of freedom); None without repeated runs.
    """
    groups: dict[str, list[float]] = {}
    for trial in trials:
        name = trial["replicate_of"]
        if name is None and "seed" in trial["params"]:
            others = {key: value for key, value in trial["params"].items() if key != "seed"}
            name = json.dumps(others, sort_keys=True, default=str)
        if name is not None and trial["objective"] is not None:
            groups.setdefault(name, []).append(trial["objective"])
    repeated = [losses for losses in groups.values() if len(losses) > 1]
    freedom = sum(map(len, repeated)) - len(repeated)
    if not freedom:
        return None
    squares = sum(float(np.var(losses)) * len(losses) for losses in repeated)
    return {"value": math.sqrt(squares / freedom), "runs": sum(map(len, repeated)), "freedom": freedom}


def single_run_error(
    sampling: float | None, noise: dict[str, Any] | None, level: float
) -> tuple[float | None, float | None]:
    """Standard error of the difference of two single runs, and half the width of its interval.

    Args:
        sampling: Its standard error over the validation samples; None where it is not known.
        noise: Of `seed_noise`; None leaves the noise of seeds out, so the interval is too narrow.
        level: Probability on each side of the interval.
    """
    if sampling is None or noise is None:
        return sampling, None if sampling is None else float(stats.norm.isf(level)) * sampling
    stderr = math.sqrt(sampling**2 + 2 * noise["value"] ** 2)
    return stderr, float(stats.t.isf(level, noise["freedom"])) * stderr


def seed_difference(
    baseline: Sequence[float], winner: Sequence[float]
) -> tuple[float, float | None, float | None]:
    """Difference of the mean losses of two configurations over their seeds, by Welch's t. Of a metric that is maximized
    the negatives are given.

    Returns:
        The difference (positive: the winner is better), its standard error, and half the width of its 95% interval; the
        latter two are None without any spread.
    """
    value = float(np.mean(baseline) - np.mean(winner))
    parts = [float(np.var(losses, ddof=1)) / len(losses) for losses in (baseline, winner)]
    if not sum(parts):
        return value, None, None
    stderr = math.sqrt(sum(parts))
    below = sum(part**2 / (len(losses) - 1) for part, losses in zip(parts, (baseline, winner), strict=True))
    return value, stderr, float(stats.t.ppf(0.975, sum(parts) ** 2 / below)) * stderr


def _amount(objective: Objective, value: float, stderr: float | None) -> str:
    """A difference of the objective with its unit."""
    if objective.task is None:
        return f"{loss(value, stderr)} nats"
    return number(value) if stderr is None else f"{number(value)} ± {number(stderr, 2)}"


def _verdict(found: dict[str, Any], winner: str, name: str, objective: Objective) -> tuple[str, str]:
    by = f"by {_amount(objective, found['value'], found['stderr'])} of {objective.name}"
    if found["seeds"]:
        over = f"over {found['seeds']} seeds each"
        over += f", each the best of {found['best_of']} evaluations" if found["best_of"] > 1 else ""
    else:
        what = "validation samples" if objective.task is None else "items"
        samples = f"{found['samples']:,} {what}" if found["samples"] else f"the {what}"
        noise = found["seed_noise"]
        over = f"over {samples}, "
        over += (
            f"with the seed noise of {noise['runs']} repeated runs"
            if noise
            else "without seed noise, which is often larger (evaluate.replicates measures it)"
        )
        if found["best_of"] > 1:
            over += f", each trial at the best of its {found['best_of']} evaluations, which the interval allows for"
    if found["low"] is None:
        return "unknown", f"{winner} is ahead of {name} {by}, and its noise is not known"
    if found["low"] > 0:
        return "better", f"{winner} beats {name} {by}, {over}"
    chosen = "" if found["seeds"] else f" for the best of {found['compared'] + 1} trials"
    return (
        "not_better",
        f"No better than the baseline: {winner} is ahead of {name} {by}, {over}, "
        f"which is within the noise{chosen}",
    )


def _nearer_the_bounds(sweep: SweepState, winner: str, over: float, name: str, baseline_over: float) -> str:
    """That the baseline is farther beyond the bounds than the winner, which meets them where ``over`` is 0."""
    of_tasks = any(bound.metric is not None for bound in sweep.bounds.entries)
    unit = "beyond them" if of_tasks else "nats above them"
    beyond = f"{number(baseline_over, 3)} {unit}"
    if over == 0:
        return f"{winner} meets the bounds, which {name} does not ({beyond})"
    return f"{winner} comes nearer to the bounds than {name}: {number(over, 3)} against {beyond}"


def _none_of(others: int, bounded: bool) -> str:
    """That none of the other completed trials is better than the baseline, which may be the only one that meets the
    bounds.
    """
    if others == 0:
        return "no other one has completed"
    which = (
        f"none of the {others} others that completed is"
        if others > 1
        else "the other one that completed is not"
    )
    return f"{which} better" + (" and meets the bounds" if bounded else "")


def forgetting_warnings(
    sweep: SweepState, trials: list[dict[str, Any]], result: dict[str, Any]
) -> list[dict[str, Any]]:
    """Validation sets on which the winner is much worse than the base model or the runner-up, and tasks that trials are
    measured on. Those with a bound are left out: what may be lost on them was asked for. So are rows held out from
    training where a task is the objective: a higher loss on them is no forgetting.

    Returns:
        Rows ``set, loss`` (the winner's; of a task its value, as in the others), ``base`` and ``runner_up`` (their
        losses, None where not measured), ``least`` (``trial_id, loss, behind``: the completed trial that is best on the
        set, and how far its objective is behind the winner's) and ``text``; only sets where one of both differs by more
        than `MUCH_NATS`.
    """
    winner, runner_up, known = result["winner"], result["runner_up"], base_losses(sweep)
    if winner is None:
        return []
    declared = (sweep.spec.get("data") or {}).get("validation") or []
    held_out = {d.get("name") for d in declared if isinstance(d, dict) and d.get("fraction") is not None}
    ranked = [t for t in trials if t["rank"] is not None]
    rows = []
    for name, own in winner["validation"].items():
        if name in sweep.bounds.limits or (sweep.objective.task is not None and name in held_out):
            continue
        losses = {t["trial_id"]: t["validation"][name]["loss"] for t in ranked if name in t["validation"]}
        before = known.get(name)
        second = losses.get(runner_up["trial_id"]) if runner_up else None
        parts = [
            f"{who} has {number(other)}"
            for who, other in (
                ("the base model", before),
                (f"the runner-up {runner_up['trial_id']}" if runner_up else "", second),
            )
            if other is not None and own["loss"] - other > MUCH_NATS
        ]
        if not parts:
            continue
        least = min(losses, key=lambda t: losses[t])
        other = next(t["objective"] for t in ranked if t["trial_id"] == least)
        behind = sweep.objective.ahead(winner["objective"], other)
        text = (
            f"The winner may have forgotten: its loss on {name} is {number(own['loss'])} nats, "
            f"{' and '.join(parts)}."
        )
        if least not in (winner["trial_id"], (runner_up or {}).get("trial_id")):
            text += (
                f" {least} has the lowest of the completed trials, {number(losses[least])}, and is "
                f"{number(behind)} behind by the objective."
            )
        rows.append(
            {
                "set": name, "loss": own["loss"], "base": before, "runner_up": second,
                "least": {"trial_id": least, "loss": losses[least], "behind": behind}, "text": text,
            }
        )  # fmt: skip
    return rows + _lost_scores(sweep, ranked, winner, runner_up)


def _lost_scores(
    sweep: SweepState, ranked: list[dict[str, Any]], winner: dict[str, Any], runner_up: dict[str, Any] | None
) -> list[dict[str, Any]]:
    """The same of tasks that trials are measured on beside the objective: those on which the winner is worse than the
    runner-up by more than three times the noise of the difference.
    """
    rows: list[dict[str, Any]] = []
    if runner_up is None:
        return rows
    for name, own in winner["tasks"].items():
        second = runner_up["tasks"].get(name) or {}
        if name in (sweep.objective.task, *sweep.bounds.limits):
            continue
        if None in (own["value"], own["stderr"], second.get("value"), second.get("stderr")):
            continue
        sign = 1 if own.get("higher_is_better", True) else -1
        noise = math.hypot(own["stderr"], second["stderr"])
        if sign * (second["value"] - own["value"]) <= 3 * noise:
            continue
        known = {t["trial_id"]: t["tasks"][name]["value"] for t in ranked if t["tasks"].get(name)}
        best = max((t for t in known if known[t] is not None), key=lambda t: sign * known[t])
        other = next(t["objective"] for t in ranked if t["trial_id"] == best)
        behind = sweep.objective.ahead(winner["objective"], other)
        text = (
            f"The winner may have forgotten: it has {number(own['value'])} on {name}, and the runner-up "
            f"{runner_up['trial_id']} has {number(second['value'])}."
        )
        if best != runner_up["trial_id"]:
            text += f" {best} has {number(known[best])}, and is {number(behind)} behind by the objective."
        rows.append(
            {
                "set": name, "loss": own["value"], "base": None, "runner_up": second["value"],
                "least": {"trial_id": best, "loss": known[best], "behind": behind}, "text": text,
            }
        )  # fmt: skip
    return rows

"""A metric as the objective of a trial: its value, its noise, and what pairs two trials over the items. It is that of a
task of the harness, or a function of the user's own over generated answers.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import numpy as np
import torch
import torch.distributed as dist

from sweepft.data.requests import Request
from sweepft.evaluation.generate import answer_chats
from sweepft.evaluation.own_metric import (
    Function,
    OwnTask,
    load_function,
    problem,
    read_requests,
    score_answer,
)
from sweepft.evaluation.tasks import EvalTask
from sweepft.ledger import metric_of

GROUPS: Final = 64
"""Maximum number of groups of items with residuals, as of validation samples."""
_SEED: Final = 0


def measure(
    model: Any,
    tokenizer: str,
    task: EvalTask | OwnTask,
    metric: str,
    *,
    sharded: bool,
    length_class: Callable[[int], int] | None = None,
) -> dict[str, Any]:
    """A metric of a model in memory. Runs on every rank; see `sweepft.evaluation.harness.score` for the arguments, of
    which an own task has its metric in itself.

    A task that samples its answers draws the same random numbers for every trial and rung. The caller restores the
    random states.

    Returns:
        On rank 0 what `measured` returns; nothing on other ranks.
    Raises:
        EvaluateError: If the task cannot be loaded.
        OwnMetricError: If the function cannot score an answer.
    """
    random.seed(_SEED)
    np.random.seed(_SEED)
    torch.manual_seed(_SEED)
    if isinstance(task, OwnTask):
        return _measure_own(model, tokenizer, task, sharded, length_class)
    from sweepft.evaluation.harness import score  # the harness may be missing where only own metrics are used

    scores = score(
        model, tokenizer, task, sharded=sharded, length_class=length_class, keep=True, bootstrap=False
    )
    return measured(scores, metric) if scores else {}


def measured(scores: Mapping[str, Any], metric: str) -> dict[str, Any]:
    """The value of a metric, from all scores of a task.

    Args:
        scores: Of `sweepft.evaluation.harness.score`.
        metric: One of its metrics; the name alone where it has one filter.
    Returns:
        ``value``; ``stderr``: binomial where every item scores 0 or 1, else from the spread of the items' scores, None
        where neither is possible; ``items``; ``residuals``: for up to `GROUPS` groups of items, every n-th one, the sum
        of their scores minus the mean score, None where the metric is no mean over items.
    """
    _, metric = metric_of(f"task.{metric}", ["task"], {"task": scores["metrics"]})
    found = scores["metrics"][metric]
    value, count = float(found["value"]), int(scores["items"])
    values = _by_item(scores["samples"], metric)
    if not values or not math.isclose(sum(values) / len(values), value, rel_tol=1e-9, abs_tol=1e-9):
        return {"value": value, "stderr": found["stderr"], "items": count, "residuals": None}
    return mean_of(values, value)


def mean_of(values: Sequence[float], value: float) -> dict[str, Any]:
    """What `measured` returns of a metric that is a mean.

    Args:
        values: Score of each item.
        value: Their mean.
    """
    residuals = np.asarray(values) - value
    groups = np.bincount(np.arange(len(values)) % GROUPS, weights=residuals)
    return {
        "value": value,
        "stderr": standard_error(values),
        "items": len(values),
        "residuals": [float(f"{group:.5g}") for group in groups],
    }


_KEPT: Final[dict[OwnTask, tuple[list[Request], Function]]] = {}
"""Rows and functions that this process scores again and again."""


def _measure_own(
    model: Any, tokenizer: str, task: OwnTask, sharded: bool, length_class: Callable[[int], int] | None
) -> dict[str, Any]:
    if task not in _KEPT:
        _KEPT[task] = _loaded(task)
    requests, function = _KEPT[task]
    answers = answer_chats(
        model,
        tokenizer,
        [request.chat for request in requests],
        settings=[request.settings for request in requests],
        temperature=0.0,
        max_new_tokens=task.max_tokens,
        seed=_SEED,
        batch_size=task.batch_size,
        sharded=sharded,
        length_class=length_class,
    )
    if dist.get_rank() != 0:
        return {}
    values = [
        score_answer(task, function, answer, request)
        for answer, request in zip(answers, requests, strict=True)
    ]
    return mean_of(values, math.fsum(values) / len(values))


def _loaded(task: OwnTask) -> tuple[list[Request], Function]:
    """Rows and function, if they are those that the driver has seen."""
    if task.expected is not None and task.digest != task.expected:
        rule = "differs between the driver and a rank, or has changed since the start: file of rows or module"
        raise problem(task, "metric", rule, "make both the same on every node, then resume", task.function)
    return read_requests(task), load_function(task)


def standard_error(values: Sequence[float]) -> float | None:
    """Standard error of the mean of items' scores.

    Of items that score 0 or 1 it is binomial with one more item of either kind (Laplace), so that it is not 0 where a
    model gets none or all of a few items right.
    """
    n = len(values)
    if set(values) <= {0.0, 1.0}:
        share = (sum(values) + 1) / (n + 2)
        return math.sqrt(share * (1 - share) / n)
    return float(np.std(values, ddof=1)) / math.sqrt(n) if n > 1 else None


def _by_item(samples: Sequence[Mapping[str, Any]], metric: str) -> list[float]:
    """The metric of each item, in order; empty where an item has no number."""
    name, _, wanted = metric.partition(",")
    filters = list(dict.fromkeys(sample["filter"] for sample in samples if name in sample))
    own = wanted or (filters[0] if filters else "")
    values = [sample[name] for sample in samples if sample["filter"] == own and name in sample]
    return [float(v) for v in values] if all(isinstance(v, bool | int | float) for v in values) else []

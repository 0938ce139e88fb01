"""Reads results of Ray Tune into reports, whatever they hold.

Results belong to other people: a value that is no number counts as not reported, a metric may be missing from some
results, and keys may be nested. What is odd is logged once per key; `ResultReader.seen` says which keys ever held a
number, so that a misspelt one can be named.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, TypeVar

from sweepft.early_stopping.curve import Report, make_report
from sweepft.early_stopping.numbers import as_count, as_number

_log = logging.getLogger(__name__)
SAMPLES: Final = "samples_seen"
ITERATION: Final = "training_iteration"
_MOST_KEYS: Final = 40  # that are named in a warning
_NOTED: Final = 50  # results whose keys are looked through for that
_RAYS_OWN: Final = frozenset(
    (
        *(
            "time_this_iter_s",
            "time_total_s",
            "time_since_restore",
            "iterations_since_restore",
            "timestamp",
            "pid",
        ),
        *(
            "timesteps_total",
            "timesteps_since_restore",
            "episodes_total",
            "episodes_this_iter",
            "timesteps_this_iter",
        ),
        *(
            "date",
            "hostname",
            "node_ip",
            "trial_id",
            "experiment_id",
            "experiment_tag",
            "done",
            "should_checkpoint",
        ),
        *("checkpoint_dir_name", ITERATION),
    )
)
_SAYS_NO: Final = ("", "false", "no", "none", "nan", "0")
T = TypeVar("T")


class ResultReader:
    """Reads results of one sweep. Any key may be absent from any result.

    Args:
        metric: Result key of the objective; also as a path, ``eval/loss`` or ``eval.loss``. Its standard error may be
            reported by the same name with ``_stderr``.
        loss: Of the training loss.
        grad_norm: Of the gradient norm.
        time_attr: Of a counter that grows: the progress of a trial. None for ``samples_seen``, and for Ray's
            ``training_iteration`` as long as no result has that.
        step_attr: Of the optimizer steps; ``training_iteration`` stands in where it is absent.

    Attributes:
        seen: Those of the keys above that some result held as a number.
        others: Other keys that held numbers, in order of appearance.
        odd: Keys with a value that was no number.
        results: Number of results read.
    """

    def __init__(
        self, *, metric: str, loss: str, grad_norm: str, time_attr: str | None, step_attr: str
    ) -> None:
        self.metric, self.loss, self.grad_norm, self.step_attr = metric, loss, grad_norm, step_attr
        self.time_attr = time_attr
        self.seen: set[str] = set()
        self.others: dict[str, None] = {}
        self.odd: set[str] = set()
        self.results = 0

    @property
    def time_key(self) -> str:
        """The key that progress is read from as things stand."""
        return self.time_attr or (SAMPLES if SAMPLES in self.seen else ITERATION)

    def read(self, result: Mapping[str, Any]) -> Report | None:
        """The report in a result; None for a result without progress."""
        self._note_keys(result)
        if self.time_attr is None and (
            as_count(_get(result, SAMPLES)) is not None or self._column(result, SAMPLES)
        ):
            self.seen.add(SAMPLES)
        time_key = self.time_key
        columns = self._history(result, time_key) or self._single(result, time_key)
        if columns is None:
            return None
        metric = self._number(result, self.metric)
        if self.loss == self.metric:  # not finite means "not evaluated" there
            columns["loss"] = [x if x is not None and math.isfinite(x) else None for x in columns["loss"]]
        order, phase = _get(result, "data_order"), _get(result, "phase")
        return make_report(
            step=columns["step"],
            progress=columns["progress"],
            loss=columns["loss"],
            grad_norm=columns["grad_norm"],
            metric=metric,
            metric_stderr=as_number(_get(result, f"{self.metric}_stderr")),
            blocks=self._blocks(result),
            data_order=order if isinstance(order, str) else None,
            warmup_steps=as_count(_get(result, "warmup_steps")) or 0,
            diverged=_diverged(_get(result, "diverged")),
            phase_starts=self._sequence(_get(result, "phase_starts"), as_number) or (),
            losses=set_losses(result),
            phase=phase if isinstance(phase, str) else as_number(phase),
        )

    def _single(self, result: Mapping[str, Any], time_key: str) -> dict[str, list[Any]] | None:
        progress = self._number(result, time_key)
        if progress is None or not math.isfinite(progress):
            return None
        step = as_count(self._number(result, self.step_attr))
        if step is None:
            step = as_count(_get(result, ITERATION)) or 0
        found = {name: [self._number(result, key)] for name, key in self._signals()}
        return {"step": [step], "progress": [progress], **found}

    def _history(self, result: Mapping[str, Any], time_key: str) -> dict[str, list[Any]] | None:
        """The columns of ``history``, one entry a step; None without usable ones."""
        step = self._sequence(_get(result, "history", "step"), as_count)
        progress = self._column(result, time_key)
        if not step or not progress or len(step) != len(progress):
            return None
        self.seen |= {time_key, self.step_attr}
        columns: dict[str, list[Any]] = {"step": step, "progress": progress}
        for name, key in self._signals():
            values = self._sequence(_get(result, "history", key), as_number, gaps=True)
            usable = values is not None and len(values) == len(step)
            columns[name] = values if values is not None and usable else [None] * len(step)
            if usable:
                self.seen.add(key)
        return columns

    def _signals(self) -> tuple[tuple[str, str], ...]:
        return ("loss", self.loss), ("grad_norm", self.grad_norm)

    def _column(self, result: Mapping[str, Any], key: str) -> list[float] | None:
        values = self._sequence(_get(result, "history", key), as_number)
        return values if values and all(map(math.isfinite, values)) else None

    def _blocks(self, result: Mapping[str, Any]) -> dict[int, tuple[float, float]]:
        index = self._sequence(_get(result, "blocks", "index"), as_count)
        loss, tokens = (self._sequence(_get(result, "blocks", k), as_number) for k in ("loss", "tokens"))
        if index is None or loss is None or tokens is None or not len(index) == len(loss) == len(tokens):
            return {}
        return {i: (x, t) for i, x, t in zip(index, loss, tokens, strict=True)}

    @staticmethod
    def _sequence(value: Any, read: Callable[[Any], T | None], *, gaps: bool = False) -> list[Any] | None:
        """The values of a sequence; None where it is none, or where one of them is no number (unless ``gaps``)."""
        if not isinstance(value, Sequence) or isinstance(value, str | bytes):
            return None
        values = [read(v) for v in value]
        return values if gaps or None not in values else None

    def _number(self, result: Mapping[str, Any], key: str) -> float | None:
        value = _get(result, key)
        number = as_number(value)
        if number is not None:
            self.seen.add(key)
        elif value is not None and key not in self.odd:
            self.odd.add(key)
            shown = repr(value)
            _log.warning(
                "result key %r holds no number (%s %s): it counts as not reported, here and in later results",
                key,
                type(value).__name__,
                shown if len(shown) <= 60 else shown[:57] + "...",
            )
        return number

    def _note_keys(self, result: Mapping[str, Any]) -> None:
        self.results += 1
        if self.results > _NOTED or len(self.others) >= _MOST_KEYS:
            return
        for key, value in _leaves(result):
            first = key.partition("/")[0]
            if (
                first not in _RAYS_OWN
                and first not in ("config", "history", "blocks")
                and as_number(value) is not None
            ):
                self.others[key] = None


def value_so_far(result: Mapping[str, Any]) -> dict[str, Any]:
    """The result of a trial that counts by its best evaluation, with the losses of that one in place of the last ones;
    any other result as it is.
    """
    if "best_objective" not in result:
        return dict(result)
    best = {name: {"loss": loss} for name, loss in set_losses(result, "best_sets").items()}
    apart = ("eval_sets", "eval_tasks")
    others = {key: value for key, value in result.items() if not str(key).startswith(apart)}
    values = {"objective": result["best_objective"], "objective_stderr": result.get("best_stderr")}
    return others | values | {"eval_sets": best}


def set_losses(result: Mapping[str, Any], sets_key: str = "eval_sets") -> dict[str, float]:
    """Losses by validation set and costs by task in a result, flat as Tune passes it (``eval_sets/NAME/loss``,
    ``eval_tasks/NAME/cost``) or nested.
    """
    found: dict[str, Any] = {}
    tasks = (("eval_tasks", "cost"),) if sets_key == "eval_sets" else ()
    for section, field in ((sets_key, "loss"), *tasks):
        for key, value in result.items():
            parts = str(key).split("/")
            if len(parts) > 2 and parts[0] == section and parts[-1] == field:
                found["/".join(parts[1:-1])] = value
        nested = result.get(section)
        inner = nested if isinstance(nested, Mapping) else {}
        found |= {str(name): entry.get(field) for name, entry in inner.items() if isinstance(entry, Mapping)}
    return {name: number for name, value in found.items() if (number := as_number(value)) is not None}


def _get(result: Mapping[str, Any], *path: str) -> Any:
    """A value by its key, flat or nested; ``/`` or ``.`` in a key that is not there as it is separate the levels."""
    key = "/".join(path)
    if key in result:
        return result[key]
    if len(path) == 1 and "/" not in key:
        if "." not in key:
            return None
        return _get(result, *key.split("."))
    value: Any = result
    for part in key.split("/"):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


def _leaves(result: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    found = []
    for key, value in result.items():
        if isinstance(value, Mapping):
            found += _leaves(value, f"{prefix}{key}/")
        else:
            found.append((f"{prefix}{key}", value))
    return found


def _diverged(value: Any) -> str | None:
    """What a result says in ``diverged``: a reason, or True. Numbers are somebody's metric."""
    if isinstance(value, str):
        return None if value.strip().lower() in _SAYS_NO else value
    says_so = value is True or (type(value).__name__ in ("bool_", "bool") and bool(value))
    return "the trial reported that it has diverged" if says_so else None

"""A slot that plays a curve back, report by report.

Its results have every key of a real slot's results (docs/architecture.md).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from benchmarks.simulation.courses import SECONDS_PER_EVALUATION, CurveSource

from sweepft.data.order import block_size
from sweepft.slot.jobs import report_points
from sweepft.spec import TrainConfig

_SWITCH = 0.05  # seconds from one trial of a slot to the next
_TOKENS = 200  # target tokens of a sample


class Playback:
    """One trial running in one slot.

    Args:
        courses: Source of its curve.
        params: Of the trial.
        train_config: Of the trial.
        budget: Samples per trial.
        rungs: Fractions of the budget at which validation loss is computed.
        validation: Names of the validation sets.
        slot: Name of its slot.
        warm: Whether the slot has run a trial before.
        reported: Samples up to which the trial had been reported when it was paused.
        every_report: Report validation loss at every report for free, instead of at rungs only.
    """

    def __init__(
        self,
        courses: CurveSource,
        params: Mapping[str, Any],
        train_config: TrainConfig,
        *,
        budget: int,
        rungs: tuple[float, ...],
        validation: tuple[str, ...] = ("own",),
        slot: str = "0",
        warm: bool = True,
        reported: int = 0,
        every_report: bool = False,
    ) -> None:
        self._train_config = train_config
        self.course = courses.course(params, train_config)
        self._points = report_points(budget, rungs, self._train_config.batch_size)
        self._budget, self._sets, self._slot, self._every = budget, validation, slot, every_report
        self._next = sum(point.samples <= reported for point in self._points)
        self._done = self._steps(reported)
        self._started = {
            "warm": warm,
            "switch_seconds": _SWITCH,
            "nodes": ["simulated"],
            "from_step": self._done,
        }
        self._fresh = True
        # A resumed trial trains again up to where it was paused: no checkpoints are simulated.
        self._lost = float(self.course.seconds[: self._done].sum())
        self.spent = 0.0

    @property
    def wait(self) -> float:
        """Seconds until the next report."""
        return sum(self._phases().values())

    def report(self) -> dict[str, Any]:
        """The next result; in the last one ``done`` is true."""
        phases, (first, last) = self._phases(), self._span()
        course, point = self.course, self._points[self._next]
        rows = slice(first, last)
        history = {
            "step": list(range(first + 1, last + 1)),
            "samples_seen": course.samples[rows].tolist(),
            "tokens_seen": (course.samples[rows] * _TOKENS).tolist(),
            "loss": course.loss[rows].tolist(),
            "grad_norm": course.grad_norm[rows].tolist(),
            "lr": course.lr[rows].tolist(),
            "seconds": course.seconds[rows].tolist(),
        }
        result: dict[str, Any] = {key: values[-1] for key, values in history.items() if key != "seconds"}
        result |= {
            "history": history,
            "blocks": self._blocks(first, last),
            "data_order": "simulated",
            "warmup_steps": self._train_config.warmup_steps,
            "planned_steps": self._train_config.planned_steps,
            "budget_samples": self._budget,
            "slot": self._slot,
            "started": self._started,
            "faults": [],
            "node_ids": [],
            "gpus": [],
            "phase_seconds": phases,
            "training_iteration": self._next + 1,
        }
        if self._bad(last):
            result["diverged"] = f"the training loss is nan at step {last}"
        elif point.rung is not None or self._every:
            value = float(course.validation[last - 1])
            sets = {
                name: {"loss": value, "stderr": 0.01, "tokens": 100_000, "samples": 500}
                for name in self._sets
            }
            result |= {"objective": value, "eval_sets": sets, "eval_seconds": phases.get("evaluate", 0.0)}
            result |= {"rung": point.rung} if point.rung is not None else {}
        self._next += 1
        self._done, self._fresh, self._lost = last, False, 0.0
        result["done"] = "diverged" in result or self._next == len(self._points)
        self.spent += sum(phases.values())
        return result

    def _span(self) -> tuple[int, int]:
        last = self._steps(self._points[self._next].samples)
        bad = self.course.diverges_at
        return self._done, last if bad is None else min(last, bad + 1)

    def _phases(self) -> dict[str, float]:
        first, last = self._span()
        phases = {"switch": _SWITCH} if self._fresh else {}
        phases |= {"lost": self._lost} if self._lost else {}
        phases |= {"train": float(self.course.seconds[first:last].sum())}
        if self._points[self._next].rung is not None and not self._every and not self._bad(last):
            phases["evaluate"] = SECONDS_PER_EVALUATION
        return phases

    def _bad(self, last: int) -> bool:
        return self.course.diverges_at is not None and last > self.course.diverges_at

    def _steps(self, samples: int) -> int:
        return int(np.searchsorted(self.course.samples, samples, side="left")) + 1 if samples > 0 else 0

    def _blocks(self, first: int, last: int) -> dict[str, list[Any]]:
        """Blocks of the sample order completed in these steps, each with the loss of the step that completed it."""
        size = block_size(self._budget)
        seen = self.course.samples
        before = int(seen[first - 1]) // size if first else 0
        full = int(seen[last - 1])
        index = np.arange(before, -(-full // size) if full >= self._budget else full // size)
        at = np.minimum(np.searchsorted(seen, (index + 1) * size, side="left"), last - 1)
        loss = self.course.loss[at].tolist()
        return {"index": index.tolist(), "loss": loss, "tokens": [size * _TOKENS] * len(index)}

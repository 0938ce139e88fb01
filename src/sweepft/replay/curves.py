"""Recorded runs, as a replay needs them: whole learning curves, their cost and how they ended.

A `Study` holds runs that may be compared with each other. Its budget belongs to the study, never to a run: a run
may have ended early because it was good, so its own length would tell the outcome.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from sweepft.rules import Observation, Report

__all__ = ["Floats", "Run", "Study"]

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Run:
    """One recorded run; arrays are of equal length, in order of progress, NaN where nothing was logged.

    Attributes:
        run_id: Its name.
        config: Its hyperparameters.
        step: Optimizer steps.
        progress: In the study's unit (samples where known, else steps).
        seconds: Time since the run's start, at each row; only ratios matter.
        loss: Training loss.
        grad_norm: Gradient norm.
        metric: The objective on held-out data.
        final: The objective the run ended with; NaN when it diverged.
        bad_row: First row at which the run was no longer finite, or None.
    """

    run_id: str
    config: dict[str, Any]
    step: Floats
    progress: Floats
    seconds: Floats
    loss: Floats
    grad_norm: Floats
    metric: Floats
    final: float
    bad_row: int | None = None
    blocks: dict[int, dict[int, tuple[float, float]]] = field(default_factory=dict)
    data_order: str | None = None
    warmup_steps: int = 0

    @property
    def cost(self) -> float:
        """Seconds of the whole run."""
        return float(self.seconds[-1])

    @cached_property
    def observations(self) -> list[Observation]:
        """Its rows as observations."""
        columns = zip(
            self.step.tolist(),
            self.progress.tolist(),
            self.loss.tolist(),
            self.grad_norm.tolist(),
            self.metric.tolist(),
            strict=True,
        )
        return [Observation(int(s), p, lo, g, m) for s, p, lo, g, m in columns]

    def report(self, start: int, stop: int) -> Report:
        """Rows ``start`` to ``stop`` (not included) as one report."""
        bad = None
        if self.bad_row is not None and start <= self.bad_row < stop:
            bad = f"a value is not finite at step {int(self.step[self.bad_row])}"
        blocks: dict[int, tuple[float, float]] = {}
        for row in range(start, stop) if self.blocks else ():
            blocks.update(self.blocks.get(row, {}))
        return Report(self.observations[start:stop], blocks, self.data_order, self.warmup_steps, bad)


@dataclass(frozen=True)
class Study:
    """Runs that may be compared.

    Attributes:
        name: The study's name.
        source: Where it comes from.
        mode: ``min`` or ``max``: which way the objective is good.
        budget: A full run, in units of ``progress``.
        runs: Two or more.
        left_out: Runs of the source whose end is not known: they cannot be replayed.
    """

    name: str
    source: str
    mode: Literal["min", "max"]
    budget: float
    runs: Sequence[Run]
    left_out: int = 0

    @cached_property
    def values(self) -> Floats:
        """Final objectives, larger is better; a diverged run is worst of all."""
        sign = 1.0 if self.mode == "max" else -1.0
        finals = np.array([sign * r.final for r in self.runs], dtype=float)
        return np.where(np.isfinite(finals), finals, -math.inf)

    def report_points(self, run: Run, marks: Sequence[float], every: float = 0.05) -> list[int]:
        """Rows (as one past their index) at which the run reports: at each mark and each ``every`` of the budget.

        Args:
            run: One of the study's runs.
            marks: Progress values that must not be stepped over.
            every: Share of the budget between reports.
        """
        grid = np.union1d(np.arange(every, 1.0, every) * self.budget, np.asarray(marks, dtype=float))
        ends = np.searchsorted(run.progress, grid - 1e-9 * self.budget, side="left") + 1
        return sorted({int(e) for e in ends if e < len(run.progress)} | {len(run.progress)})

    def subset(self, picked: Sequence[int]) -> Study:
        """The study of these runs only; the budget stays."""
        return Study(self.name, self.source, self.mode, self.budget, [self.runs[i] for i in picked])

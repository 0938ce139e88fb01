"""Recorded runs as a replay needs them: `Run`, the `Study` whose runs may be compared, and all `Curves` of a source."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal, overload

import numpy as np
from numpy.typing import NDArray

from sweepft.early_stopping import Observation, Report, Rung

Floats = NDArray[np.float64]
Mode = Literal["min", "max"]


@dataclass(frozen=True)
class Run:
    """One recorded run; arrays are of equal length, in order of progress, NaN where nothing was logged.

    Attributes:
        run_id: Its name.
        params: Its hyperparameters.
        step: Optimizer steps.
        progress: In the study's unit (samples where known, else steps).
        seconds: Time since the run's start, at each row; only ratios matter.
        loss: Training loss.
        grad_norm: Gradient norm.
        metric: The objective on validation data.
        final: The result by which runs are compared, e.g. on test data; NaN when it diverged.
        bad_row: First row from which on the loss was no longer finite, or None.
        blocks: By row, training loss and target tokens of the blocks of the sample order completed there.
        data_order: Digest of the sample order.
        warmup_steps: Its warmup.
        params_known: Whether ``params`` has all hyperparameters, so that runs with equal ones are repeats.
    """

    run_id: str
    params: dict[str, Any]
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
    params_known: bool = True

    @property
    def cost(self) -> float:
        """Seconds of the whole run."""
        return float(self.seconds[-1])

    @cached_property
    def last_metric(self) -> float:
        """What a live sweep knows when the run ends: the last objective on validation data; ``final`` without any."""
        seen = self.metric[np.isfinite(self.metric)]
        return float(seen[-1]) if len(seen) else self.final

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
        runs: Those with a known result.
        omitted: Runs of the source without a known result, which cannot be replayed: reason -> number.
    """

    name: str
    source: str
    mode: Mode
    budget: float
    runs: Sequence[Run]
    omitted: Mapping[str, int] = field(default_factory=dict)

    @property
    def left_out(self) -> int:
        """Number of runs without a known result."""
        return sum(self.omitted.values())

    @property
    def known_ends(self) -> int:
        """Number of runs with a finite result."""
        return int(np.isfinite(self.values).sum())

    @cached_property
    def values(self) -> Floats:
        """Final objectives, larger is better; a diverged run is worst of all."""
        sign = 1.0 if self.mode == "max" else -1.0
        finals = np.array([sign * r.final for r in self.runs], dtype=float)
        return np.where(np.isfinite(finals), finals, -math.inf)

    def report_points(self, run: Run, rungs: Sequence[Rung] = (), every: float = 0.05) -> list[int]:
        """Rows (as one past their index) at which the run reports: at each rung and each ``every`` of the budget.

        Args:
            run: One of the study's runs.
            rungs: Of a fraction of the budget or a number of samples; those in steps are left out.
            every: Share of the budget between reports.
        """
        fractions = [Rung("fraction", f) for f in np.arange(every, 1.0, every).tolist()]
        at = [r.threshold(self.budget) for r in (*fractions, *rungs) if r.kind != "steps"]
        ends = np.searchsorted(run.progress, np.unique(at), side="left") + 1
        return sorted({int(e) for e in ends if e < len(run.progress)} | {len(run.progress)})

    def sample(self, runs: int, seed: int) -> Study:
        """The study of so many of its runs, in a random order; the budget stays."""
        picked = np.random.default_rng(seed).permutation(len(self.runs))[:runs].tolist()
        return replace(self, runs=[self.runs[i] for i in picked])


@dataclass(frozen=True)
class Curves(Sequence[Study]):
    """The studies of a source, and the account of what was read and left out.

    Attributes:
        source: The path.
        kind: Of source, e.g. ``Ray Tune results``.
        studies: Those with two runs or more.
        objective: Name of the objective in the source.
        direction: Which way it is good, and how that is known.
        budget: A full run, and how that is known.
        omitted: Runs left out in all studies: reason -> number.
    """

    source: str
    kind: str
    studies: tuple[Study, ...]
    objective: str
    direction: str
    budget: str
    omitted: Mapping[str, int] = field(default_factory=dict)

    @overload
    def __getitem__(self, index: int) -> Study: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Study]: ...
    def __getitem__(self, index: int | slice) -> Study | Sequence[Study]:
        return self.studies[index]

    def __len__(self) -> int:
        return len(self.studies)

    def __iter__(self) -> Iterator[Study]:
        return iter(self.studies)

    def describe(self) -> str:
        """One line: how many runs ended, diverged and were left out, why, and what they are compared by."""
        kept = [run for study in self.studies for run in study.runs]
        ended, out = sum(math.isfinite(r.final) for r in kept), sum(self.omitted.values())
        studies = f" in {len(self.studies)} studies" if len(self.studies) > 1 else ""
        line = f"{self.source}: {self.kind}, {len(kept) + out} runs{studies}: {ended} ended, "
        line += f"{len(kept) - ended} diverged, {out} left out"
        line += f" ({count_reasons(self.omitted)})" if out else ""
        return f"{line}; objective {self.objective}, {self.direction}; budget {self.budget}"


def count_reasons(reasons: Mapping[str, int]) -> str:
    """``3 cut short, 1 without an objective``, the most frequent first."""
    return ", ".join(f"{n} {reason}" for reason, n in Counter(reasons).most_common())

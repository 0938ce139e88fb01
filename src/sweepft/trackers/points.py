"""What a ledger row holds for a tracker: the numbers of one optimizer step, by samples and wall time."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sweepft.ledger import Row, SweepState, TrialState

_TRAIN: Final = ("loss", "grad_norm", "lr")


@dataclass(frozen=True)
class Point:
    """Numbers of one trial at one optimizer step.

    Attributes:
        step: Optimizer steps done.
        samples: Training samples seen, the x axis.
        time: Unix seconds.
        values: By tag: ``train/loss``, ``train/grad_norm``, ``train/lr``; ``validation/SET``, ``validation/objective``.
        validation: Whether it is an evaluation rather than a training step.
    """

    step: int
    samples: int
    time: float
    values: dict[str, float]
    validation: bool = False


def step_points(row: Row) -> list[Point]:
    """One point for every optimizer step of a `steps` row; the row's time is that of the last."""
    return _points(row["history"], row["time"])


def eval_point(row: Row) -> Point:
    """The validation losses of an `eval` row."""
    values = {f"validation/{name}": float(found["loss"]) for name, found in row["sets"].items()}
    if row["objective"] is not None:
        values["validation/objective"] = float(row["objective"])
    return Point(int(row["step"]), int(row["samples_seen"]), row["time"], values, validation=True)


def points_of(trial: TrialState) -> list[Point]:
    """All points of a trial, in the order of its steps; an evaluation follows its step."""
    history = {key: values.tolist() for key, values in trial.history.items()}
    found = _points(history, trial.evals[-1]["time"] if trial.evals else trial.proposed)
    found += [eval_point(row) for row in trial.evals]
    return sorted(found, key=lambda point: (point.step, point.validation))


def sweep_id(sweep: SweepState) -> str:
    """Ten characters that identify a sweep."""
    header = sweep.header
    text = f"{header.get('name')}\n{header.get('spec_digest')}\n{header.get('time')}"
    return hashlib.sha256(text.encode()).hexdigest()[:10]


def flat(value: Any, key: str = "") -> dict[str, Any]:
    """Nested mappings as dotted keys; None is left out."""
    if isinstance(value, Mapping):
        return {
            k: v
            for name, part in value.items()
            for k, v in flat(part, f"{key}.{name}" if key else name).items()
        }
    return {} if value is None else {key: value}


def _points(history: Mapping[str, Sequence[float]], last: float) -> list[Point]:
    steps = history["step"]
    times = [last] * len(steps)
    for i in range(len(steps) - 1, 0, -1):
        seconds = history["seconds"][i]
        times[i - 1] = times[i] - (seconds if math.isfinite(seconds) else 0.0)
    columns = {key: history[key] for key in _TRAIN}
    return [
        Point(
            int(step), int(samples), at, {f"train/{key}": float(values[i]) for key, values in columns.items()}
        )
        for i, (step, samples, at) in enumerate(zip(steps, history["samples_seen"], times, strict=True))
    ]

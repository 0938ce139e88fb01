"""From a Tune result to a report for the referee.

Two shapes are read: plain results with scalars under the caller's keys, one a step or epoch; and sweepft's
own, whose ``history`` carries every step since the last result (Ray flattens it to ``history/loss``, ...).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sweepft.rules import Report, make_report

__all__ = ["ResultReader"]


@dataclass(frozen=True)
class ResultReader:
    """Which result keys hold what. Any of them may be absent from a result.

    Attributes:
        metric: The objective.
        loss: Training loss.
        grad_norm: Gradient norm.
        time_attr: A counter that grows: the progress of a trial.
        step_attr: Optimizer steps; Ray's ``training_iteration`` stands in when absent.
    """

    metric: str
    loss: str
    grad_norm: str
    time_attr: str
    step_attr: str

    def read(self, result: Mapping[str, Any]) -> Report | None:
        """The report a result holds; None when it tells no progress at all."""
        history = {k: _nested(result, "history", k) for k in ("step", "samples_seen", "loss", "grad_norm")}
        last = result.get(self.time_attr)
        progress = _nested(result, "history", self.time_attr)
        columns: dict[str, Sequence[Any]]
        if progress and history["step"]:
            columns = {"step": history["step"], "progress": progress}
            for name, key in (("loss", self.loss), ("grad_norm", self.grad_norm)):
                values = _nested(result, "history", key)
                if values:
                    columns[name] = values
        elif last is not None:
            step = result.get(self.step_attr, result.get("training_iteration", 0))
            columns = {"step": [step], "progress": [last]}
            columns["loss"] = [result.get(self.loss)]
            columns["grad_norm"] = [result.get(self.grad_norm)]
        else:
            return None
        return make_report(
            **columns,
            metric=result.get(self.metric),
            blocks=_blocks(result),
            data_order=result.get("data_order"),
            warmup_steps=int(result.get("warmup_steps") or 0),
            diverged=result.get("diverged") or None,
        )


def _nested(result: Mapping[str, Any], outer: str, inner: str) -> Any:
    nested = result.get(outer)
    return nested.get(inner) if isinstance(nested, Mapping) else result.get(f"{outer}/{inner}")


def _blocks(result: Mapping[str, Any]) -> dict[int, tuple[float, float]]:
    index, loss, tokens = (_nested(result, "blocks", k) or [] for k in ("index", "loss", "tokens"))
    return {int(i): (float(x), float(t)) for i, x, t in zip(index, loss, tokens, strict=True)}

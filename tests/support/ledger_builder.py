"""Builds the ledger of a made-up sweep, row by row, in memory or in a run folder.

    sweep = LedgerBuilder(budget_samples=100)  # 10 samples a step: a trial has 10 steps
    sweep.completed("t0", 1.5).completed("t1", 1.7)
    sweep.trial("t2").result("t2", 5, objective=3.0).decision("t2", "stop").end("t2", "stopped")
    sweep.finish().state()

Every method writes one row (or the rows of one result) with sensible defaults, takes the row's fields by name to
change them, and returns the builder. Rows are exactly what a reader of the file gets.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Self

from sweepft.ledger import Ledger, Row, SweepState, ledger_path
from sweepft.ledger.codec import decode_row, encode_row, plain
from sweepft.ledger.rows import complete_fields

HEADER: dict[str, Any] = {
    "name": "sweep",
    "spec": {},
    "spec_digest": "digest",
    "seed": 0,
    "budget_samples": 100,
    "sweepft_version": "0",
}
TRAIN_CONFIG: dict[str, Any] = {"batch_size": 10, "learning_rate": 1e-3, "schedule": "cosine"}


class LedgerBuilder:
    """The ledger of a sweep in the making.

    Args:
        run_dir: The run folder to write into, by `sweepft.ledger.Ledger`; None keeps the rows in memory only.
        samples_per_step, tokens_per_step: Of every trial.
        time: Unix seconds of the first row.
        tick: Seconds between two rows; 0 where a test moves the time itself with `at` and `wait`.
        clock: Gives the time of each row instead.
        header: Fields of the ``sweep`` row that differ from `HEADER`.

    Attributes:
        rows: All rows, as a reader gets them; ``row`` is the last one.
        now: Unix seconds of the next row.
        last_step: Steps reported, by trial.
    """

    def __init__(
        self,
        run_dir: Path | None = None,
        *,
        samples_per_step: int = 10,
        tokens_per_step: int = 100,
        time: float = 1000.0,
        tick: float = 1.0,
        clock: Callable[[], float] | None = None,
        **header: Any,
    ) -> None:
        self.rows: list[Row] = []
        self.now = time
        self.last_step: dict[str, int] = {}
        self._tick = tick
        self._clock = clock or (lambda: self.now)
        self._batch, self._tokens = samples_per_step, tokens_per_step
        self._attempts: dict[str, int] = {}
        self._header = {**HEADER, **header}
        self.ledger = None if run_dir is None else Ledger.create(run_dir, clock=self._clock)
        self.sweep()

    @property
    def row(self) -> Row:
        """The row written last."""
        return self.rows[-1]

    def state(self) -> SweepState:
        """The rows, folded."""
        return SweepState.from_rows(self.rows)

    def save(self, run_dir: Path) -> Path:
        """Write rows kept in memory as the ledger of a run folder, without a sync of each row. Returns the folder."""
        path = ledger_path(run_dir)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"".join(encode_row(plain(row)) for row in self.rows))
        return run_dir

    def close(self) -> Self:
        """Close the file, as a driver does at its end."""
        if self.ledger is not None:
            self.ledger.close()
        return self

    def at(self, time: float) -> Self:
        """Set the time of the next row."""
        self.now = time
        return self

    def wait(self, seconds: float) -> Self:
        """Let time pass."""
        return self.at(self.now + seconds)

    def write(self, kind: str, **fields: Any) -> Self:
        """Write any row."""
        if self.ledger is not None:
            row = self.ledger.append(kind, **fields)
        else:
            body = {name: plain(value, name) for name, value in complete_fields(kind, fields).items()}
            line = encode_row({"seq": len(self.rows), "time": self._clock(), "kind": kind, **body})
            row = decode_row(line[:-1])
        self.rows.append(row)
        self.now += self._tick
        return self

    def sweep(self, **changes: Any) -> Self:
        """The ``sweep`` row: the first one, or that of a resume."""
        return self.write("sweep", **{**self._header, "resumed": bool(self.rows), **changes})

    def trial(self, trial_id: str = "t000", *, start: bool = True, **fields: Any) -> Self:
        """A trial is proposed, and starts unless ``start`` is False. ``params`` are its swept values."""
        params = fields.pop("params", {"learning_rate": 1e-3})
        defaults = {
            "number": len(self.last_step),
            "params": params,
            "train_config": {**TRAIN_CONFIG, **params},
            "origin": "replicate" if fields.get("replicate_of") else "sampler",
            "planned_steps": self._header["budget_samples"] // self._batch,
            "warmup_steps": 0,
        }
        self.last_step[trial_id] = 0
        self.write("trial", trial_id=trial_id, **{**defaults, **fields})
        return self.start(trial_id) if start else self

    def start(self, trial_id: str = "t000", **fields: Any) -> Self:
        """An attempt begins, by default from the last step reported."""
        attempt = self._attempts.get(trial_id, 0) + 1
        defaults = {"attempt": attempt, "slot": 0, "from_step": self.last_step.get(trial_id, 0)}
        defaults |= fields
        self._attempts[trial_id] = defaults["attempt"]
        self.last_step[trial_id] = defaults["from_step"]
        return self.write("start", trial_id=trial_id, **defaults)

    def steps(self, trial_id: str, last: int, *, first: int | None = None, **fields: Any) -> Self:
        """Steps from ``first`` (default: the next one) to ``last``.

        ``loss``, ``grad_norm``, ``lr`` and ``seconds`` are a number for all steps, a list, or None to leave the column
        out; other fields are the row's.
        """
        first = self.last_step.get(trial_id, 0) + 1 if first is None else first
        numbers = range(first, last + 1)
        history: dict[str, Any] = {
            "step": list(numbers),
            "samples_seen": [n * self._batch for n in numbers],
            "tokens_seen": [n * self._tokens for n in numbers],
        }
        for name, default in {"loss": 1.0, "grad_norm": 1.0, "lr": 1e-3, "seconds": 0.1}.items():
            value = fields.pop(name, default)
            if value is not None:
                history[name] = list(value) if isinstance(value, Sequence) else [value] * len(numbers)
        self.last_step[trial_id] = last
        return self.write("steps", **{**self._attempt(trial_id), "history": history, **fields})

    def eval(self, trial_id: str, objective: float | None, **fields: Any) -> Self:
        """Validation losses, by default at the last step; ``rung`` is the share of the budget there."""
        step = fields.get("step", self.last_step.get(trial_id, 0))
        share = step * self._batch / self._header["budget_samples"]
        defaults = {
            **self._position(step),
            "rung": share,
            "final": share >= 1,
            "objective": objective,
            "sets": {"math": {"loss": objective, "stderr": 0.01, "tokens": 1000, "samples": 10}},
        }
        return self.write("eval", **{**self._attempt(trial_id), **defaults, **fields})

    def result(self, trial_id: str, last: int, objective: float | None = None, **fields: Any) -> Self:
        """One whole result: steps, an evaluation where ``objective`` is given, and the cost row that closes it."""
        self.steps(trial_id, last, **fields)
        if objective is not None:
            self.eval(trial_id, objective)
        return self.cost(trial_id)

    def decision(self, trial_id: str, action: str, **fields: Any) -> Self:
        """What the rule decides at the last step."""
        step = fields.get("step", self.last_step.get(trial_id, 0))
        defaults = {
            **self._position(step),
            "rung": step * self._batch / self._header["budget_samples"],
            "action": action,
            "rule": "median",
            "reason": action,
        }
        return self.write("decision", **{"trial_id": trial_id, **defaults, **fields})

    def cost(self, trial_id: str | None, phase: str = "train", seconds: float = 1.0, **fields: Any) -> Self:
        """Seconds of a slot; of no trial with None."""
        return self.write(
            "cost", **{"trial_id": trial_id, "slot": 0, "phase": phase, "seconds": seconds, **fields}
        )

    def fault(self, trial_id: str | None, action: str = "tried again", **fields: Any) -> Self:
        """Something broke."""
        defaults = {"slot": 0, "rank": 0, "error": "RankFailed", "message": "rank 0 died", "action": action}
        return self.write("fault", **{"trial_id": trial_id, **defaults, **fields})

    def end(
        self, trial_id: str, status: str = "completed", objective: float | None = None, **fields: Any
    ) -> Self:
        """A trial ends at the last step reported."""
        step = fields.get("step", self.last_step.get(trial_id, 0))
        defaults = {
            **self._position(step),
            "tokens_seen": step * self._tokens,
            "status": status,
            "reason": None,
            "objective": objective,
        }
        return self.write("end", **{**self._attempt(trial_id), **defaults, **fields})

    def completed(self, trial_id: str, objective: float | None, **fields: Any) -> Self:
        """A trial from its proposal to its end at full budget; ``fields`` are those of its ``trial`` row."""
        last = self._header["budget_samples"] // self._batch
        self.trial(trial_id, **fields).result(trial_id, last, objective)
        return self.end(trial_id, "completed", objective)

    def command(self, command: str, trial_id: str | None = None, **fields: Any) -> Self:
        """A person's command, accepted by default; its ``arguments`` are a field."""
        defaults = {
            "command_id": f"c{len(self.rows)}",
            "command": command,
            "trial_id": trial_id,
            "arguments": {},
            "who": "ann@desk",
            "asked": self.now,
            "accepted": True,
            "answer": "done",
        }
        return self.write("command", **{**defaults, **fields})

    def finalists(self, *trial_ids: str, **fields: Any) -> Self:
        """The search is over; these trials are to be scored, by default on the task ``maths``."""
        defaults = {
            "chosen": [{"trial_id": trial_id, "why": "top"} for trial_id in trial_ids],
            "items": [{"what": "task", "name": "maths", "digest": "d-maths"}],
            "rank_by": {"maths": 1.0},
        }
        return self.write("finalists", **{**defaults, **fields})

    def score(
        self,
        trial_id: str | None,
        name: str = "maths",
        metrics: dict[str, float | tuple[float, float | None]] | None = None,
        **fields: Any,
    ) -> Self:
        """Scores of a trial, or of the base model (None). A metric is a value, or a value with its standard error.

        A metric named ``loss`` is better when lower, any other when higher. ``what`` is ``task`` by default.
        """
        found = {}
        for metric, given in (metrics or {}).items():
            value, stderr = given if isinstance(given, tuple) else (given, 0.02)
            found[metric] = {"value": value, "stderr": stderr, "higher_is_better": metric != "loss"}
        defaults = {"what": "task", "name": name, "digest": f"d-{name}", "metrics": found}
        return self.write("score", **{"trial_id": trial_id, **defaults, **fields})

    def finish(self, status: str = "finished", reason: str | None = None) -> Self:
        """The driver is done."""
        return self.write("finish", status=status, reason=reason)

    def _attempt(self, trial_id: str) -> dict[str, Any]:
        return {"trial_id": trial_id, "attempt": self._attempts.get(trial_id, 1)}

    def _position(self, step: int) -> dict[str, Any]:
        return {"step": step, "samples_seen": step * self._batch}

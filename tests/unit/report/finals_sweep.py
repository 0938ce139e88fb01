"""A small sweep with scored finalists: two trials, one of them with three replicates."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sweepft.ledger import Ledger

SPEC = {
    "data": {
        "validation": [{"name": "math", "weight": 1.0}, {"name": "general", "weight": 0.0}],
        "test": [{"name": "test_set", "path": "test.jsonl"}],
    },
    "search": {"space": {"learning_rate": {"log_uniform": [1e-4, 1e-2]}}},
}
PARTS = [
    {"what": "test", "name": "test_set", "digest": "s"},
    {"what": "validation", "name": "general", "digest": "g"},
    {"what": "task", "name": "maths", "digest": "m"},
]


def finals_sweep(
    run: Path,
    *,
    scored: bool = True,
    rank_by: dict[str, float] | None = None,
    chosen: tuple[str, ...] = ("t0", "t1"),
    broken: str = "",
) -> Path:
    """Write its ledger; without ``scored`` the evaluation jobs have not begun."""
    with Ledger.create(run) as ledger:
        tell = ledger.append
        tell(
            "sweep", name="finals", spec=SPEC, spec_digest="", seed=0, budget_samples=100, sweepft_version="0"
        )
        for i, loss in enumerate((1.0, 1.05, 1.4)):
            _trial(tell, f"t{i}", i, loss)
        entries = [{"trial_id": t, "why": "top" if t == "t0" else "random"} for t in chosen]
        tell("finalists", chosen=entries, items=PARTS, rank_by=rank_by or {"maths.acc": 1.0})
        if not scored:
            return run
        for i, loss in enumerate((1.02, 1.08, 1.04)):
            _trial(tell, f"t0-seed{i + 1}", 0, loss, replicate_of="t0")
        accuracies = {
            None: 0.10,
            "t0": 0.42,
            "t1": 0.31,
            "t0-seed1": 0.40,
            "t0-seed2": 0.36,
            "t0-seed3": 0.41,
        }
        for trial, accuracy in accuracies.items():
            if trial == broken:
                for part in (PARTS[0], PARTS[2]):
                    tell("score", trial_id=trial, **part, metrics={}, reason="the rank died")
                continue
            _score(tell, trial, "test", "test_set", "s", loss=(2.0 - accuracy, 0.03))
            found = {"acc": (accuracy, 0.02), "acc_norm": (accuracy / 2, 0.02)}
            _score(tell, trial, "task", "maths", "m", **found)
        _score(tell, None, "validation", "general", "g", loss=(1.9, 0.05))
        tell("finish", status="finished")
    return run


def _trial(tell: Any, name: str, number: int, loss: float, replicate_of: str | None = None) -> None:
    settings = {"learning_rate": 1e-3 * (1 + number)}
    tell("trial", trial_id=name, number=number, params=settings, train_config={**settings, "seed": 0}, planned_steps=10,
         origin="replicate" if replicate_of else "sampler", warmup_steps=0, replicate_of=replicate_of)  # fmt: skip
    tell("start", trial_id=name, attempt=1, slot=0)
    steps = list(range(1, 11))
    history = {"step": steps, "samples_seen": [10 * s for s in steps], "tokens_seen": [50 * s for s in steps]}
    history |= {
        "loss": [3.0 - s / 10 for s in steps],
        "grad_norm": [1.0] * 10,
        "lr": [1e-3] * 10,
        "seconds": [0.1] * 10,
    }
    tell("steps", trial_id=name, attempt=1, history=history)
    sets = {"math": {"loss": loss, "stderr": 0.01}, "general": {"loss": 2.1, "stderr": 0.05}}
    tell(
        "eval",
        trial_id=name,
        attempt=1,
        step=10,
        samples_seen=100,
        rung=1.0,
        final=True,
        objective=loss,
        sets=sets,
    )
    tell("cost", trial_id=name, slot=0, phase="train", seconds=1.0)
    tell("end", trial_id=name, attempt=1, status="completed", reason=None, objective=loss, step=10, samples_seen=100,
         tokens_seen=500)  # fmt: skip


def _score(
    tell: Any, trial: str | None, what: str, name: str, digest: str, **metrics: tuple[float, float]
) -> None:
    found = {
        metric: {"value": value, "stderr": stderr, "higher_is_better": metric != "loss"}
        for metric, (value, stderr) in metrics.items()
    }
    tell(
        "score",
        trial_id=trial,
        what=what,
        name=name,
        digest=digest,
        metrics=found,
        items=100,
        seconds=2.0,
        slot=0,
    )

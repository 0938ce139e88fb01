"""A small sweep with scored finalists: two trials, one of them with three replicates."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from support.ledger_builder import LedgerBuilder

SPEC = {
    "data": {
        "validation": [{"name": "math", "weight": 1.0}, {"name": "general", "weight": 0.0}],
        "test": [{"name": "test_set", "path": "test.jsonl"}],
    },
    "search": {"space": {"learning_rate": {"log_uniform": [1e-4, 1e-2]}}},
}
PARTS: list[dict[str, Any]] = [
    {"what": "test", "name": "test_set", "digest": "s"},
    {"what": "validation", "name": "general", "digest": "g"},
    {"what": "task", "name": "maths", "digest": "m"},
]
COSTS = {"items": 100, "seconds": 2.0, "slot": 0}


def finals_sweep(
    run: Path,
    *,
    scored: bool = True,
    rank_by: dict[str, float] | None = None,
    chosen: tuple[str, ...] = ("t0", "t1"),
    broken: str = "",
) -> Path:
    """Write its ledger; without ``scored`` the evaluation jobs have not begun."""
    sweep = LedgerBuilder(run, tokens_per_step=50, name="finals", spec=SPEC)
    for i, loss in enumerate((1.0, 1.05, 1.4)):
        _trial(sweep, f"t{i}", i, loss)
    entries = [{"trial_id": t, "why": "top" if t == "t0" else "random"} for t in chosen]
    sweep.finalists(chosen=entries, items=PARTS, rank_by=rank_by or {"maths.acc": 1.0})
    if not scored:
        sweep.close()
        return run
    for i, loss in enumerate((1.02, 1.08, 1.04)):
        _trial(sweep, f"t0-seed{i + 1}", 0, loss, replicate_of="t0")
    accuracies = {None: 0.10, "t0": 0.42, "t1": 0.31, "t0-seed1": 0.40, "t0-seed2": 0.36, "t0-seed3": 0.41}
    for trial, accuracy in accuracies.items():
        if trial == broken:
            for part in (PARTS[0], PARTS[2]):
                sweep.score(trial, **part, reason="the rank died")
            continue
        sweep.score(trial, metrics={"loss": (2.0 - accuracy, 0.03)}, **PARTS[0], **COSTS)
        scores = {"acc": (accuracy, 0.02), "acc_norm": (accuracy / 2, 0.02)}
        sweep.score(trial, metrics=scores, **PARTS[2], **COSTS)
    sweep.score(None, metrics={"loss": (1.9, 0.05)}, **PARTS[1], **COSTS)
    sweep.finish().close()
    return run


def _trial(
    sweep: LedgerBuilder, name: str, number: int, loss: float, replicate_of: str | None = None
) -> None:
    params = {"learning_rate": 1e-3 * (1 + number)}
    config = {**params, "seed": 0}
    sweep.trial(name, number=number, params=params, train_config=config, replicate_of=replicate_of)
    sweep.steps(name, 10, loss=[3.0 - s / 10 for s in range(1, 11)])
    sweep.eval(
        name, loss, sets={"math": {"loss": loss, "stderr": 0.01}, "general": {"loss": 2.1, "stderr": 0.05}}
    )
    sweep.cost(name).end(name, "completed", loss)

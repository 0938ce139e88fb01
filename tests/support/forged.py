"""Forged ledgers: rows with right checksums, in which somebody has changed values, names and order."""

from __future__ import annotations

import copy
from pathlib import Path
from random import Random
from typing import Any

from support.ledger_builder import LedgerBuilder
from sweepft.ledger import ledger_path
from sweepft.ledger.codec import encode_row

VALUES: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2, 7, 0.5, -0.5, 1e308, -1e308, 2**31, 2**53, 2**63, 10**30, 1e15, 1e-300,
    "", "x", "nan", "inf", "-inf", "../x", "t000", "t001", "\x1b]0;P\x07", "[link=https://x]y[/link]", "a" * 5000, "\ud800",
    "=cmd|' /C calc'!A0", "<img src=x onerror=1>", "\u202e", "completed", "stop", "pause", "clone", "extend", "objective",
    [], {}, [None], [[]], [0], ["x"], {"": None}, {"trials": 10**9}, {"a": {"b": []}}, [1, 2, 3], [3, 2, 1], {"loss": None},
    {"value": 1e308, "stderr": None, "higher_is_better": True}, {"params": {"learning_rate": "x"}}, {"step": [1]},
)  # fmt: skip
KINDS = ("sweep", "trial", "start", "steps", "eval", "decision", "end", "cost", "fault", "enough", "finalists", "score",
         "command", "finish", "unknown")  # fmt: skip


def rows() -> list[dict[str, Any]]:
    """A sweep in which everything happens."""
    sweep = LedgerBuilder(
        spec={
            "search": {"trials": 4, "enough": {"gain": 0.002, "min_trials": 2}, "space": {"learning_rate": {"log_uniform": [1e-5, 1e-2]}}},
            "early_stop": {"rule": "calibrated", "rungs": [0.25, 0.5], "audit": 0.1, "top_fraction": 0.25},
            "resources": {"concurrent_trials": 2, "price_per_gpu_hour": 2.0},
            "data": {"validation": [{"name": "own", "weight": 1.0}, {"name": "other", "weight": 0.0}], "test": []},
        },
        hardware={"host": "h", "cpus": 4}, versions={"torch": "2"}, data={"train": {"rows": 10}},
    )  # fmt: skip
    sweep.completed("t000", 1.5).completed("t001", 1.7)
    sweep.trial("t002").result("t002", 5, objective=3.0).decision("t002", "stop").end("t002", "stopped")
    sweep.trial("t003").result("t003", 3, objective=2.0).decision("t003", "pause").start("t003")
    sweep.write(
        "fault", trial_id="t003", slot=0, rank=1, error="RankDied", message="gone", action="tried again"
    )
    sweep.write(
        "command", command_id="c", command="extend", trial_id=None, arguments={"trials": 5}, who="u@h", asked=1.0,
        accepted=True, answer="ok",
    )  # fmt: skip
    sweep.write(
        "command", command_id="d", command="clone", trial_id="t000", arguments={"params": {"learning_rate": 1e-3}},
        who="u@h", asked=1.0, accepted=True, answer="ok",
    )  # fmt: skip
    sweep.write("cost", trial_id=None, slot=0, phase="idle", seconds=3.0, gpus=0.0)
    sweep.end("t003", "failed", reason="lost")
    sweep.completed("t004", 1.4, replicate_of="t000")
    sweep.write("enough", completed=3, expected=0.001, gain=0.002, enough=True, left=1)
    sweep.write(
        "finalists", chosen=[{"trial_id": "t000", "why": "top"}, {"trial_id": "t001", "why": "random"}],
        items=[{"what": "task", "name": "gsm8k", "digest": "d"}, {"what": "validation", "name": "own", "digest": "d"}],
        rank_by={"gsm8k": 1.0},
    )  # fmt: skip
    for trial in (None, "t000", "t001", "t004"):
        metrics = {"exact_match": {"value": 0.5, "stderr": 0.01, "higher_is_better": True}}
        sweep.write("score", trial_id=trial, what="task", name="gsm8k", digest="d", metrics=metrics, items=10)
    return sweep.finish().sweep(changes={"search.trials": [4, 6]}).finish().rows


def forge(good: list[dict[str, Any]], random: Random) -> list[dict[str, Any]]:
    """One to three changes: another value anywhere, a field less or more, a row gone, doubled, moved or of another kind."""
    made = copy.deepcopy(good)
    for _ in range(random.choice((1, 1, 1, 2, 3))):
        at = random.randrange(len(made))
        what = random.random()
        if what < 0.7:
            _change(made[at], random)
        elif what < 0.76 and len(made) > 1:
            del made[at]
        elif what < 0.82:
            made.insert(at, copy.deepcopy(random.choice(made)))
        elif what < 0.88:
            made.insert(random.randrange(len(made)), made.pop(at))
        elif what < 0.93:
            made[at]["kind"] = random.choice(KINDS)
        else:
            del made[at:]
            made = made or [copy.deepcopy(good[0])]
    return [{**row, "seq": seq} for seq, row in enumerate(made)]


def _change(place: Any, random: Random) -> None:
    while True:
        keys = list(place) if isinstance(place, dict) else list(range(len(place)))
        if not keys:
            return
        key = random.choice(keys)
        if isinstance(place[key], dict | list) and place[key] and random.random() < 0.7:
            place = place[key]
            continue
        what = random.random()
        if isinstance(place, dict) and what < 0.15:
            del place[key]
        elif isinstance(place, dict) and what < 0.25:
            place[random.choice(("x", "learning_rate", "step", "loss", "", "\x1b"))] = copy.deepcopy(
                random.choice(VALUES)
            )
        else:
            place[key] = copy.deepcopy(random.choice(VALUES))
        return


def write(run: Path, made: list[dict[str, Any]]) -> Path:
    """The rows as the ledger of a run folder."""
    path = ledger_path(run)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"".join(encode_row(_written(row)) for row in made))
    return run


def _written(value: Any) -> Any:
    """NaN and infinity as a ledger writes them."""
    if isinstance(value, dict):
        return {k: _written(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_written(v) for v in value]
    return (
        ("nan" if value != value else "inf" if value > 0 else "-inf")
        if isinstance(value, float) and (value - value != 0)
        else value
    )

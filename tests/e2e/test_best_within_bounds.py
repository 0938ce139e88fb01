"""Real sweeps where a trial counts by its best evaluation, and a task is bounded: the best of those that meet it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from support.errors import raises
from support.sweeps import run_spec, write_spec
from sweepft.demo import make_demo
from sweepft.driver.start import resume_sweep
from sweepft.errors import SpecError
from sweepft.ledger import ranking, read_ledger, winner
from sweepft.search import STUDY_FILE, open_study

pytestmark = [pytest.mark.ray, pytest.mark.full]

METRIC = """\
def knows(answer: str, row: dict) -> float:
    return answer.strip() == row["messages"][-1]["content"].strip()
"""
ITEMS = 40
RUNGS = [0.125, 0.25, 0.5, 0.75]


def forgetting_spec(folder: Path, allowed: float, **sections: Any) -> Path:
    """At rates of 3e-3 and more the demo's model learns its new skills and forgets, in the course of a trial, most of the
    facts that it knew.
    """
    demo = make_demo(folder / "demo").parent
    (folder / "my_metrics.py").write_text(METRIC)
    facts = (demo / "demo-data" / "knowledge.jsonl").read_text().splitlines(keepends=True)
    (folder / "facts.jsonl").write_text("".join(facts[:ITEMS]))
    measured = {"data": "facts.jsonl", "metric": "my_metrics:knows", "max_tokens": 24, "batch_size": 20}
    given: dict[str, Any] = {
        "objective": {"minimize": "validation_loss", "at": "best", "measure": [measured], "max_share": 1.0},
        "train": {"budget": {"samples": 1024}, "micro_batch": 16, "precision": "fp32"},
        "search": {
            "trials": 3,
            "sampler": "tpe",
            "baseline": {"batch_size": 16, "learning_rate": 3.0e-3},
            "start_with": [{"batch_size": 32, "learning_rate": 1.0e-3}],
            "subject_to": {"facts": {"at_most": allowed, "below": "base"}},
            "space": {
                "batch_size": {"choice": [16, 32]},
                "learning_rate": {"log_uniform": [1.0e-4, 1.0e-2]},
            },
        },
        "early_stop": {"rule": "none", "rungs": RUNGS},
        "evaluate": {"finalists": {"top": 2}, "replicates": {"top": 1, "seeds": 1}},
        "resources": {"concurrent_trials": 1},
    }
    return write_spec(folder, demo / "demo-model", demo / "demo-data" / "skills.jsonl", **(given | sections))

"""A curriculum whose first phase the model knows and whose second one is new: the training loss rises, and no trial is
ended for it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from support.memorised import QUESTIONS, base_model, chat_rows, sweep_spec, trained
from support.sweeps import run_spec, write_spec

pytestmark = [pytest.mark.ray, pytest.mark.full]

NEW = ["zinc", "olive stone", "nine of them", "the last but one", "plum", "teal, then rust", "none", "mauve"]


def test_sweep__phase_of_new_rows_is_no_divergence(ray_here, tmp_path: Path) -> None:
    base = base_model(tmp_path / "base")
    known = trained(sweep_spec(base, chat_rows()), tmp_path / "known").folder
    rows = [{**row, "domain": "known"} for row in chat_rows() * 8]
    rows += [
        {
            "messages": [{"role": "user", "content": q.upper()}, {"role": "assistant", "content": a}],
            "domain": "new",
        }
        for q, a in zip(QUESTIONS * 8, NEW * 8, strict=True)
    ]
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    spec = write_spec(
        tmp_path,
        known,
        file,
        data={
            "train": [{"path": str(file), "domains": [name], "domain": name} for name in ("known", "new")],
            "validation": [{"name": "own", "fraction": 0.1}],
            "phases": [{"domains": ["known"], "share": 0.3}, {"domains": ["new"]}],
        },
        train={"budget": {"samples": 400}},
        search={
            "trials": 4, "sampler": "grid", "start_with": [],
            "space": {"batch_size": {"choice": [4]}, "data.strategy": {"choice": ["phased"]},
                      "learning_rate": {"choice": [1e-6, 1e-5, 3e-5, 1e-4]}},
        },
        early_stop={"rule": "none", "rungs": [0.25, 0.5]},
    )  # fmt: skip
    done = run_spec(spec, tmp_path / "run")
    assert {t.status for t in done.view.trials.values()} == {"completed"}
    for trial in done.view.trials.values():
        losses = trial.history["loss"]
        new = len(losses) * 3 // 10
        assert losses[new : new + 10].min() > losses[:3].max() + 1.0, "the case: the loss does rise"

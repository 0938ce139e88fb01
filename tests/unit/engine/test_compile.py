"""A compiled model trains to the losses of the plain one; its warm trials equal cold ones."""

from __future__ import annotations

from dataclasses import replace

import pytest

from support.engine_material import engine_plan, trial
from support.ranks import run_trials

pytestmark = pytest.mark.full
A = trial("A", batch_size=16, planned_steps=4, weight_decay=0.1)
B = trial("B", learning_rate=1e-2, gradient_checkpointing=True)


def numbers(result):
    return {
        "history": {k: v for k, v in result["history"].items() if k != "seconds"},
        "evals": [(e["objective"], e["sets"]) for e in result["evals"]],
    }


@pytest.mark.parametrize("packed", [False, True])
def test_compiled_trials(tiny_model_dir, tmp_path, packed):
    plan = engine_plan(tiny_model_dir, tmp_path, packed=packed, micro_batch=60 if packed else 4)
    compiled = replace(plan, compiled=True)
    first, other, again = run_trials(compiled, [A, B, A], 1)
    (plain,) = run_trials(plan, [A], 1)
    print(
        "WARM",
        [r["warm"] for r in (first, other, again)],
        "SECONDS",
        [r["history"]["seconds"] for r in (first, other, again, plain)],
    )
    print(first["history"]["loss"], again["history"]["loss"], plain["history"]["loss"])
    assert first["history"]["loss"] == pytest.approx(plain["history"]["loss"], abs=2e-5)
    assert numbers(again) == numbers(first)
    assert numbers(other) == numbers(run_trials(compiled, [B], 1)[0])

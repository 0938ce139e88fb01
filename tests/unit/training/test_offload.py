"""Offloading to main memory does not change results, and its warm trials equal cold ones bit for bit."""

from __future__ import annotations

from dataclasses import replace

import pytest

from support.engine_material import engine_config, train_config
from support.ranks import numbers, on_ranks, run_trials

A = train_config(batch_size=16, weight_decay=0.1, gradient_checkpointing=True)
B = train_config(learning_rate=1e-2, gradient_clipping=0.0, optimizer="adamw")
FULL = pytest.mark.full


@pytest.mark.parametrize(
    ("offload", "stage", "precision", "world_size"),
    [
        ("optimizer", 2, "fp32", 1),
        *(pytest.param("optimizer", s, p, 2, marks=FULL) for s in (1, 2, 3) for p in ("fp32", "bf16")),
        *(pytest.param("optimizer_and_parameters", 3, p, 2, marks=FULL) for p in ("fp32", "bf16")),
    ],
)  # fmt: skip
def test_offload__warm_equals_cold(tiny_dropout_model, tmp_path, offload, stage, precision, world_size):
    config = engine_config(tiny_dropout_model, tmp_path, zero_stage=stage, precision=precision, micro_batch=2)
    offloaded = replace(config, offload=offload)
    first, other, again = run_trials(offloaded, [A, B, A], world_size, chunks=2)
    assert [r["warm"] for r in (first, other, again)] == [False, True, True]
    assert numbers(again) == numbers(first)
    assert numbers(other) == numbers(run_trials(offloaded, [B], world_size, chunks=2)[0])
    (here,) = run_trials(config, [A], world_size, chunks=2)
    close = (
        1e-6 if precision == "fp32" else 2e-2
    )  # in bf16, micro-batches' gradients are added up in other places
    assert first["history"]["loss"] == pytest.approx(here["history"]["loss"], abs=close)
    assert first["history"]["grad_norm"] == pytest.approx(here["history"]["grad_norm"], rel=close * 10)


def saved_and_restored(runner, folder):
    runner.start(A)
    runner.run(32)
    runner.save(str(folder / "32"))
    runner.settle_checkpoint()
    rest = runner.run(64)["history"]["loss"]
    runner.start(B)
    runner.run(8)
    runner.start(A)
    runner.restore(str(folder / "32"))
    return rest, runner.run(64)["history"]["loss"]


@pytest.mark.full
@pytest.mark.parametrize(("offload", "stage"), [("optimizer", 2), ("optimizer_and_parameters", 3)])
def test_offload__restored_trial_is_bitwise_equal(tiny_dropout_model, tmp_path, offload, stage):
    config = engine_config(tiny_dropout_model, tmp_path, zero_stage=stage, offload=offload)
    rest, resumed = on_ranks(saved_and_restored, 2, config, tmp_path / "state")
    assert resumed == rest

"""Adapters: warm trials equal cold ones bit for bit, packed ones padded ones, and what is exported loads elsewhere."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from support.engine_material import engine_plan, trial
from support.ranks import on_ranks, run_trials
from sweepft.engine.plan import LoraPlan
from sweepft.engine.zero import ZeroEngine

pytest.importorskip("peft")
pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")

FOUR = LoraPlan(rank=4, alpha=8.0, dropout=0.1, target_modules="all-linear")
A = trial("A", batch_size=16, planned_steps=4, weight_decay=0.1, lora=FOUR, gradient_checkpointing=True)
B = trial("B", learning_rate=3e-2, schedule="constant", seed=3, lora=replace(FOUR, alpha=64.0, dropout=0.0))
C = trial("C", batch_size=32, planned_steps=2, lora=LoraPlan(8, 16.0, 0.05, ("q_proj", "v_proj")))


def numbers(result):
    return {
        "history": {k: v for k, v in result["history"].items() if k != "seconds"},
        "evals": [(e["objective"], e["sets"]) for e in result["evals"]],
    }


@pytest.mark.parametrize(
    ("stage", "precision", "world_size"),
    [
        (2, "fp32", 1),
        *(
            pytest.param(*case, marks=pytest.mark.full)
            for case in [
                (0, "fp32", 1),
                (0, "fp32", 2),
                (2, "fp32", 2),
                (1, "bf16", 2),
                (2, "bf16", 1),
                (3, "fp32", 2),
                (3, "bf16", 2),
            ]
        ),
    ],
)
def test_warm_equals_cold(tiny_dropout_model, tmp_path, stage, precision, world_size):
    plan = engine_plan(tiny_dropout_model, tmp_path, zero_stage=stage, precision=precision)
    first, other, again, ranked, last = run_trials(plan, [A, B, A, C, B], world_size, chunks=2)
    assert [r["warm"] for r in (first, other, again, ranked, last)] == [False, True, True, False, False]
    assert numbers(again) == numbers(first)
    assert numbers(last) == numbers(other), "the base model under the adapters has stayed what it was"
    assert numbers(first) != numbers(other)
    assert numbers(ranked) == numbers(run_trials(plan, [C], world_size, chunks=2)[0])


def frozen_and_file(runner):
    """Whether every frozen weight lies in the mapped file, also after a trial, and the file before and after it."""
    runner.start(A)
    path = next(Path(runner.plan.scratch).glob("base-*-frozen.safetensors"))
    before = path.read_bytes()
    runner.run(64)
    runner.start(C)
    mapped = [
        tuple(int(end, 16) for end in line.split()[0].split("-"))
        for line in Path("/proc/self/maps").read_text().splitlines()
        if path.name in line
    ]
    frozen = [p.data_ptr() for p in runner.zero.module.parameters() if not p.requires_grad]
    return [any(low <= at < high for low, high in mapped) for at in frozen], before == path.read_bytes()


@pytest.mark.skipif(not os.path.exists("/proc/self/maps"), reason="reads /proc")
def test_slots_on_a_cpu_map_one_copy_of_the_frozen_weights(tiny_dropout_model, tmp_path):
    inside, unchanged = on_ranks(
        frozen_and_file, 2, engine_plan(tiny_dropout_model, tmp_path, precision="bf16")
    )
    assert inside
    assert all(inside)
    assert unchanged


def packed_and_exported(runner, rows, packed, folder: Path):
    """The same trial padded and packed; the padded one's state and weights in ``folder``."""
    histories = []
    settings = replace(C, lora=replace(C.lora, dropout=0.0))
    for plan in (packed, rows):
        runner.plan, runner.zero = plan, ZeroEngine(plan, runner.device)
        runner.start(settings)
        histories.append((runner.run(64)["history"], runner.evaluate()["objective"]))
    (folder / "tokenizer").mkdir(parents=True, exist_ok=True)
    runner.export(str(folder / "weights"), str(folder / "tokenizer"))
    size = runner.save(str(folder / "state" / "64"))["bytes"]
    runner.start(settings)
    runner.restore(str(folder / "state" / "64"))
    return histories, size, runner.evaluate()["objective"]


@pytest.mark.parametrize(("world_size", "stage"), [(1, 2), pytest.param(2, 2, marks=pytest.mark.full),
                                                   pytest.param(2, 3, marks=pytest.mark.full)])  # fmt: skip
def test_packed_equals_padded_and_the_export_loads_in_peft(tiny_model_dir, tmp_path, world_size, stage):
    rows = engine_plan(tiny_model_dir, tmp_path, zero_stage=stage)
    packed = replace(rows, packed=True, micro_batch=60)
    (ours, theirs), size, restored = on_ranks(packed_and_exported, world_size, rows, rows, packed, tmp_path)
    assert ours[0]["loss"] == pytest.approx(theirs[0]["loss"], abs=2e-5)
    assert ours[0]["grad_norm"] == pytest.approx(theirs[0]["grad_norm"], abs=2e-5)
    assert ours[1] == pytest.approx(theirs[1], abs=2e-5)
    assert size < 200_000, "a saved state holds the adapter only"
    assert restored == theirs[1]

    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "weights")
    base = AutoModelForCausalLM.from_pretrained(tiny_model_dir)
    ids = torch.from_numpy(np.random.default_rng(0).integers(4, 300, (2, 12)))
    with torch.no_grad():
        before = base(ids).logits
        adapted = PeftModel.from_pretrained(base, tmp_path / "weights" / "adapter")
        assert (adapted(ids).logits - before).abs().max() > 1e-4, "something was learned"
        torch.testing.assert_close(merged(ids).logits, adapted(ids).logits, atol=1e-5, rtol=0)

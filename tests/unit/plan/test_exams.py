"""Time and memory of scoring the finalists, with figures computed by hand."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from support.planning import shape_3b, spec_to_plan
from sweepft.plan.estimate import Flags, SweepPlan, make_plan
from sweepft.plan.exams import TASKS, Exams
from sweepft.plan.show import show_plan

FOUR = {"workers_per_trial": 4, "gpus_per_worker": 1, "concurrent_trials": 2}
GSM8K: dict[str, Any] = {"tasks": [{"name": "gsm8k", "limit": 400}]}


def planned(flags: Flags | None = None, **sections: Any) -> SweepPlan:
    return make_plan(spec_to_plan(**sections), flags or Flags(files=False, rows=100_000))


def exams(flags: Flags | None = None, **sections: Any) -> Exams:
    found = planned(flags, **sections).exams
    assert found is not None
    return found


def test_exams__generated_answers_by_hand() -> None:
    """GSM8K, 400 items on four A100s at 40% of 312 TFLOP/s, a model of 3e9 parameters and 24 blocks of width 3072."""
    shape = shape_3b()
    assert (shape.parameters, shape.layers, shape.attention) == (3_000_000_000, 24, 3072)
    found = exams(evaluate=GSM8K | {"batch_size": 8})
    # 60 + 5 x 170 = 910 tokens of a prompt; attention adds 24 x 3072 x 910 = 6.709e7 to the parameters
    reading = 100 * 910 * 2 * 3.067_092e9 / 124.8e12
    # 100 items of a rank are 13 batches of 8; 24 blocks of 0.8 ms are longer than reading 6 GB at 2 TB/s (3 ms)
    generating = 13 * 256 * 0.0192
    assert (reading, generating) == (pytest.approx(4.4728, abs=1e-3), pytest.approx(63.898, abs=1e-3))
    assert found.seconds == pytest.approx(68.370, abs=2e-3)
    assert (found.items, found.tokens_read, found.tokens_generated) == (400, 364_000, 102_400)
    assert found.models == 4  # three finalists and the base model
    assert found.unit_hours == pytest.approx(4 * 68.370 * 4 / 3600, rel=1e-4)
    assert found.hours == pytest.approx(2 * 68.370 / 3600, rel=1e-4)  # two slots at once
    assert found.shared
    assert found.unknown == ()


def test_exams__auto_takes_as_many_items_as_half_of_the_free_memory_holds() -> None:
    """A sequence of 1,166 tokens takes 0.42 GB: 64 fit on 80 GiB, and 100 items of a rank are two batches."""
    found, eight = exams(evaluate=GSM8K), exams(evaluate=GSM8K | {"batch_size": 8})
    assert eight.seconds - found.seconds == pytest.approx((13 - 2) * 256 * 0.0192, rel=1e-3)
    each = 2 * 24 * 3072 * 2 * 1166 + 910 * 2 * (4 * 3072 + 3 * 9216)
    assert found.rank_bytes - eight.rank_bytes == 56 * each
    lora = {"budget": {"samples": 51_200}, "micro_batch": 4, "zero_stage": 2, "lora": {"rank": 8}}
    small = Flags(files=False, rows=100_000, gpu_memory=16.0)
    plan = planned(small, train=lora, evaluate=GSM8K)
    assert plan.memory is not None
    assert plan.exams is not None
    lasting = plan.memory.states + plan.memory.buckets + plan.memory.process
    batch, rest = divmod(plan.exams.rank_bytes - lasting, each)
    assert (rest, batch & (batch - 1)) == (0, 0), "a power of two"
    assert 2 * batch * each <= 16 * 2**30 - lasting < 4 * batch * each


def test_exams__a_large_model_reads_its_weights_for_each_token() -> None:
    """70e9 parameters: 140 GB at 2 TB/s take 70 ms, and 64 blocks 51 ms."""
    flags = Flags(files=False, rows=100_000, parameters=70_000_000_000)
    found = exams(
        flags,
        evaluate={"tasks": [{"name": "gsm8k", "limit": 8}], "batch_size": 8},
        resources=FOUR | {"workers_per_trial": 1},
    )
    shape = make_plan(spec_to_plan(), flags).model
    assert shape is not None
    assert shape.layers * 0.8e-3 < 0.070
    reading = 8 * 910 * 2 * (7e10 + shape.layers * shape.attention * 910) / 124.8e12
    assert found.seconds == pytest.approx(256 * 0.070 + reading, rel=1e-3)


def test_exams__choices_are_read_only() -> None:
    """MMLU, 10 items of each of 57 subjects: choices of one token share a pass over 110 + 5 x 110 tokens."""
    found = exams(evaluate={"tasks": [{"name": "mmlu", "num_fewshot": 5}], "limit": 10, "batch_size": 8})
    assert (found.items, found.tokens_read, found.tokens_generated) == (570, 570 * 660, 0)
    each = 2 * (3e9 + 24 * 3072 * 660) * 660 / 124.8e12
    assert found.seconds == pytest.approx(143 * each, rel=1e-6)  # of 570 items the first rank has 143


def test_exams__memory_of_a_rank_by_hand() -> None:
    """States, buckets and process as in training; at ZeRO-3 the whole weights; keys and values of a batch."""
    train = {"budget": {"samples": 51_200}, "micro_batch": 4, "zero_stage": 3}
    plan = planned(train=train, evaluate=GSM8K | {"batch_size": 8})
    assert plan.exams is not None
    assert plan.memory is not None
    lasting = plan.memory.states + plan.memory.buckets + plan.memory.process
    keys_and_values = 2 * 24 * 3072 * 2 * 8 * (910 + 256)
    block = 8 * 910 * 2 * (4 * 3072 + 3 * 9216)
    assert plan.exams.rank_bytes == lasting + 6_000_000_000 + keys_and_values + block
    assert plan.exams.shared


def test_exams__weights_that_do_not_fit_are_gathered_for_each_token() -> None:
    """On GPUs of 16 GiB, 3e9 parameters fit in shares only: every rank runs all items."""
    train = {"budget": {"samples": 51_200}, "micro_batch": 4, "zero_stage": 3, "lora": {"rank": 8}}
    tasks = GSM8K | {"batch_size": 8}
    small = Flags(files=False, rows=100_000, gpu_memory=16.0)
    plan = planned(small, train=train, evaluate=tasks)
    whole = exams(train=train, evaluate=tasks)
    assert plan.exams is not None
    assert (whole.shared, plan.exams.shared) == (True, False)
    assert plan.exams.seconds > 3.9 * whole.seconds
    assert plan.exams.rank_bytes < whole.rank_bytes - 5_900_000_000
    assert "every rank runs all items" in shown(plan)


def test_exams__what_has_no_known_size_is_named() -> None:
    found = planned(
        evaluate={
            "tasks": ["our_task", {"name": "their_task", "limit": 50}],
            "finalists": {"top": 2, "random": 1},
        },
        data={
            "test": [
                {"name": "held", "path": "held.jsonl"},
                {"name": "cut", "path": "cut.jsonl", "limit": 200},
            ]
        },
    )
    assert found.exams is not None
    assert found.exams.unknown == ("held", "our_task")
    assert found.exams.items == 250
    sentences = " ".join(found.assumptions)
    assert "sizes of held, our_task are unknown" in sentences
    assert "items of their_task have 300 tokens" in sentences


def test_exams__none_where_nothing_is_scored_or_no_speed_is_known() -> None:
    assert planned().exams is None
    assert planned(evaluate={"replicates": {"top": 2, "seeds": 2}}).exams is None
    cpu = planned(evaluate={"tasks": ["mmlu"]}, resources={"gpus_per_worker": 0, "workers_per_trial": 1})
    assert cpu.exams is None
    assert "scored on 1 test (time not included below)" in shown(cpu)


def test_exams__are_shown_with_time_and_memory() -> None:
    text = shown(planned(evaluate={"tasks": ["mmlu", "gsm8k"]}))
    assert "4 models scored on 2 tests" in text
    assert "not included" not in text
    assert "4 models of" in text
    assert "15,361 items" in text
    assert "GiB per GPU" in text.partition("items")[2]


def test_tasks__have_items_and_either_passes_or_answers() -> None:
    for name, size in TASKS.items():
        assert size.items >= size.parts >= 1, name
        assert (size.passes > 0) != (size.generated > 0), name


def shown(plan: SweepPlan) -> str:
    out = io.StringIO()
    show_plan(plan, Console(file=out, width=80))
    return " ".join(out.getvalue().split())

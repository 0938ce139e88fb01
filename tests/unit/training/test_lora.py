"""Adapters: warm trials equal cold ones bit for bit, packed equal padded, and the export loads elsewhere."""

from __future__ import annotations

import math
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from transformers import AutoModelForCausalLM

from support.engine_material import changed, engine_config, train_config
from support.families import family_model
from support.ranks import numbers, on_ranks, run_trials
from sweepft.spec import Lora
from sweepft.training.base_weights import shared_copy
from sweepft.training.deepspeed_engine import ZeroEngine
from sweepft.training.lora import attach_adapter, scales, set_in_place

pytest.importorskip("peft")
pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")

FOUR = Lora(rank=4, alpha=8.0, dropout=0.1, target_modules="all-linear")
FOUR_PLAIN = FOUR.model_copy(update={"alpha": 64.0, "dropout": 0.0})
A = train_config(batch_size=16, weight_decay=0.1, lora=FOUR, gradient_checkpointing=True)
B = train_config(learning_rate=3e-2, schedule="constant", seed=3, lora=FOUR_PLAIN)
C = train_config(
    batch_size=32, lora=Lora(rank=8, alpha=16.0, dropout=0.05, target_modules=("q_proj", "v_proj"))
)


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
def test_lora__warm_equals_cold_bitwise(tiny_dropout_model, tmp_path, stage, precision, world_size):
    plan = engine_config(tiny_dropout_model, tmp_path, zero_stage=stage, precision=precision)
    first, other, again, ranked, last = run_trials(plan, [A, B, A, C, B], world_size, chunks=2)
    assert [r["warm"] for r in (first, other, again, ranked, last)] == [False, True, True, False, False]
    assert numbers(again) == numbers(first)
    assert numbers(last) == numbers(other), "the base model under the adapters has stayed what it was"
    assert numbers(first) != numbers(other)
    assert numbers(ranked) == numbers(run_trials(plan, [C], world_size, chunks=2)[0])


def mapped_regions(name):
    """Where this process has mapped files of that name: begin, end, whether the file is still there, KiB of its own."""
    found = []
    for line in Path("/proc/self/smaps").read_text().splitlines():
        fields = line.split()
        if "-" in fields[0] and not fields[0].endswith(":"):
            begin, end = (int(at, 16) for at in fields[0].split("-"))
            region = [begin, end, not line.endswith("(deleted)"), 0] if name in line else None
            found += [region] if region else []
        elif region and fields[0] == "Private_Dirty:":
            region[3] = int(fields[1])
    return found


def frozen_and_file(runner):
    """After a trial and a change of adapters, from each rank: whether its frozen weights lie in mapped files, whether
    these are the ones that all see, and KiB of them that are the rank's own; and whether the files are as they were.
    """
    runner.start(A)
    files = sorted(Path(runner.config.scratch).glob("base-*frozen.safetensors"))
    before = [path.read_bytes() for path in files]
    runner.run(64)
    runner.start(C)
    regions = mapped_regions("frozen.safetensors")
    frozen = [p for p in runner.zero.module.parameters() if not p.requires_grad]
    held = [(p.ds_tensor if runner.config.zero_stage == 3 else p).data_ptr() for p in frozen]
    inside = all(any(begin <= at < end for begin, end, *_ in regions) for at in held)
    mine = (len(held), inside, all(there for *_, there, _ in regions), sum(own for *_, own in regions))
    ranks = [None] * dist.get_world_size()
    dist.all_gather_object(ranks, mine)
    return ranks, before == [path.read_bytes() for path in files]


@pytest.mark.skipif(not os.path.exists("/proc/self/smaps"), reason="reads /proc")
@pytest.mark.parametrize(("stage", "precision"), [(2, "bf16"), pytest.param(2, "fp32", marks=pytest.mark.full),
                                                  pytest.param(3, "bf16", marks=pytest.mark.full)])  # fmt: skip
def test_share_frozen__slots_map_one_copy(tiny_dropout_model, tmp_path, stage, precision):
    plan = engine_config(tiny_dropout_model, tmp_path, zero_stage=stage, precision=precision)
    ranks, unchanged = on_ranks(frozen_and_file, 2, plan)
    for count, inside, there, own in ranks:
        assert count > 0
        assert inside
        assert there, "who starts at the same time does not write a file of its own"
        assert own == 0, "no trial wrote to the shared weights, not even equal values"
    assert unchanged


def shared_at_once(runner, name):
    """Two ranks share a tensor at the same moment, again and again: the files that this one has mapped."""
    for i in range(20):
        dist.barrier()
        kept.append(shared_copy(runner.config, f"{name}{i}", torch.arange(5000.0)))
    return mapped_regions(name)


kept = []


@pytest.mark.skipif(not os.path.exists("/proc/self/smaps"), reason="reads /proc")
def test_shared_copy__concurrent_ranks_map_one_file(tiny_model_dir, tmp_path):
    regions = on_ranks(shared_at_once, 2, engine_config(tiny_model_dir, tmp_path), "once")
    assert len(regions) == 20
    assert all(there for *_, there, _ in regions)


@pytest.mark.parametrize(
    ("family", "saved", "rows"),
    [
        ("qwen3", ("embed_tokens",), None),  # tied: its output layer is trained with it
        ("llama", ("lm_head",), {"model.embed_tokens": [380]}),
        ("llama", ("embed_tokens", "lm_head"), None),
    ],
)
def test_attach_adapter__layers_trained_whole_need_no_rows_of_new_tokens(tmp_path, family, saved, rows):
    model = family_model(tmp_path / "model", family)
    base = AutoModelForCausalLM.from_pretrained(model)
    adapted = attach_adapter(base, Lora(rank=4, modules_to_save=saved), str(model), (380,))
    config = adapted.peft_config["default"]
    assert config.trainable_token_indices == rows
    whole = {n: p for n, p in adapted.named_parameters(remove_duplicate=False) if "modules_to_save" in n}
    assert all(p.requires_grad for p in whole.values())
    tied = family == "qwen3"
    assert len(whole) == len(saved) + tied
    assert len({id(p) for p in whole.values()}) == len(saved)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("family", ["llama", pytest.param("mixtral", marks=pytest.mark.full)])
def test_set_in_place__rslora_scales_as_a_new_adapter(tmp_path, family):
    model = family_model(tmp_path / "model", family)
    targets = ("q_proj", "w1", "w3") if family == "mixtral" else "all-linear"
    plain = Lora(rank=8, alpha=16.0, target_modules=targets)
    wanted = plain.model_copy(update={"scaling": "rslora", "alpha": 6.0})
    old, new = (
        attach_adapter(AutoModelForCausalLM.from_pretrained(model), lora, str(model))
        for lora in (plain, wanted)
    )
    set_in_place(old, wanted)
    assert scales(old) == scales(new)
    assert {scale for rank, scale in scales(old).values() if rank == 8} == {6.0 / math.sqrt(8)}
    set_in_place(old, plain)
    assert {scale for _, scale in scales(old).values()} == {2.0}


def packed_and_exported(runner, rows, packed, folder: Path):
    """The same trial padded and packed; the padded one's state and weights in ``folder``."""
    histories = []
    settings = changed(C, lora=C.lora.model_copy(update={"dropout": 0.0}))
    for plan in (packed, rows):
        runner.config, runner.zero = plan, ZeroEngine(plan, runner.device)
        runner.start(settings)
        histories.append((runner.run(64)["history"], runner.evaluate()["objective"]))
    (folder / "tokenizer").mkdir(parents=True, exist_ok=True)
    runner.export(str(folder / "weights"), str(folder / "tokenizer"))
    size = runner.save(str(folder / "state" / "64"))["bytes"]
    runner.settle_checkpoint()
    runner.start(settings)
    runner.restore(str(folder / "state" / "64"))
    return histories, size, runner.evaluate()["objective"]


@pytest.mark.parametrize(("world_size", "stage"), [(1, 2), pytest.param(2, 2, marks=pytest.mark.full),
                                                   pytest.param(2, 3, marks=pytest.mark.full)])  # fmt: skip
def test_lora__packed_equals_padded_and_loads_in_peft(tiny_model_dir, tmp_path, world_size, stage):
    rows = engine_config(tiny_model_dir, tmp_path, zero_stage=stage)
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

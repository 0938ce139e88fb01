"""Adapters on a 4-bit base: warm equals cold, evaluation leaves the base alone, exports have the losses trained with."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from support.engine_material import changed, engine_config, train_config
from support.families import family_model
from support.ranks import numbers, on_ranks, run_trials
from support.tiny import tiny_model
from sweepft.spec import Lora
from sweepft.training.quantized import quantized_layers

pytestmark = pytest.mark.filterwarnings("ignore")

NF4 = Lora(rank=4, alpha=8.0, dropout=0.1, quantize="nf4")
A = train_config(batch_size=16, weight_decay=0.1, lora=NF4, gradient_checkpointing=True)
B = train_config(
    learning_rate=3e-2, schedule="constant", seed=3,
    lora=NF4.model_copy(update={"alpha": 64.0, "dropout": 0.0, "scaling": "rslora"}),
)  # fmt: skip
C = train_config(
    batch_size=32, lora=NF4.model_copy(update={"rank": 8, "target_modules": ("q_proj", "v_proj")})
)


@pytest.mark.parametrize(
    ("stage", "precision", "world_size"),
    [
        (2, "bf16", 1),
        *(
            pytest.param(*case, marks=pytest.mark.full)
            for case in [(0, "fp32", 1), (0, "fp32", 2), (1, "bf16", 2), (2, "fp32", 2)]
        ),
    ],
)
def test_quantized__eight_warm_trials_equal_cold_ones(
    tiny_dropout_model, tmp_path, stage, precision, world_size
):
    plan = engine_config(tiny_dropout_model, tmp_path, zero_stage=stage, precision=precision, quantize="nf4")
    trials = [A, B, changed(A, seed=1), changed(B, learning_rate=1e-3), A, C, B, changed(C, seed=2)]
    warm = run_trials(plan, trials, world_size, chunks=2)
    assert [r["warm"] for r in warm] == [False, True, True, True, True, False, False, False]
    assert numbers(warm[4]) == numbers(warm[0])
    assert numbers(warm[6]) == numbers(warm[1]), "the base under other adapters has stayed what it was"
    assert numbers(warm[0]) != numbers(warm[1])
    for i in (1, 5, 7):
        assert numbers(warm[i]) == numbers(run_trials(plan, [trials[i]], world_size, chunks=2)[0])


def base_numbers(runner):
    """Losses of a trial with and without evaluations in between; whether the base has stayed the same; its bytes,
    weights and names of layers.
    """

    def whole(evaluated):
        runner.start(B)
        history = []
        for until in (24, 64):
            history += runner.run(until)["history"]["loss"]
            if evaluated:
                runner.evaluate()
        return history

    def bits():
        layers = [layer for _, layer in quantized_layers(runner.zero.module)]
        scales = [(q.absmax, q.state2.absmax) for q in (layer.weight.quant_state for layer in layers)]
        return [layer.weight.data.clone() for layer in layers], [s.clone() for pair in scales for s in pair]

    runner.start(B)
    before = bits()
    losses = whole(False), whole(True)
    after = bits()
    same = all(
        torch.equal(x, y) for part in zip(before, after, strict=True) for x, y in zip(*part, strict=True)
    )
    held = sum(t.numel() * t.element_size() for part in after for t in part)
    weights = sum(layer.in_features * layer.out_features for _, layer in quantized_layers(runner.zero.module))
    names = {name for name, _ in quantized_layers(runner.zero.module)}
    return losses, same, held, weights, names


@pytest.mark.parametrize("precision", ["fp32", pytest.param("bf16", marks=pytest.mark.full)])
def test_quantized__base_is_a_quarter_and_untouched_by_evaluation(tmp_path, precision):
    model = tiny_model(tmp_path / "model", hidden_size=128, intermediate_size=512)
    plan = engine_config(model, tmp_path, precision=precision, quantize="nf4", zero_stage=1)
    (plain, evaluated), same, held, weights, names = on_ranks(base_numbers, 1, plan)
    assert held / (2 * weights) == pytest.approx(0.258, abs=0.002), "bytes of 16-bit weights"
    assert same
    assert evaluated == plain
    assert {name.rpartition(".")[2] for name in names} == {
        "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj",
    }  # fmt: skip


def trained_and_exported(runner, folder: Path, trial):
    """The objective of a trial, of its weights loaded into a later one; and the rows of the validation set."""
    runner.start(trial)
    runner.run(64)
    objective = runner.evaluate()["objective"]
    (folder / "tokenizer").mkdir(parents=True, exist_ok=True)
    runner.export(str(folder / "weights"), str(folder / "tokenizer"))
    runner.save(str(folder / "state" / "64"))
    runner.settle_checkpoint()
    runner.start(trial)
    fresh = runner.evaluate()["objective"]
    runner.load_weights(str(folder / "weights"))
    loaded = runner.evaluate()["objective"]
    runner.start(trial)
    runner.restore(str(folder / "state" / "64"))
    held = runner.validation["held"]
    rows = [(ids.tolist(), mask.tolist()) for ids, mask in map(held.row, range(len(held.lengths)))]
    return objective, fresh, (loaded, runner.evaluate()["objective"]), rows


def objective_of(model, rows):
    """Nats per target token, row by row."""
    total = count = 0.0
    model.eval()
    for module in model.modules():  # on some CPUs bitsandbytes rounds the scales
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
    with torch.no_grad():
        for ids, mask in rows:
            logits = model(input_ids=torch.tensor([ids])).logits[0, :-1].float()
            losses = torch.nn.functional.cross_entropy(logits, torch.tensor(ids[1:]), reduction="none")
            wanted = torch.from_numpy(np.array(mask[1:]))
            total, count = total + float(losses[wanted].sum()), count + int(wanted.sum())
    return total / count


EXPORTS = [
    ("llama", {}, "fp32", {}),
    pytest.param("llama", {}, "bf16", {"scaling": "rslora"}, marks=pytest.mark.full),
    pytest.param("qwen3", {}, "fp32", {"modules_to_save": ("embed_tokens",)}, marks=pytest.mark.full),
    pytest.param("llama", {}, "fp32", {"modules_to_save": ("lm_head", "down_proj")}, marks=pytest.mark.full),
    pytest.param("gpt2", {}, "fp32", {}, marks=pytest.mark.full),
]


@pytest.mark.parametrize(("family", "config", "precision", "lora"), EXPORTS)
def test_quantized__adapter_in_plain_peft_and_merged_weights_have_the_losses(
    tmp_path, family, config, precision, lora
):
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    own = Lora(**{"rank": 4, "alpha": 8.0, "quantize": "nf4", **lora})
    model = family_model(tmp_path / "model", family, **config)
    plan = engine_config(
        model, tmp_path, precision=precision, zero_stage=1, quantize="nf4", kept_whole=own.modules_to_save
    )
    trial = train_config(learning_rate=1e-2, lora=own)
    objective, fresh, again, rows = on_ranks(trained_and_exported, 1, plan, tmp_path, trial)
    assert again == (objective, objective)
    assert objective < fresh - 0.01, "something was learned"

    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    skip = ["lm_head", *own.modules_to_save] if own.modules_to_save else None
    four_bits = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=dtype,
        llm_int8_skip_modules=skip,
    )  # fmt: skip
    base = AutoModelForCausalLM.from_pretrained(model, dtype=dtype, quantization_config=four_bits)
    adapted = PeftModel.from_pretrained(base, tmp_path / "weights" / "adapter", autocast_adapter_dtype=False)
    tolerance = 1e-5 if precision == "fp32" else 0.02
    assert objective_of(adapted, rows) == pytest.approx(objective, abs=tolerance)
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "weights", dtype=dtype)
    assert not hasattr(merged.config, "quantization_config")
    assert objective_of(merged, rows) == pytest.approx(objective, abs=tolerance)

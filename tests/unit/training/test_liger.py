"""Liger's kernels run where they give the model's own losses, and are taken out again where they do not.

Liger itself needs a GPU (`test_gpu_options.py`); a stand-in replaces the same things of a Llama in the same way.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from types import ModuleType, SimpleNamespace

import pytest
import torch

from support.engine_material import changed, engine_config, train_config
from support.ranks import on_ranks
from sweepft.training.deepspeed_engine import ZeroEngine

A = train_config(batch_size=16, weight_decay=0.1)
B = changed(A, learning_rate=1e-2)
LORA_A, LORA_B = (changed(A, lora={"rank": rank, "target_modules": ["q_proj"]}) for rank in (2, 4))


def stand_in(kind):
    """A module like Liger's that notes its calls: ``equal`` kernels, ``wrong`` ones, or ones that raise."""
    calls = []

    def apply(model, cross_entropy, fused_linear_cross_entropy):
        from transformers.models.llama import modeling_llama

        assert not cross_entropy
        assert not fused_linear_cross_entropy
        rope, norm = modeling_llama.apply_rotary_pos_emb, modeling_llama.LlamaRMSNorm
        wrong = 1.5 if kind == "wrong" else 1.0

        class Norm(norm):
            pass

        def rotary(*given, **more):
            calls.append("rotary")
            if kind == "raises":
                raise RuntimeError("Failed to find C compiler")
            return tuple(part * wrong for part in rope(*given, **more))

        def forward(self, hidden):
            calls.append("mlp")
            return self.down_proj(self.act_fn(self.gate_proj(hidden)) * self.up_proj(hidden))

        modeling_llama.apply_rotary_pos_emb, modeling_llama.LlamaRMSNorm = rotary, Norm
        if kind == "incompatible":
            raise TypeError("unsupported model class")
        for layer in model.model.layers:
            layer.mlp.__dict__["forward"] = forward.__get__(layer.mlp, type(layer.mlp))

    return SimpleNamespace(apply=apply, calls=calls)


def job(runner, kind, trials):
    """Losses of the trials, what each start says of kernels, how many calls of them, and what transformers has then."""
    from transformers.models.llama import modeling_llama

    from sweepft.training import liger

    before = modeling_llama.apply_rotary_pos_emb, modeling_llama.LlamaRMSNorm
    made = stand_in(kind)
    names = ["liger_kernel", "liger_kernel.transformers", "liger_kernel.transformers.monkey_patch"]
    sys.modules |= {name: ModuleType(name) for name in names}
    sys.modules[names[-1]]._apply_liger_kernel_to_instance = made.apply
    liger.sees_gpu = liger.can_run_liger = lambda: True
    found = []
    for trial in trials:
        said = runner.start(trial)["plain_kernels"]
        at_start = len(made.calls)
        found.append((runner.run(64)["history"]["loss"], said, len(made.calls) - at_start))
    runner.zero.liger.remove()
    assert (modeling_llama.apply_rotary_pos_emb, modeling_llama.LlamaRMSNorm) == before
    assert type(runner.zero.module).__name__ in ("LlamaForCausalLM", "PeftModelForCausalLM")
    assert not any("forward" in vars(part) for part in runner.zero.module.modules())
    return found


@pytest.fixture
def config(tiny_model_dir, tmp_path):
    return engine_config(tiny_model_dir, tmp_path, zero_stage=1, liger="auto")


@pytest.mark.full
def test_liger__auto_uses_kernels_that_agree(config):
    """In new engines too: each shape of adapters takes one."""
    trials = [A, B, LORA_A, LORA_B]
    plain = on_ranks(job, 1, replace(config, liger=False), "equal", trials)
    assert [calls for *_, calls in plain] == [0] * 4
    found = on_ranks(job, 1, config, "equal", trials)
    assert [said for _, said, _ in found] == [None] * 4
    assert all(calls > 0 for *_, calls in found)
    for (losses, *_), (own, *_) in zip(found, plain, strict=True):
        assert losses == pytest.approx(own, abs=1e-5)


@pytest.mark.parametrize(
    ("kind", "words", "stage", "ranks"),
    [
        ("wrong", "differ by", 1, 1),
        pytest.param("raises", "Failed to find C compiler", 1, 1, marks=pytest.mark.full),
        pytest.param("incompatible", "unsupported model class", 1, 1, marks=pytest.mark.full),
        pytest.param("wrong", "differ by", 3, 2, marks=pytest.mark.full),
        pytest.param("raises", "Failed to find C compiler", 3, 2, marks=pytest.mark.full),
    ],
)
def test_liger__auto_gives_up_and_says_why(config, kind, words, stage, ranks):
    config = replace(config, zero_stage=stage)
    plain = on_ranks(job, ranks, replace(config, liger=False), kind, [A, B])
    found = on_ranks(job, ranks, config, kind, [A, B])
    assert [losses for losses, *_ in found] == [losses for losses, *_ in plain], "bit for bit"
    assert [calls for *_, calls in found] == [0, 0]
    (_, first, _), (_, second, _) = found
    assert words in first
    assert second is None, "said once"


@pytest.mark.full
@pytest.mark.parametrize(("kind", "words"), [("wrong", "set train.liger: false"), ("raises", "C compiler")])
def test_liger__raises_where_it_must_run(config, kind, words):
    with pytest.raises(RuntimeError, match=words):
        on_ranks(job, 1, replace(config, liger=True), kind, [A])


@pytest.mark.parametrize(
    ("wanted", "compiled", "expected"), [("auto", False, "auto"), ("auto", True, False), (True, True, True)]
)
def test_liger__auto_leaves_compiled_models_alone(config, wanted, compiled, expected):
    engine = ZeroEngine(replace(config, liger=wanted, compiled=compiled), torch.device("cpu"))
    assert engine.liger.wanted == expected

"""A sweep over adapters on packed samples, through to a winner that plain peft loads."""

from __future__ import annotations

import itertools

import pytest

from support.sweeps import run_spec, write_spec

pytest.importorskip("peft")
pytestmark = [
    pytest.mark.ray,
    pytest.mark.full,
    pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning"),
]


def test_rank_rate_and_batch_are_swept_warm_and_the_winner_loads_in_peft(
    ray_here, tiny_model_dir, tiny_data_file, tmp_path
):
    spec = write_spec(
        tmp_path,
        tiny_model_dir,
        tiny_data_file,
        train={"micro_batch": {"tokens": 256}, "lora": {"dropout": 0.05}},
        search={
            "trials": 6,
            "start_with": [],
            "sampler": "random",
            "space": {
                "batch_size": {"choice": [7, 16]},
                "learning_rate": {"log_uniform": [1.0e-3, 3.0e-2]},
                "lora.rank": {"choice": [4, 8]},
            },
        },
        early_stop={"rule": "none", "windows": [0.5]},
        resources={"concurrent_trials": 1},
    )
    done = run_spec(spec, tmp_path / "run")
    trials = list(done.view.trials.values())
    assert {t.status for t in trials} == {"completed"}
    for before, after in itertools.pairwise(trials):
        same = before.config["lora.rank"] == after.config["lora.rank"]
        assert after.attempts[-1].warm is same, "another rank builds another adapter, in the living process"

    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    adapter = tmp_path / "run" / "best" / "adapter"
    base = AutoModelForCausalLM.from_pretrained(tiny_model_dir)
    adapted = PeftModel.from_pretrained(base, adapter)
    assert adapted.peft_config["default"].r == done.view.best.config["lora.rank"]

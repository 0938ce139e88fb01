"""A sweep over adapters on packed samples, through to a winner that plain peft loads."""

from __future__ import annotations

import itertools

import pytest

from support.sweeps import run_spec, write_spec
from sweepft.ledger import winner

pytest.importorskip("peft")
pytestmark = [
    pytest.mark.ray,
    pytest.mark.full,
    pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning"),
]


SPACE = {
    "batch_size": {"choice": [7, 16]},
    "learning_rate": {"log_uniform": [1.0e-3, 3.0e-2]},
    "lora.rank": {"choice": [4, 8]},
    "lora.alpha": {"choice": [8.0, 32.0]},
    "lora.dropout": {"uniform": [0.0, 0.2]},
    "lora.target_modules": {"choice": ["all-linear", ["q_proj", "v_proj"]]},
}
FIRST = {"lora.rank": 4, "lora.alpha": 8.0, "lora.dropout": 0.0, "lora.target_modules": "all-linear"}
START = [
    FIRST,
    FIRST | {"lora.alpha": 32.0, "lora.dropout": 0.1},
    FIRST | {"lora.target_modules": ["q_proj", "v_proj"]},
    FIRST | {"lora.target_modules": ["q_proj", "v_proj"], "lora.rank": 8},
]


def test_lora_sweep__all_keys_swept_warm_and_winner_loads_in_peft(
    ray_here, tiny_model_dir, tiny_data_file, tmp_path
):
    spec = write_spec(
        tmp_path,
        tiny_model_dir,
        tiny_data_file,
        train={"micro_batch": {"tokens": 256}, "lora": {}},
        search={"trials": 8, "start_with": START, "sampler": "random", "space": SPACE},
        early_stop={"rule": "none", "rungs": [0.5]},
        resources={"concurrent_trials": 1},
    )
    done = run_spec(spec, tmp_path / "run")
    trials = list(done.view.trials.values())
    assert {t.status for t in trials} == {"completed"}
    for before, after in itertools.pairwise(trials):
        same = all(before.params[key] == after.params[key] for key in ("lora.rank", "lora.target_modules"))
        assert after.attempts[-1].warm is same, "another shape builds another adapter, in the living process"
    assert [t.attempts[-1].warm for t in trials[:4]] == [False, True, False, False]
    for trial in trials:
        swept = {key.removeprefix("lora."): v for key, v in trial.params.items() if "lora" in key}
        assert swept.items() <= trial.train_config["lora"].items()

    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    adapter = tmp_path / "run" / "best" / "adapter"
    base = AutoModelForCausalLM.from_pretrained(tiny_model_dir)
    adapted = PeftModel.from_pretrained(base, adapter)
    config, best = adapted.peft_config["default"], winner(done.view).params
    assert (config.r, config.lora_alpha, config.lora_dropout) == tuple(
        best[f"lora.{key}"] for key in ("rank", "alpha", "dropout")
    )
    every = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
    wanted = best["lora.target_modules"]
    adapted_layers = {
        name.rsplit(".", 1)[-1] for name in config.target_modules
    }  # of some layers peft keeps the path
    assert adapted_layers == (every if wanted == "all-linear" else set(wanted))

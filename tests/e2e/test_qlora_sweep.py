"""A sweep over adapters on one 4-bit base, through to a winner that plain peft, and the exported script, give again."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from rich.console import Console

from support.exported_script import run_script
from support.sweeps import run_spec, write_spec
from sweepft.data.cache import TokenSet
from sweepft.driver.train_alone import spec_of, train_alone
from sweepft.export.facts import best_facts
from sweepft.ledger import winner

pytestmark = [pytest.mark.ray, pytest.mark.full, pytest.mark.filterwarnings("ignore")]

SPACE = {
    "batch_size": {"choice": [8, 16]},
    "learning_rate": {"log_uniform": [1.0e-3, 3.0e-2]},
    "lora.alpha": {"choice": [8.0, 32.0]},
    "lora.scaling": {"choice": ["standard", "rslora"]},
    "lora.dropout": {"uniform": [0.0, 0.2]},
}


@pytest.fixture(scope="module")
def finished(ray_here, tiny_model_dir, tiny_data_file, tmp_path_factory):
    folder = tmp_path_factory.mktemp("qlora")
    spec = write_spec(
        folder, tiny_model_dir, tiny_data_file,
        train={"lora": {"rank": 4, "quantize": "nf4"}},
        search={"trials": 8, "start_with": [], "sampler": "random", "space": SPACE},
        early_stop={"rule": "none", "rungs": [0.5]},
        resources={"concurrent_trials": 1},
    )  # fmt: skip
    return folder / "run", run_spec(spec, folder / "run")


def test_qlora_sweep__eight_trials_on_one_base_equal_cold_ones(finished, tmp_path):
    run, done = finished
    trials = list(done.view.trials.values())
    assert {t.status for t in trials} == {"completed"}
    assert [t.attempts[-1].warm for t in trials] == [False] + [True] * 7
    last = trials[-1]
    with spec_of(run, last.trial_id) as path, (tmp_path / "said.txt").open("w") as said:
        alone = winner(train_alone(path, (), tmp_path / "run", console=Console(file=said)).view)
    assert alone.history["loss"].tolist() == last.history["loss"].tolist()
    assert alone.objective == last.objective


def test_qlora_sweep__adapter_in_plain_peft_has_the_ledgers_loss(finished, tiny_model_dir):
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    run, done = finished
    four_bits = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.float32,
    )  # fmt: skip
    base = AutoModelForCausalLM.from_pretrained(
        tiny_model_dir, dtype=torch.float32, quantization_config=four_bits
    )
    adapted = PeftModel.from_pretrained(base, run / "best" / "adapter")
    merged = AutoModelForCausalLM.from_pretrained(run / "best")
    facts = best_facts(done.view)
    assert facts is not None
    rows = TokenSet(facts.prepared.validation[0].data.path)
    for model in (adapted, merged):
        assert loss_of(model, rows) == pytest.approx(winner(done.view).objective, abs=1e-4)


def test_qlora_sweep__script_meets_the_losses(finished, tmp_path):
    _, done = finished
    losses, validation = run_script(done.best, tmp_path / "out")
    assert losses == pytest.approx(winner(done.view).history["loss"].tolist(), abs=1e-4)
    assert validation["own"] == pytest.approx(winner(done.view).objective, abs=1e-4)


def loss_of(model, rows):
    """Nats per target token."""
    model.eval()
    for module in model.modules():  # on some CPUs bitsandbytes would round the scales of the weights
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
    total = count = 0.0
    with torch.no_grad():
        for ids, mask in map(rows.row, range(len(rows.lengths))):
            tokens = torch.from_numpy(np.asarray(ids, dtype=np.int64))
            logits = model(input_ids=tokens[None]).logits[0, :-1].float()
            losses = torch.nn.functional.cross_entropy(logits, tokens[1:], reduction="none")
            wanted = torch.from_numpy(np.array(mask[1:]))
            total, count = total + float(losses[wanted].sum()), count + int(wanted.sum())
    return total / count

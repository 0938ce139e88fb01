"""A task measured in the middle of a trial leaves the trial as it is, bit for bit, warm or cold; so does a function of
the user's own.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from support.engine_material import changed, engine_config, train_config
from support.ranks import on_ranks
from support.tasks import task_folder
from support.tiny import tiny_tokenizer
from sweepft.evaluation import EvalTask, OwnTask
from sweepft.spec import Lora

pytest.importorskip("lm_eval")
pytestmark = [pytest.mark.full, pytest.mark.filterwarnings("ignore")]

PLAIN = train_config(batch_size=16, learning_rate=3e-2)
DROPPING = changed(PLAIN, lora=Lora(rank=4, dropout=0.3))  # draws random numbers in every step


def trained(runner: Any, config: Any, tokenizer: Path, task: Any) -> dict[str, Any]:
    """Steps and losses of a trial, measured on a task at a quarter, at its half and at its end; what that gave."""
    from sweepft.slot.rank import measure_engine

    runner.start(config)
    history: dict[str, list[float]] = {}
    found = []
    for until in (16, 32, 64):
        for name, values in runner.run(until)["history"].items():
            history.setdefault(name, []).extend(values)
        runner.evaluate()
        if task is not None:
            found.append(measure_engine(runner.zero, str(tokenizer), task, "exact_match,strict"))
    history.pop("seconds")
    losses = runner.evaluate()
    losses.pop("seconds")
    return {"history": history, "losses": losses, "found": [{**f, "seconds": 0.0} for f in found]}


def both_ways(runner: Any, config: Any, other: Any, tokenizer: Path, task: Any) -> list[dict[str, Any]]:
    """Measured from a cold start; measured on ranks that have trained and measured another trial; not measured."""
    cold = trained(runner, config, tokenizer, task)
    trained(runner, other, tokenizer, task)
    return [cold, trained(runner, config, tokenizer, task), trained(runner, config, tokenizer, None)]


@pytest.mark.parametrize(
    ("stage", "ranks", "precision", "config"),
    [(2, 1, "fp32", PLAIN), (2, 1, "bf16", DROPPING), (2, 2, "fp32", DROPPING), (3, 2, "fp32", PLAIN)],
)
def test_measure__same_trial_with_and_without_and_warm_as_cold(
    tiny_model_dir: Path, tmp_path: Path, stage: int, ranks: int, precision: str, config: Any
) -> None:
    tiny_tokenizer().save_pretrained(tmp_path / "tokenizer")
    task = EvalTask("tiny_words", (str(task_folder(tmp_path / "tasks", items=7)),), limit=6, batch_size=2)
    plan = engine_config(tiny_model_dir, tmp_path, zero_stage=stage, precision=precision)
    other = changed(config, learning_rate=1e-2, seed=3)
    cold, warm, without = on_ranks(both_ways, ranks, plan, config, other, tmp_path / "tokenizer", task)
    assert cold["history"] == without["history"]
    assert cold["losses"] == without["losses"]
    assert warm == cold
    assert [found["items"] for found in cold["found"]] == [6, 6, 6]


@pytest.mark.parametrize(("stage", "ranks", "config"), [(2, 1, DROPPING), (2, 2, DROPPING), (3, 2, PLAIN)])
def test_measure__own_metric_leaves_the_trial_as_it_is(
    tiny_model_dir: Path, tmp_path: Path, stage: int, ranks: int, config: Any
) -> None:
    tiny_tokenizer().save_pretrained(tmp_path / "tokenizer")
    (tmp_path / "own_length.py").write_text(
        "import random\n\ndef score(answer, row):\n    return len(answer) + row['level'] + random.random()\n"
    )
    rows = "".join(f'{{"prompt": "Say {i}.", "level": {i}}}\n' for i in range(7))
    (tmp_path / "prompts.jsonl").write_text(rows)
    task = OwnTask(
        "prompts", str(tmp_path / "prompts.jsonl"), "own_length:score", (str(tmp_path),), max_tokens=6,
        batch_size=2,
    )  # fmt: skip
    plan = engine_config(tiny_model_dir, tmp_path, zero_stage=stage)
    other = changed(config, learning_rate=1e-2, seed=3)
    cold, warm, without = on_ranks(both_ways, ranks, plan, config, other, tmp_path / "tokenizer", task)
    assert cold["history"] == without["history"]
    assert cold["losses"] == without["losses"]
    assert warm == cold
    for found in cold["found"]:
        assert found["items"] == 7
        assert found["stderr"] > 0
        assert len(found["residuals"]) == 7

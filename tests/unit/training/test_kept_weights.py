"""The copy of a trial's weights at its best evaluation equals them bit for bit, and changes nothing else."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from support.engine_material import changed, engine_config, train_config
from support.ranks import on_ranks
from sweepft.spec import Lora

A = train_config(batch_size=16, weight_decay=0.1)
B = train_config(learning_rate=1e-2, schedule="constant", batch_size=8, seed=3)


def trained(runner, first, second, keep):
    """Evaluations of a trial before, in the middle and at its end, from its copy, and of the next trial."""
    runner.start(first)
    runner.run(32)
    middle = runner.evaluate()
    if keep:
        runner.keep_weights()
    chunk = runner.run(64)
    end = runner.evaluate()
    missing = runner.use_kept_weights(48)["found"]
    found = runner.use_kept_weights(32)["found"]
    again = runner.evaluate()
    runner.start(second)
    last = runner.run(64)
    numbers = [[e["objective"], e["sets"]] for e in (middle, end, again, runner.evaluate())]
    history = [chunk["history"]["loss"], last["history"]["loss"], last["history"]["grad_norm"]]
    return numbers, history, (missing, found), runner.use_kept_weights(32)["found"]


@pytest.mark.parametrize(
    ("stage", "precision", "world_size", "lora"),
    [
        (2, "fp32", 1, None),
        pytest.param(3, "bf16", 2, None, marks=pytest.mark.full),
        pytest.param(2, "bf16", 2, None, marks=pytest.mark.full),
        pytest.param(0, "fp32", 2, None, marks=pytest.mark.full),
        pytest.param(3, "fp32", 2, Lora(rank=4, dropout=0.1), marks=pytest.mark.full),
    ],
)
def test_kept_weights__are_those_of_their_evaluation(
    tiny_dropout_model: Path, tmp_path: Path, stage: int, precision: str, world_size: int, lora: Lora | None
) -> None:
    config = engine_config(tiny_dropout_model, tmp_path, zero_stage=stage, precision=precision)
    first, second = (changed(t, lora=lora) for t in (A, B))
    kept = on_ranks(trained, world_size, config, first, second, True)
    plain = on_ranks(trained, world_size, config, first, second, False)
    (middle, end, again, after), history, found, stale = kept
    assert found == (False, True)
    assert again == middle
    assert not np.array_equal(again[0], end[0])
    assert not stale, "the next trial has no copy"
    assert history == plain[1], "the copy changes neither this trial nor the next one"
    assert after == plain[0][3]
    assert plain[0][2] == plain[0][1], "without a copy the engine stays as it is"

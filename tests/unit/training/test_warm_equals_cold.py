"""Check of the warm reset: a trial on a used engine equals the same trial in a fresh process, bit for bit."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from itertools import product

import pytest

from support.engine_material import changed, engine_config, train_config
from support.ranks import run_trials
from sweepft.training.deepspeed_engine import RESET_IN_PLACE

A = train_config(batch_size=16, weight_decay=0.1, gradient_checkpointing=True)
B = train_config(
    learning_rate=1e-2, schedule="constant", warmup={"steps": 0}, gradient_clipping=0.0, betas=(0.9, 0.95)
)
C = train_config(batch_size=32, learning_rate=3e-2, schedule="linear", seed=3)


def numbers(result):
    return {
        "history": {k: v for k, v in result["history"].items() if k != "seconds"},
        "evals": [(e["objective"], e["sets"]) for e in result["evals"]],
        "order": result["data_order"],
    }


@pytest.mark.parametrize(
    ("stage", "precision", "world_size"),
    [
        pytest.param(s, p, w, marks=pytest.mark.full if w == 1 and s != 0 else [])
        for (s, p), w in product(sorted(RESET_IN_PLACE), (1, 2))
    ],
)
def test_zero_engine__warm_equals_cold_bitwise(tiny_dropout_model, tmp_path, stage, precision, world_size):
    config = engine_config(tiny_dropout_model, tmp_path, zero_stage=stage, precision=precision)
    with ThreadPoolExecutor(2 // world_size) as processes:  # two cores
        started = [
            processes.submit(run_trials, config, trials, world_size, chunks=2)
            for trials in ([A, B, C, A], [C])
        ]
        warm, (cold,) = (each.result() for each in started)
    assert [r["warm"] for r in warm] == [False, True, True, True]
    assert numbers(warm[3]) == numbers(warm[0])
    assert numbers(warm[2]) == numbers(cold)
    assert numbers(warm[1]) != numbers(warm[2])


SGD = {"optimizer": "sgd", "learning_rate": 0.3}
ADAFACTOR = {"optimizer": "adafactor", "learning_rate": 1e-2}


@pytest.mark.parametrize(
    ("optimizer", "stage", "precision", "world_size"),
    [
        (SGD, 2, "fp32", 1),
        (ADAFACTOR, 0, "fp32", 1),
        *(pytest.param(SGD, s, p, 2, marks=pytest.mark.full) for s, p in sorted(RESET_IN_PLACE)),
        pytest.param(ADAFACTOR, 0, "fp32", 2, marks=pytest.mark.full),
    ],
)
def test_zero_engine__warm_equals_cold_other_optimizers(
    tiny_dropout_model, tmp_path, optimizer, stage, precision, world_size
):
    config = engine_config(tiny_dropout_model, tmp_path, zero_stage=stage, precision=precision)
    a, c = (changed(t, **optimizer) for t in (A, C))
    b = changed(B, **optimizer, momentum=0.0)
    first, other, second, again, last = run_trials(config, [a, b, A, a, c], world_size, chunks=2)
    assert [r["warm"] for r in (first, other, second, again, last)] == [False, True, False, False, True]
    assert numbers(again) == numbers(first)
    assert numbers(second) != numbers(first)
    assert numbers(last) == numbers(run_trials(config, [c], world_size, chunks=2)[0])
    assert first["history"]["loss"][-1] < first["history"]["loss"][0], "something was learned"


@pytest.mark.full
@pytest.mark.skipif(find_spec("bitsandbytes") is None, reason="needs pip install 'sweepft[8bit]'")
@pytest.mark.parametrize(
    ("stage", "precision", "world_size"), [(0, "fp32", 1), (2, "fp32", 1), (2, "bf16", 2), (3, "fp32", 2)]
)
def test_zero_engine__adamw_8bit_is_rebuilt_equal(tiny_dropout_model, tmp_path, stage, precision, world_size):
    config = engine_config(tiny_dropout_model, tmp_path, zero_stage=stage, precision=precision)
    a, c = (changed(t, optimizer="adamw_8bit") for t in (A, C))
    first, other, again = run_trials(config, [a, c, a], world_size, chunks=2)
    assert [r["warm"] for r in (first, other, again)] == [False] * 3
    assert numbers(again) == numbers(first)
    assert numbers(other) == numbers(run_trials(config, [c], world_size, chunks=2)[0])
    (plain,) = run_trials(config, [A], world_size, chunks=2)
    assert numbers(first) != numbers(plain)
    assert first["history"]["loss"] == pytest.approx(plain["history"]["loss"], abs=5e-2)


@pytest.mark.full
def test_zero_engine__rebuilding_in_process_is_equal(tiny_dropout_model, tmp_path):
    config = engine_config(tiny_dropout_model, tmp_path)
    rebuilt = run_trials(config, [A, B, A], 2, chunks=2, reset_in_place=False)
    assert [r["warm"] for r in rebuilt] == [False, False, False]
    assert numbers(rebuilt[2]) == numbers(rebuilt[0])
    warm = run_trials(config, [B, A], 2, chunks=2)
    assert numbers(warm[1]) == numbers(rebuilt[0])

"""The micro-batch that ``auto`` finds: as many rows as fit, and the probe does not change results."""

from __future__ import annotations

from dataclasses import replace

import pytest

from support.engine_material import engine_config, train_config
from support.ranks import on_ranks
from sweepft.training.memory import CPU_TOKENS, largest_micro_batch

GB = 10**9


@pytest.mark.parametrize(
    ("one", "two", "total", "most", "rows"),
    [
        (30 * GB, 32 * GB, 80 * GB, 64, 16),  # 30 + 2 (n - 1) <= 72: 22 fit, 16 is the power of two below
        (30 * GB, 32 * GB, 80 * GB, 20, 20),  # all of a rank's share fits
        (
            79 * GB,
            80 * GB,
            80 * GB,
            64,
            1,
        ),  # not even one row leaves the margin: try one, and halving cannot help
        (30 * GB, 30 * GB, 80 * GB, 64, 64),  # rows too small to be seen in the peak
        (10 * GB, 20 * GB, 80 * GB, 1, 1),
    ],
)
def test_largest_micro_batch__rows_that_fit(one, two, total, most, rows):
    assert largest_micro_batch((one, two), total, most) == rows


def probed(runner, settings):
    runner.start(settings)
    rows = runner.find_max_micro_batch()
    runner.set_micro_batch(rows)
    runner.start(settings)
    return rows, runner.run(64)["history"]


def unprobed(runner, settings):
    runner.start(settings)
    return runner.run(64)["history"]


def test_find_max_micro_batch__leaves_no_trace(tiny_dropout_model, tmp_path):
    settings = train_config()
    config = engine_config(tiny_dropout_model, tmp_path, micro_batch=0, largest_batch=8)
    rows, history = on_ranks(probed, 2, config, settings)
    assert rows == 4, f"a rank's share of the largest batch: {CPU_TOKENS} tokens hold it all"
    expected = on_ranks(unprobed, 2, replace(config, micro_batch=4), settings)
    for name in ("loss", "grad_norm", "lr"):
        assert history[name] == expected[name]

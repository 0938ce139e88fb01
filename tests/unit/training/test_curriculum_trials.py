"""A rank trains on the rows of its trial's phases, and a saved state resumes within them."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from support.engine_material import engine_config, train_config, write_rows
from support.ranks import on_ranks
from sweepft.data import TokenSet, sample_order
from sweepft.spec import Curriculum, TrainConfig

PHASES = [{"domains": ["a"], "share": 0.4}, {"domains": ["b", "c"]}]
CURRICULUM = Curriculum.model_validate(
    {"strategy": "phased", "phases": PHASES, "replay": 0.2, "mixture": {"c": 2.0}}
)


def interrupted(runner, folder: Path, first: TrainConfig, second: TrainConfig):
    """A phased trial saved in its second phase, a stacked one, the first restored and ended; then without a break."""
    begun = runner.start(first)
    history = runner.run(40)["history"]
    runner.save(str(folder))
    runner.settle_checkpoint()
    other = runner.start(second)["data_order"]
    runner.run(64)
    runner.start(first)
    runner.restore(str(folder))
    rest = runner.run(64)["history"]
    runner.start(first)
    whole = runner.run(64)["history"]
    return begun["data_order"], other, history, rest, whole


def test_trial_runner__phased_trial_restores_bitwise(tiny_dropout_model, tmp_path):
    rows = TokenSet(write_rows(tmp_path / "domains", 50, 1, ("a", "b", "c")))
    config = engine_config(tiny_dropout_model, tmp_path, train_cache=str(rows.path))
    phased = train_config(data=CURRICULUM)
    order, plain, history, rest, whole = on_ranks(
        interrupted, 1, config, tmp_path / "state", phased, train_config()
    )
    expected = sample_order(rows, 0, CURRICULUM, 64)
    assert order == expected.digest
    assert plain == sample_order(rows, 0, None, 64).digest != order
    seen = np.cumsum(rows.targets[expected.indices(0, 64)].reshape(8, 8).sum(axis=1))
    assert whole["tokens_seen"] == seen.tolist()
    for name in ("loss", "grad_norm", "tokens_seen"):
        assert [*history[name], *rest[name]] == whole[name]

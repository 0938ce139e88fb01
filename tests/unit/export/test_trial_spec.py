"""The spec that trains one trial of a run again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from test_write import two_trials

from support.errors import raises
from sweepft.driver.train_alone import spec_of
from sweepft.errors import SweepftError
from sweepft.export import write_best, write_trial_spec
from sweepft.ledger import SweepState
from sweepft.spec import TrainConfig, load


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run of two completed trials and one that was stopped."""
    folder = tmp_path / "run"
    sweep = two_trials(folder, schedule="cosine")
    train_config = {**sweep.state().trials["t001"].train_config, "batch_size": 16, "seed": 3}
    params = {"learning_rate": 1e-5, "batch_size": 16}
    sweep.trial("t002", start=False, params=params, train_config=train_config, planned_steps=7)
    sweep.end("t002", "stopped", reason="r", step=2, samples_seen=32, tokens_seen=100).finish().close()
    return folder


@pytest.mark.parametrize("name", ["t000", "t001", "t002"])
def test_spec_of__gives_the_trials_train_config(run: Path, name: str, tmp_path: Path) -> None:
    with spec_of(run, name) as path:
        one = load(path, check_files=False)
        known = json.loads(path.with_name("best.json").read_text())
    trial = SweepState.load(run).trials[name]
    config = {key: dimension.choices[0] for key, dimension in one.search.space.items()}
    assert all(len(dimension.choices) == 1 for dimension in one.search.space.values())
    assert one.train_config(config, 100) == TrainConfig.from_dict(trial.train_config, 100)
    assert (one.search.trials, one.early_stop.rule) == (1, "none")
    assert (known["trial_id"], known["objective"]) == (name, trial.objective)


def test_spec_of__best_folder(run: Path, tmp_path: Path) -> None:

    best = write_best(run, SweepState.load(run)) / "spec.yaml"
    with spec_of(run, "t000") as path:
        assert load(path, check_files=False) == load(best, check_files=False)
    with spec_of(best, None) as path:
        assert path == best


@pytest.mark.parametrize(("name", "key"), [("t009", "trial.unknown"), (None, "train.path")])
def test_spec_of__refuses(run: Path, name: str | None, key: str) -> None:
    with raises(SweepftError, key), spec_of(run, name):
        pass
    with raises(SweepftError, "train.path"), spec_of(run / "spec.yaml", "t000"):
        pass


def test_write_trial_spec__writes_to_the_folder(run: Path, tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()
    assert write_trial_spec(tmp_path / "here", run, "t001") == tmp_path / "here/spec.yaml"

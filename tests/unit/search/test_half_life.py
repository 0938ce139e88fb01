"""A half-life of the second moment in tokens becomes each trial's beta2, from its batch size."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from support import specs
from support.ledger_builder import LedgerBuilder
from support.search_material import BUDGET, make_spec
from sweepft.ledger import SweepState
from sweepft.report import summarise
from sweepft.search import Proposer
from sweepft.search.ray_searcher import OptunaSearcher
from sweepft.slot.jobs import TrialJob, job_of
from sweepft.spec import SweepSpec, TrainConfig, dump, from_dict

DATA = {"train": {"rows": 200, "targets": 20_000}}  # 100 tokens a sample
SPACE = {"batch_size": {"choice": [8, 16]}, "learning_rate": {"choice": [1e-3]}}


def half_life(value: float = 1600.0, **values: Any) -> SweepSpec:
    return specs.spec({"train.optimizer": {"beta2_half_life": value}, "search.space": SPACE, **values})


@pytest.mark.parametrize(("batch_size", "beta2"), [(8, 0.5**0.5), (16, 0.5)])
def test_train_config__beta2_halves_a_gradients_weight_in_so_many_tokens(
    batch_size: int, beta2: float
) -> None:
    config = half_life().train_config({"batch_size": batch_size, "learning_rate": 1e-3}, BUDGET, 100.0)
    assert config.optimizer.betas == (0.9, pytest.approx(beta2))
    assert config.optimizer.beta2_half_life is None
    assert TrainConfig.from_dict(config.to_dict(), BUDGET) == config


def test_train_config__a_swept_half_life_is_of_the_trial() -> None:
    space = {**SPACE, "optimizer.beta2_half_life": {"log_uniform": [1e3, 1e6]}}
    spec = specs.spec({"search.space": space})
    params = {"batch_size": 8, "learning_rate": 1e-3, "optimizer.beta2_half_life": 800.0}
    assert spec.train_config(params, BUDGET, 100.0).optimizer.betas == (0.9, 0.5)
    assert from_dict(spec.to_dict()) == spec


def test_dump__reads_back_without_the_default_betas() -> None:
    spec = half_life()
    assert "betas" not in dump(spec)
    assert from_dict(spec.to_dict()) == spec


def test_optimizer__refuses_a_half_life_that_was_not_converted() -> None:
    from sweepft.training.optimizers import set_constants

    config = half_life().train_config({"batch_size": 8, "learning_rate": 1e-3}, BUDGET)
    assert config.optimizer.beta2_half_life == 1600.0

    groups = SimpleNamespace(param_groups=[{}, {}])
    with pytest.raises(ValueError, match="tokens of a step"):
        set_constants(groups, config.optimizer)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "data", [{}, {"train": {}}, {"train": {"rows": 0, "targets": 0}}, {"train": {"rows": "x"}}]
)
def test_tokens_per_sample__is_not_known_without_counts(data: dict[str, Any]) -> None:
    assert LedgerBuilder(data=data).state().tokens_per_sample is None
    assert LedgerBuilder(data=DATA).state().tokens_per_sample == 100


def test_report__shows_the_beta2_that_was_used() -> None:
    spec = half_life(3200.0)
    ledger = LedgerBuilder(spec=spec.to_dict(), data=DATA, budget_samples=100)
    view: SweepState = ledger.state()
    searcher = OptunaSearcher(Proposer(make_spec(SPACE), None), 100, tokens_per_sample=view.tokens_per_sample)
    searcher.proposer.spec = spec
    config = searcher.suggest("a")
    assert isinstance(config, dict)
    job = job_of(config)
    assert isinstance(job, TrialJob)
    used = 0.5 ** (job.params["batch_size"] * 100 / 3200)
    ledger.completed("t000", 1.0, params=job.params, train_config=job.train_config.to_dict())
    report = summarise(ledger.state())
    assert report["derived"] == ["optimizer.beta2"]
    assert report["trials"][0]["derived"] == {"optimizer.beta2": pytest.approx(used)}

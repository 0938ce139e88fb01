"""Rates scaled with the batch size, and fields tied to others: what the sampler sees and what trials train with."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support.ledger_builder import LedgerBuilder
from support.search_material import BUDGET, make_spec
from support.specs import spec_dict
from sweepft.ledger import SweepState
from sweepft.report import summarise
from sweepft.report.winner import edge_warnings
from sweepft.search import STUDY_FILE, Proposer
from sweepft.search.space import Space
from sweepft.spec import from_dict

SPACE: dict[str, Any] = {
    "batch_size": {"choice": [8, 32, 128]},
    "learning_rate": {"log_uniform": [1e-4, 1e-2], "at_batch": 32},
}


@pytest.mark.parametrize(("scaling", "factors"), [(None, [0.5, 1.0, 2.0]), ("linear", [0.25, 1.0, 4.0])])
def test_proposer__samples_the_rate_at_one_batch_size(scaling: str | None, factors: list[float]) -> None:
    rate = SPACE["learning_rate"] | ({} if scaling is None else {"scaling": scaling})
    spec = make_spec({**SPACE, "learning_rate": rate}, trials=12)
    proposer = Proposer(spec, None)
    seen = set()
    while (proposal := proposer.ask()) is not None:
        proposer.tell(proposal.trial_id, "completed", 1.0)
        batch, own = proposal.params["batch_size"], proposal.coordinates["learning_rate"]
        assert 1e-4 <= own <= 1e-2
        expected = own * dict(zip([8, 32, 128], factors, strict=True))[batch]
        assert proposal.params["learning_rate"] == pytest.approx(expected)
        assert spec.train_config(proposal.params, BUDGET).learning_rate == proposal.params["learning_rate"]
        seen.add(batch)
    assert len(seen) > 1
    assert spec.rate_range == (1e-4 * factors[0], 1e-2 * factors[-1])


@settings(deadline=None, max_examples=30)
@given(rate=st.floats(1e-4, 1e-2), batch=st.sampled_from([8, 32, 128]))
def test_space__gives_back_the_rate_of_a_user(rate: float, batch: int) -> None:
    space = Space(make_spec(SPACE))
    actual = float(f"{rate * math.sqrt(batch / 32):.6g}")
    params = {"batch_size": batch, "learning_rate": min(actual, 1e-2 * math.sqrt(batch / 32))}
    if params["learning_rate"] >= 1e-4 * math.sqrt(batch / 32):
        assert space.decode(space.encode(params))["learning_rate"] == pytest.approx(
            params["learning_rate"], rel=1e-11
        )


def test_proposer__resumes_with_exact_coordinates(tmp_path: Path) -> None:
    spec = make_spec(SPACE, trials=4, baseline={"learning_rate": 2e-4, "batch_size": 8})
    first, ledger = (
        Proposer(spec, tmp_path / STUDY_FILE),
        LedgerBuilder(budget_samples=BUDGET, samples_per_step=100),
    )
    for i in range(3):
        proposal = first.ask()
        assert proposal is not None
        if i == 0:
            assert proposal.params == {"learning_rate": 2e-4, "batch_size": 8}
            assert proposal.origin == "start_with"
        fields = {"params": proposal.params, "study_number": proposal.study_number, "origin": proposal.origin}
        ledger.completed(proposal.trial_id, 2.0, coordinates=dict(proposal.coordinates), **fields)
        first.report(proposal.trial_id, BUDGET, 2.0)
        first.tell(proposal.trial_id, "completed", 2.0)
    before = [t.params for t in first.study.trials]
    following = first.ask()
    second = Proposer(spec, tmp_path / "again")
    second.rebuild(ledger.state())
    assert [t.params for t in second.study.trials] == before
    assert second.ask() == following


def test_tied__follows_in_every_trial_and_in_the_report() -> None:
    data = spec_dict(
        train={"lora": {}, "budget": {"samples": BUDGET}},
        search={
            "space": {**SPACE, "lora.rank": {"choice": [8, 16]}},
            "tied": {"lora.alpha": {"times": 2.0, "of": "lora.rank"}},
        },
    )
    spec = from_dict(data)
    assert from_dict(spec.to_dict()) == spec
    params = {"batch_size": 8, "learning_rate": 1e-4, "lora.rank": 16}
    config = spec.train_config(params, 64)
    assert config.lora is not None
    assert (config.lora.rank, config.lora.alpha) == (16, 32)
    ledger = LedgerBuilder(spec=spec.to_dict())
    ledger.completed(
        "t0", 1.0, params=params, train_config=config.to_dict(), coordinates={"learning_rate": 2e-4}
    )
    ledger.completed("t1", 2.0, params=params | {"lora.rank": 8})
    state: SweepState = ledger.state()
    found = summarise(state)
    assert found["derived"] == ["lora.alpha", "learning_rate at batch 32"]
    assert found["result"]["winner"]["derived"] == {"lora.alpha": 32, "learning_rate at batch 32": 2e-4}
    assert found["trials"][1]["derived"] == {}, "a ledger without coordinates"
    edge = edge_warnings(state, {"learning_rate": 5e-3}, {"learning_rate at batch 32": 1e-2})
    assert [row["side"] for row in edge] == ["high"], "on its own scale"

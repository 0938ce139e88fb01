"""Priors of ranges: what start-up trials are drawn from, what samplers prefer, and that a wrong one excludes nothing."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.distributions import FloatDistribution, IntDistribution

from support.search_material import make_spec
from sweepft.search import Proposer
from sweepft.search.prior import Belief, Prior, place_of, value_at

SAMPLERS = ["tpe", "gp", "random", "qmc"]
RATE = {"log_uniform": [1e-5, 1e-1]}


def proposed(space: dict[str, Any], n: int, best: float = 1e-3, **search: Any) -> list[dict[str, Any]]:
    """Params of a search whose objective is best at one learning rate."""
    proposer, found = Proposer(make_spec(space, **{"trials": n, **search}), None), []
    while len(found) < n and (proposal := proposer.ask()) is not None:
        value = abs(math.log10(proposal.params.get("learning_rate", best) / best))
        proposer.tell(proposal.trial_id, "completed", value)
        found.append(proposal.params)
    return found


def within(params: list[dict[str, Any]], rate: float, factor: float) -> float:
    """Share of the rates within a factor of one."""
    return float(np.mean([abs(math.log(p["learning_rate"] / rate)) <= math.log(factor) for p in params]))


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_prior__most_start_up_trials_lie_around_it_and_some_anywhere(sampler: str) -> None:
    space = {"learning_rate": {**RATE, "prior": 2e-4, "width": 1.5}, "warmup": {"uniform": [0.0, 0.2]}}
    settings = {"sampler": sampler, "trials": 30}
    found = [p for seed in range(6) for p in proposed(space, 10, seed=seed, **settings)]
    assert 0.6 <= within(found, 2e-4, 3) <= 0.9
    assert np.ptp([p["warmup"] for p in found]) > 0.15
    flat = {**space, "learning_rate": RATE}
    assert (
        within([p for seed in range(6) for p in proposed(flat, 10, seed=seed, **settings)], 2e-4, 3) <= 0.45
    )


@pytest.mark.parametrize("sampler", ["tpe", "random", "qmc", pytest.param("gp", marks=pytest.mark.full)])
def test_prior__wrong_one_excludes_nothing(sampler: str) -> None:
    space = {"learning_rate": {**RATE, "prior": 5e-2, "width": 1.5}}
    found = proposed(space, 40, best=1e-4, sampler=sampler)
    assert min(abs(math.log10(p["learning_rate"] / 1e-4)) for p in found) < 0.3
    if sampler in ("tpe", "gp"):
        assert within(found[25:], 1e-4, 10) > within(found[25:], 5e-2, 3)


def test_tpe__prefers_the_prior_where_the_objective_says_nothing() -> None:
    def later(space: dict[str, Any]) -> float:
        found = []
        for seed in range(4):
            proposer = Proposer(make_spec(space, trials=60, seed=seed), None)
            for i in range(18):
                proposal = proposer.ask()
                assert proposal is not None
                proposer.tell(
                    proposal.trial_id, "completed", (0.618 * i) % 1
                )  # without any relation to the rate
                found += [proposal.params] if i >= 10 else []
        return within(found, 2e-4, 5)

    with_prior = {"learning_rate": {**RATE, "prior": 2e-4, "width": 2}}
    assert later(with_prior) > later({"learning_rate": RATE}) + 0.2


def test_gp__acquisition_is_multiplied_by_the_prior() -> None:
    from optuna._gp.acqf import BaseAcquisitionFunc

    from sweepft.search.gp_prior import WithPrior

    class Flat(BaseAcquisitionFunc):
        def eval_acqf(self, x: Any) -> Any:
            return x[..., 0] * 0.0

    places = np.random.default_rng(0).random((50, 2))
    belief = Belief(0.3, 0.1)
    found = WithPrior(Flat(np.ones(2), None), {1: belief}, 0.5).eval_acqf_no_grad(places)  # type: ignore[arg-type]
    assert found == pytest.approx(0.5 * belief.log_density(places[:, 1]))


@pytest.mark.parametrize(
    ("dimension", "prior"), [({"int_uniform": [1, 64]}, 8), ({"uniform": [0.0, 0.4]}, 0.1)]
)
@pytest.mark.parametrize("sampler", ["random", "qmc"])
def test_prior__fits_whole_numbers_and_linear_ranges(
    dimension: dict[str, Any], prior: float, sampler: str
) -> None:
    key = "seed" if "int_uniform" in dimension else "warmup"
    width = 4 if key == "seed" else 0.03
    space = {key: {**dimension, "prior": prior, "width": width}, "learning_rate": RATE}
    values = [p[key] for s in range(6) for p in proposed(space, 10, sampler=sampler, trials=30, seed=s)]
    assert 0.4 <= np.mean([abs(value - prior) <= width for value in values]) <= 0.75
    low, high = dimension.get("int_uniform") or dimension["uniform"]
    assert low <= min(values) <= max(values) <= high
    assert len(set(values)) > 10


def test_prior__is_a_value_at_at_batch() -> None:
    space = {
        "batch_size": {"choice": [8, 32]},
        "learning_rate": {**RATE, "prior": 1e-3, "width": 1.2, "at_batch": 8},
    }
    found = proposed(space, 10, sampler="random", trials=30)
    own = [{"learning_rate": p["learning_rate"] / math.sqrt(p["batch_size"] / 8)} for p in found]
    assert within(own, 1e-3, 2) >= 0.7


def test_prior__weight_falls_with_the_number_of_trials() -> None:
    prior = Prior(make_spec({"learning_rate": {**RATE, "prior": 1e-3}}).search, 10)
    drawn = [prior.draws(number) for number in range(200)]
    assert [sum(drawn[:10]), sum(drawn[100:])] == [8, pytest.approx(5, abs=3)]
    assert prior.exponent(10) == 1 > prior.exponent(50) == pytest.approx(0.2)
    assert not any(Prior(make_spec({"learning_rate": RATE}).search, 10).draws(n) for n in range(20))


@settings(max_examples=60, deadline=None)
@given(mean=st.floats(0, 1), deviation=st.floats(1e-3, 10))
def test_belief__is_a_density_over_the_range_with_a_floor(mean: float, deviation: float) -> None:
    belief = Belief(mean, deviation)
    places = np.linspace(0, 1, 20_001)
    density = np.exp(belief.log_density(places))
    assert np.trapezoid(density, places) == pytest.approx(1, abs=1e-2)
    assert density.min() >= 0.25 * 0.999
    quantiles = [belief.quantile(share) for share in (0.0, 0.25, 0.5, 0.75, 1.0)]
    assert quantiles == sorted(quantiles)
    assert 0 <= quantiles[0] <= quantiles[-1] <= 1


@settings(max_examples=60, deadline=None)
@given(place=st.floats(0, 1))
def test_value_at__is_in_the_range_and_at_its_place(place: float) -> None:
    for distribution in (
        FloatDistribution(1e-5, 1e-1, log=True),
        FloatDistribution(-1, 3),
        IntDistribution(2, 9),
    ):
        value = value_at(place, distribution)
        assert distribution.low <= value <= distribution.high
        step = 1 / 16 if isinstance(distribution, IntDistribution) else 1e-9
        assert float(place_of(value, distribution)) == pytest.approx(place, abs=step + 1e-9)

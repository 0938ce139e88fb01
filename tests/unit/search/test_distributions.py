"""Values of a space as parameters of a study, and back."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from support.errors import raises
from support.search_material import FINITE, SPACE, make_spec
from sweepft.search.space import Space, param_mapping
from sweepft.spec import Dimension

KINDS = [
    # dimension, parameter, distribution, size
    ({"choice": [32, 8, 16]}, "x.index", IntDistribution(0, 2), 3),
    ({"choice": [0.1, 0, 0.03]}, "x.index", IntDistribution(0, 2), 3),
    ({"choice": [8]}, "x.index", IntDistribution(0, 0), 1),
    ({"choice": ["cosine", "wsd"]}, "x", CategoricalDistribution(("cosine", "wsd")), 2),
    ({"choice": [True, False]}, "x", CategoricalDistribution((True, False)), 2),
    ({"choice": [0.1, {"steps": 5}]}, "x", CategoricalDistribution((0.1, '{"steps": 5}')), 2),
    ({"choice": [[0.9, 0.95], [0.9, 0.99]]}, "x", CategoricalDistribution(("[0.9, 0.95]", "[0.9, 0.99]")), 2),
    ({"uniform": [0, 1]}, "x", FloatDistribution(0.0, 1.0), None),
    ({"log_uniform": [1e-5, 1]}, "x", FloatDistribution(1e-5, 1.0, log=True), None),
    ({"int_uniform": [3, 7]}, "x", IntDistribution(3, 7), 5),
]


@pytest.mark.parametrize(("dimension", "param", "distribution", "size"), KINDS)
def test_param_mapping__each_kind_and_back(
    dimension: dict[str, Any], param: str, distribution: Any, size: int | None
) -> None:
    found = param_mapping("x", Dimension.model_validate(dimension))
    assert (found.param, found.distribution, found.size) == (param, distribution, size)
    for _, value in Dimension.model_validate(dimension).examples():
        assert found.decode(found.encode(value)) == value


@pytest.mark.parametrize(
    ("dimension", "value"),
    [
        ({"choice": [8, 16]}, 12),
        ({"choice": [8, 16]}, "8"),
        ({"choice": ["a"]}, "b"),
        ({"uniform": [0, 1]}, 1.5),
        ({"uniform": [0, 1]}, "0.5"),
        ({"uniform": [0, 1]}, True),
        ({"uniform": [0, 1]}, math.nan),
        ({"int_uniform": [0, 9]}, 2.5),
        ({"int_uniform": [0, 9]}, 10),
    ],
)
def test_param_mapping__refuses_values_outside(dimension: dict[str, Any], value: Any) -> None:
    with raises(ValueError, "x"):
        param_mapping("x", Dimension.model_validate(dimension)).encode(value)


@settings(deadline=None, max_examples=60)
@given(choices=st.lists(st.integers(1, 10**6) | st.floats(1e-9, 1e9), min_size=1, max_size=8, unique=True))
def test_param_mapping__numeric_choices_are_ordered(choices: list[float]) -> None:
    found = param_mapping("x", Dimension(choice=tuple(choices)))
    decoded = [found.decode(i) for i in range(len(choices))]
    assert decoded == sorted(choices)
    assert [found.encode(value) for value in decoded] == list(range(len(choices)))


def test_space__finite_one_is_enumerated_without_repeats() -> None:
    space = Space(make_spec(FINITE))
    assert space.size == 81
    configs = [space.decode(space.nth(i)) for i in range(81)]
    assert len({str(params) for params in configs}) == 81
    assert all(space.encode(params) == space.nth(i) for i, params in enumerate(configs))
    assert Space(make_spec(SPACE)).size is None


def test_space__refuses_unknown_keys() -> None:
    with pytest.raises(ValueError, match="not in the space: seed"):
        Space(make_spec()).encode({"seed": 1})

"""Maps between the values of a search space and the parameters of an Optuna study.

Numbers to choose from are an ordered scale: a batch size out of 8, 16, 32 is the integer 0, 1 or 2 to the sampler
(parameter ``batch_size.index``), which then knows that 16 lies between 8 and 32. Other choices are categorical.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from sweepft.spec import Dimension, SweepSpec
from sweepft.spec.space import same

Param = bool | int | float | str | None
"""What Optuna stores for a value."""

_RATE: Final = "learning_rate"


@dataclass(frozen=True)
class ParamMapping:
    """The mapping of one dimension of the space.

    Attributes:
        key: Dotted field of ``train``.
        param: Name of the parameter in the study.
        distribution: Its Optuna distribution.
        size: Number of values; None for a continuous range.
        values: For choices: value by position. None for ranges.
    """

    key: str
    param: str
    distribution: BaseDistribution
    size: int | None
    values: tuple[Any, ...] | None = None

    def encode(self, value: Any) -> Param:
        """Parameter of a value; `ValueError` if the value is not in the dimension."""
        param: Param
        if self.values is not None:
            position = next((i for i, option in enumerate(self.values) if same(option, value)), None)
            if position is None:
                raise ValueError(f"{self.key}: {value!r} is not one of {list(self.values)}")
            return position if isinstance(self.distribution, IntDistribution) else self._labels[position]
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ValueError(f"{self.key}: {value!r} is not a number")
        whole = isinstance(self.distribution, IntDistribution)
        param = int(value) if whole else float(value)
        assert isinstance(self.distribution, IntDistribution | FloatDistribution)
        if param != value or not self.distribution.low <= param <= self.distribution.high:
            raise ValueError(f"{self.key}: {value!r} is not in {self.distribution}")
        return param

    def decode(self, param: Param) -> Any:
        """Value of a parameter."""
        if self.values is None:
            return param
        if isinstance(self.distribution, IntDistribution):
            assert isinstance(param, int)
            return self.values[param]
        return self.values[self._labels.index(param)]

    def nth(self, position: int) -> Param:
        """Parameter of the value at a position, 0 <= position < size."""
        if isinstance(self.distribution, IntDistribution):
            return int(self.distribution.low + position)
        return self._labels[position]

    @property
    def _labels(self) -> tuple[Param, ...]:
        assert isinstance(self.distribution, CategoricalDistribution)
        return self.distribution.choices


def param_mapping(key: str, dimension: Dimension) -> ParamMapping:
    """The mapping of a dimension of ``search.space``."""
    match dimension.kind:
        case "choice" if dimension.is_numeric:
            values = tuple(sorted(dimension.choices))
            positions = IntDistribution(0, len(values) - 1)
            return ParamMapping(key, f"{key}.index", positions, dimension.size, values)
        case "choice":
            labels = CategoricalDistribution(tuple(_label(value) for value in dimension.choices))
            return ParamMapping(key, key, labels, dimension.size, dimension.choices)
        case "int_uniform":
            low, high = dimension.bounds
            return ParamMapping(key, key, IntDistribution(int(low), int(high)), dimension.size)
        case kind:
            low, high = dimension.bounds
            floats = FloatDistribution(float(low), float(high), log=kind == "log_uniform")
            return ParamMapping(key, key, floats, dimension.size)


class Space:
    """The search space of a spec: a `ParamMapping` for each key, in order. ``size`` is that of the spec."""

    def __init__(self, spec: SweepSpec) -> None:
        self.size = spec.space_size
        self._rate = spec.search.space.get("learning_rate")
        self._batch_size = spec.train.batch_size
        self.mappings = {key: param_mapping(key, dimension) for key, dimension in spec.search.space.items()}

    @property
    def distributions(self) -> dict[str, BaseDistribution]:
        """Distribution by parameter."""
        return {mapping.param: mapping.distribution for mapping in self.mappings.values()}

    def encode(
        self, params: Mapping[str, Any], coordinates: Mapping[str, Any] | None = None
    ) -> dict[str, Param]:
        """Optuna's parameters of params, which may be partial; `ValueError` if a key or value is not in the space.

        Args:
            params: Swept field to value.
            coordinates: Values on the sampler's own scale that are known exactly; see `coordinates`.
        """
        params = {**self._on_own_scale(params), **(coordinates or {})}
        unknown = sorted(set(params) - set(self.mappings))
        if unknown:
            raise ValueError(f"not in the space: {', '.join(unknown)}")
        return {self.mappings[key].param: self.mappings[key].encode(value) for key, value in params.items()}

    def decode(self, optuna_params: Mapping[str, Param]) -> dict[str, Any]:
        """Params of a full set of Optuna's parameters."""
        params = self._decoded(optuna_params)
        if _RATE in params:
            params[_RATE] = _rounded(params[_RATE], self._scale(params))
        return params

    def coordinates(self, optuna_params: Mapping[str, Param]) -> dict[str, Any]:
        """Values on the sampler's own scale that differ from the params: a learning rate at ``at_batch``."""
        if self._rate is None or self._rate.at_batch is None:
            return {}
        return {_RATE: self._decoded(optuna_params)[_RATE]}

    def _decoded(self, optuna_params: Mapping[str, Param]) -> dict[str, Any]:
        return {key: mapping.decode(optuna_params[mapping.param]) for key, mapping in self.mappings.items()}

    def _on_own_scale(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """The params with a scaled learning rate as it is at ``at_batch``; the end of its range that it equals but for
        rounding is that end.
        """
        found = dict(params)
        scale = self._scale(params) if _RATE in params else 1.0
        if scale == 1.0 or self._rate is None:
            return found
        own = found[_RATE] / scale
        ends = self._rate.choices or self._rate.bounds
        found[_RATE] = next((end for end in ends if math.isclose(own, end, rel_tol=1e-9)), own)
        return found

    def _scale(self, params: Mapping[str, Any]) -> float:
        if self._rate is None or self._rate.at_batch is None:
            return 1.0
        batch_size = params.get("batch_size", self._batch_size)
        if batch_size is None:
            raise ValueError("learning_rate: is scaled with batch_size, which is not given")
        return self._rate.scale(int(batch_size))

    def nth(self, position: int) -> dict[str, Param]:
        """Optuna's parameters at a position of a finite space, 0 <= position < size."""
        optuna_params = {}
        for mapping in self.mappings.values():
            assert mapping.size is not None
            position, here = divmod(position, mapping.size)
            optuna_params[mapping.param] = mapping.nth(here)
        return optuna_params


def _rounded(rate: float, scale: float) -> float:
    """A scaled rate, rounded so that a rate given by a user is found again."""
    return rate if scale == 1.0 else float(f"{rate * scale:.12g}")


def config_key(optuna_params: Mapping[str, Param]) -> str:
    """A text that is equal for equal params only."""
    return json.dumps(optuna_params, sort_keys=True)


def _label(value: Any) -> Param:
    if value is None or isinstance(value, bool | int | float | str):
        return value
    return json.dumps(value, sort_keys=True)

"""What may not change when a run goes on, and what is no change."""

from __future__ import annotations

from typing import Any

import pytest

from sweepft.driver.resume import _comparable
from sweepft.errors import SpecError
from sweepft.spec import from_dict


def spec(**data: Any) -> dict[str, Any]:
    return {
        "name": "n",
        "model": {"path": "org/m"},
        "data": {"train": [{"path": "org/a"}], "validation": [{"name": "own", "fraction": 0.1}], **data},
        "train": {"budget": {"samples": 64}, "micro_batch": 2, "learning_rate": 1e-3},
        "search": {"trials": 3, "space": {"batch_size": {"choice": [4, 8]}}},
    }


def test_a_run_begun_before_a_key_was_known_goes_on() -> None:
    """A key that its ledger lacks has its default."""
    before = from_dict(spec()).to_dict()
    for key in ("strategy", "phases", "replay", "mixture"):
        del before["data"][key]
    _comparable(before, from_dict(spec()))


def test_another_strategy_or_weight_is_another_run() -> None:
    with pytest.raises(SpecError, match=r"data\.mixture\.a: cannot change in a run that has begun"):
        _comparable(from_dict(spec()).to_dict(), from_dict(spec(mixture={"a": 2.0})))

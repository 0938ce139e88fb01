"""What may not change when a run goes on, and what is no change."""

from __future__ import annotations

import pytest

from support.specs import spec_dict
from sweepft.driver.resume import _comparable
from sweepft.errors import SpecError
from sweepft.spec import from_dict


def test_a_run_begun_before_a_key_was_known_goes_on() -> None:
    """A key that its ledger lacks has its default."""
    before = from_dict(spec_dict()).to_dict()
    for key in ("strategy", "phases", "replay", "mixture"):
        del before["data"][key]
    _comparable(before, from_dict(spec_dict()))


def test_another_strategy_or_weight_is_another_run() -> None:
    with pytest.raises(SpecError, match=r"data\.mixture\.a: cannot change in a run that has begun"):
        _comparable(from_dict(spec_dict()).to_dict(), from_dict(spec_dict(data={"mixture": {"a": 2.0}})))

"""What may not change when a run goes on, and what is no change."""

from __future__ import annotations

from support.errors import raises
from support.specs import spec_dict
from sweepft.driver.start import _check_changes
from sweepft.errors import SpecError
from sweepft.spec import from_dict


def test_check_changes__missing_keys_have_defaults() -> None:
    """A key that its ledger lacks has its default."""
    before = from_dict(spec_dict()).to_dict()
    for key in ("strategy", "phases", "replay", "mixture"):
        del before["data"][key]
    _check_changes(before, from_dict(spec_dict()))


def test_check_changes__refuses_other_mixture() -> None:
    with raises(SpecError, "data.mixture.a"):
        _check_changes(from_dict(spec_dict()).to_dict(), from_dict(spec_dict(data={"mixture": {"a": 2.0}})))

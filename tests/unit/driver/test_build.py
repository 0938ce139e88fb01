"""Restoring a sweep from its ledger: names that lead out of the run folder are refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.errors import raises
from support.ledger_builder import LedgerBuilder
from sweepft.driver.build import _check_names
from sweepft.errors import LedgerCorrupt
from sweepft.ledger import SweepState


def state_with(*names: str) -> SweepState:
    ledger = LedgerBuilder()
    for name in names:
        ledger.trial(name)
    return ledger.state()


@pytest.mark.parametrize("name", ["../x", "a/b", "..", ".hidden", "", "a\0b", "a" * 81])
def test_restore__refuses_trial_that_cannot_be_a_folder_name(name: str) -> None:
    with raises(LedgerCorrupt, "ledger.trial_id"):
        _check_names(Path("run"), state_with(name))


def test_restore__accepts_own_trial_names() -> None:
    _check_names(Path("run"), state_with(*(f"t{n:03d}" for n in (0, 999, 12345))))

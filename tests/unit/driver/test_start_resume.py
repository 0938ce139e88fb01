"""What may not change when a run goes on, and what is no change."""

from __future__ import annotations

import pytest

from support.errors import raises
from support.ledger_builder import LedgerBuilder
from support.specs import spec_dict
from sweepft.driver.start import _check_changes, failed_trials
from sweepft.errors import CommandError, SpecError
from sweepft.ledger import RETRY
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


def sweep_with_failures() -> LedgerBuilder:
    sweep = LedgerBuilder(budget_samples=100).completed("t0", 1.5)
    for name in ("t1", "t2"):
        sweep.trial(name).result(name, 5).end(name, "failed", reason="a broken GPU")
    return sweep.finish("failed")


@pytest.mark.parametrize(
    ("wanted", "found"), [(None, []), ((), ["t1", "t2"]), (("t2",), ["t2"]), (("t2", "t2"), ["t2"])]
)
def test_failed_trials__all_or_those_named(wanted: tuple[str, ...] | None, found: list[str]) -> None:
    state = sweep_with_failures().state()
    assert [trial.trial_id for trial in failed_trials(state, wanted)] == found


@pytest.mark.parametrize("name", ["t0", "t9"], ids=["completed", "unknown"])
def test_failed_trials__refuses_others(name: str) -> None:
    with raises(CommandError, name):
        failed_trials(sweep_with_failures().state(), ["t1", name])


def test_retry__failed_trial_is_open_with_its_steps() -> None:
    state = sweep_with_failures().sweep(resumed=True).command(RETRY, "t1").state()
    assert [trial.trial_id for trial in state.with_status("interrupted")] == ["t1"]
    assert (state.trials["t1"].step, state.trials["t1"].open, state.trials["t1"].reason) == (5, True, None)

"""Which failed trials a resume runs again."""

from __future__ import annotations

import pytest

from support.errors import raises
from support.ledger_builder import LedgerBuilder
from sweepft.driver.start import failed_trials
from sweepft.errors import CommandError
from sweepft.ledger import RETRY


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

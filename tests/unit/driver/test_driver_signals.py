"""What the first, second and third signal do while trials run, while the report is written, and while a wait can be cut."""

from __future__ import annotations

import io
import signal
from signal import SIGHUP, SIGINT, SIGTERM

import pytest
from rich.console import Console

from sweepft.driver.control import SweepControl
from sweepft.driver.signals import SweepSignals
from sweepft.interrupts import Interrupted, signals_raise


@pytest.fixture
def control() -> SweepControl:
    return SweepControl()


@pytest.fixture
def signals(control: SweepControl) -> SweepSignals:
    return SweepSignals(control, Console(file=io.StringIO()))


@pytest.mark.parametrize(
    ("sent", "stopping", "immediate", "raises"),
    [
        ([SIGTERM], True, False, False),
        ([SIGTERM, SIGINT], True, True, False),
        ([SIGHUP, SIGHUP, SIGHUP], True, False, False),  # the kernel's and the shell's are one
        ([SIGHUP, SIGTERM], True, True, False),
        ([SIGINT, SIGINT, SIGINT], True, True, True),
    ],
)
def test_sweep_signals__while_trials_run(
    signals: SweepSignals,
    control: SweepControl,
    sent: list[int],
    stopping: bool,
    immediate: bool,
    raises: bool,
) -> None:
    raised = False
    with signals:
        try:
            for number in sent:
                signal.raise_signal(number)
        except Interrupted:
            raised = True
    assert (control.stopping, control.immediate, raised) == (stopping, immediate, raises)


def test_sweep_signals__the_report_is_written_after_one_more_signal(signals: SweepSignals) -> None:
    with signals:
        signal.raise_signal(SIGTERM)
        signals.begin_report()
        signal.raise_signal(SIGTERM)
        assert signals.received == 2
        with pytest.raises(Interrupted):
            signal.raise_signal(SIGTERM)


@pytest.mark.parametrize(("number", "received"), [(SIGINT, 0), (SIGTERM, 1)])
def test_sweep_signals__every_signal_cuts_a_wait(signals: SweepSignals, number: int, received: int) -> None:
    with signals:
        signals.begin_report()
        with pytest.raises(Interrupted), SweepSignals.raising():
            signal.raise_signal(number)
        assert signals.received == received, "Ctrl-C cuts the wait and nothing else"


def test_signals__ignored_ones_stay_ignored(signals: SweepSignals, control: SweepControl) -> None:
    before = signal.signal(SIGHUP, signal.SIG_IGN)
    try:
        with signals, signals_raise():
            signal.raise_signal(SIGHUP)
        assert signal.getsignal(SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(SIGHUP, before)
    assert not control.stopping


def test_signals_raise__and_the_old_handlers_return() -> None:
    before = signal.getsignal(SIGTERM)
    with pytest.raises(Interrupted) as caught, signals_raise():
        signal.raise_signal(SIGTERM)
    assert caught.value.number == SIGTERM
    assert signal.getsignal(SIGTERM) == before

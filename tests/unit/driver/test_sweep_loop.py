"""The report is kept up to date while the sweep runs, at a fiftieth of the driver's time, and never ends the sweep."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest

from sweepft.driver.ledger_listeners import LiveReport
from sweepft.ledger import SweepState


class Desk:
    """A clock and a writer whose pages cost so many seconds of it."""

    def __init__(self, cost: float, error: Exception | None = None) -> None:
        self.now, self.cost, self.error = 1000.0, cost, error
        self.written: list[float] = []

    def write(self, run_dir: Path, **options: Any) -> None:
        assert options.keys() == {"live", "state"}
        assert options["live"] is True
        self.written.append(self.now)
        self.now += self.cost
        if self.error is not None:
            raise self.error

    def live(self) -> LiveReport:
        return LiveReport(Path("run"), SweepState(), self.write, lambda: self.now)


def tell(live: LiveReport, desk: Desk, *rows: tuple[float, str]) -> list[float]:
    """Rows at these seconds since the begin; returns at which of them a page was written."""
    for at, kind in rows:
        desk.now = max(desk.now, 1000.0 + at)
        live.on_row({"kind": kind})
    return [round(t - 1000.0, 3) for t in desk.written]


@pytest.mark.parametrize(
    ("cost", "rows", "written"),
    [
        (0.1, [(0, "trial")], [0]),
        (0.1, [(0, "trial"), (10, "steps"), (59, "steps"), (61, "steps")], [0, 61]),
        (0.1, [(0, "trial"), (10, "end"), (19, "end"), (25, "steps")], [0, 25]),
        (0.1, [(0, "trial"), (25, "end"), (30, "end"), (46, "cost")], [0, 25, 46]),
        (0.1, [(0, "trial"), (25, "end"), (50, "steps"), (86, "steps")], [0, 25, 86]),
        (2.0, [(0, "trial"), (60, "end"), (101, "end"), (103, "end")], [0, 103]),
        (0.1, [(0, "trial"), (90, "finish")], [0]),
    ],
    ids=[
        "there is a page from the first row on",
        "in between, once a minute",
        "an end is shown once twenty seconds have passed, with whatever row comes then",
        "each end is shown",
        "an end that is shown does not hasten the page after",
        "a page of two seconds is made every hundred seconds at most",
        "the last page is not this one's",
    ],
)
def test_live_report__when_it_is_written(
    cost: float, rows: list[tuple[float, str]], written: list[float]
) -> None:
    desk = Desk(cost)
    assert tell(desk.live(), desk, *rows) == written


def test_live_report__failure_is_logged_and_retried(caplog: pytest.LogCaptureFixture) -> None:
    desk = Desk(0.1, ValueError("no room"))
    with caplog.at_level(logging.WARNING):
        assert tell(desk.live(), desk, (0, "trial"), (1, "steps"), (70, "steps")) == [0, 70]
    assert "report not written: run=run error=ValueError('no room')" in caplog.text

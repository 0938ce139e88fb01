"""Charts of the search in a real browser that need more than the usual sweep: the expected gain of a further trial, and
the objective against a bounded task.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from test_report_browser import browser, playwright, pytestmark, scroll_through, visit

from support.ledger_builder import LedgerBuilder
from sweepft.report import write_report

__all__ = [
    "browser",
    "playwright",
    "pytestmark",
    "visit",
]  # fixtures, and the mark that skips without a browser

EXPECTED = [None, 0.09, 0.05, 0.02, 0.004]


BELOW_BASE = {"gsm": {"at_most": 0.1, "below": "base"}}


def run_with(folder: Path, expected: list[float | None], bounds: dict[str, Any] = BELOW_BASE) -> Path:
    """Completed trials that learn more the higher their rate, and forget more; with checks of ``search.enough``."""
    gsm = {"task": "gsm", "metric": "acc", "limit": 100}
    search = {
        "trials": 20,
        "subject_to": bounds,
        "enough": {"gain": 0.01, "min_trials": 2},
        "space": {"learning_rate": {"log_uniform": [1e-5, 1e-2]}},
    }
    sweep = LedgerBuilder(spec={"objective": {"measure": [gsm]}, "search": search})
    sweep.score(None, "measured: gsm", {"acc": (0.6, 0.05)}, what="measured")
    for i, gain in enumerate(expected):
        name, rate = f"t{i:03d}", 1e-5 * 4**i
        tasks = {
            "gsm": {
                "value": 0.62 - 0.1 * i,
                "stderr": 0.05,
                "items": 100,
                "seconds": 2.0,
                "higher_is_better": True,
            }
        }
        sweep.trial(name, params={"learning_rate": rate}).steps(name, 10)
        sweep.eval(name, 2.0 - 0.1 * i, tasks=tasks).cost(name).end(name, "completed", 2.0 - 0.1 * i)
        sweep.write("enough", completed=i + 1, expected=gain, gain=0.01, enough=gain == 0.004, left=15)
    sweep.finish().save(folder)
    write_report(folder)
    return folder


def test_browser__draws_what_a_further_trial_may_gain(visit: Any, tmp_path: Path) -> None:
    page = visit(run_with(tmp_path / "run", EXPECTED))
    scroll_through(page)
    assert page.locator("#c-enough .main-svg").count() > 0
    drawn = page.evaluate("""() => {
        const { traces, layout } = enoughFigure();
        return [traces[0].x, traces[0].y, layout.shapes[0].y0, layout.yaxis.title.text];
    }""")
    assert drawn == [[2, 3, 4, 5], EXPECTED[1:], 0.01, "expected gain of a further trial (nats)"]


def test_browser__has_no_such_chart_before_two_estimates(visit: Any, tmp_path: Path) -> None:
    page = visit(run_with(tmp_path / "run", EXPECTED[:2]))
    assert page.locator("#c-enough").count() == 0


def test_browser__objective_against_a_bounded_task(visit: Any, tmp_path: Path) -> None:
    """More is better on the task, so the front runs the other way than against a loss."""
    page = visit(run_with(tmp_path / "run", EXPECTED))
    scroll_through(page)
    figure = page.evaluate("""() => {
        const { traces, layout } = paretoFigure();
        return [traces[0].y, layout.yaxis.title.text, layout.annotations.map((a) => a.text)];
    }""")
    assert figure == [
        [pytest.approx(0.62 - 0.1 * i) for i in (4, 3, 2, 1, 0)],
        "gsm acc",
        ["bound 0.5", "base model 0.6"],
    ]
    heading = page.locator("#c-pareto").locator("xpath=..").locator("h3").inner_text()
    assert heading == "Validation loss against gsm acc"
    assert page.locator("#bounds h2").inner_text() == "Objective against bounded losses and tasks"
    assert "at least 0.5" in page.locator("#bounds thead").inner_text()


def test_browser__names_what_the_chart_shows_and_follows_the_nearest_trial(
    visit: Any, tmp_path: Path
) -> None:
    """The first bound is on the objective's own set, which is no second axis; no trial meets both."""
    bounds = {"math": {"at_most": 1.95}, "gsm": {"at_least": 0.62}}
    page = visit(run_with(tmp_path / "run", EXPECTED, bounds))
    scroll_through(page)
    card = page.locator("#c-pareto").locator("xpath=..")
    assert card.locator("h3").inner_text() == "Validation loss against gsm acc"
    assert card.locator("p").inner_text().startswith("Up and left is better")
    line = page.evaluate("() => bestFigure().traces[1].y")
    assert line == [2.0] * 5, "later trials have lower losses, and are farther beyond the bounds"

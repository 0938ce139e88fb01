"""Pages that change or stand side by side, in a real browser: the live page follows the sweep; the comparison fits.

Needs playwright and a chromium of the system; skipped where either is missing.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from synthetic_sweep import Sweep
from test_report_browser import CHROMIUM, DESKTOP, PHONE, browser, scroll_through, visit

from sweepft.ledger import SweepState
from sweepft.report import write as report_page
from sweepft.report import write_report
from sweepft.report.compare import compare

__all__ = ["browser", "visit"]  # fixtures

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")


def keep_a_hand_on(page: Any) -> None:
    """The page loads itself again three times a second: from now on it does not, until ``touched`` is 0 again."""
    from playwright.sync_api import Error

    while True:
        try:
            page.evaluate("touched = Infinity")
        except Error:  # it was just being loaded again
            page.wait_for_load_state()
        else:
            return


def test_browser__live_page_follows_the_sweep_and_ends_with_it(
    visit: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(report_page, "REFRESH_SECONDS", 0.3)
    full = Sweep(trials=48).write(tmp_path / "full")
    lines = (full / "ledger/ledger.jsonl").read_bytes().splitlines(keepends=True)
    run = tmp_path / "run"
    ledger = run / "ledger/ledger.jsonl"
    ledger.parent.mkdir(parents=True)
    ledger.write_bytes(b"".join(lines[:600]))
    write_report(run, live=True)
    page = visit(run)
    assert "updated" in page.locator(".sub").inner_text()
    keep_a_hand_on(page)
    page.add_style_tag(
        content="html { scroll-behavior: auto }"
    )  # filling in scrolls there: at once, not for a while
    page.locator("#filter").fill("cosine")
    page.evaluate("scrollTo({ top: 500, behavior: 'instant' })")

    ledger.write_bytes(b"".join(lines))
    write_report(run)
    page.evaluate(
        "void setTimeout(() => { touched = 0; }, 100)"
    )  # not at once: the page would go under this call
    page.wait_for_selector("#fresh", state="detached")
    page.wait_for_selector("body[data-ready=all]")
    assert page.locator("#filter").input_value() == "cosine"
    assert page.evaluate("scrollY") == pytest.approx(500, abs=2)
    assert page.evaluate("D.refresh") == 0


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("device", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_browser__comparison_is_drawn_and_nothing_overflows(
    visit: Callable[..., Any], tmp_path: Path, device: dict, theme: str
) -> None:
    hostile = "<script>window.hurt = 1</script>"
    states = []
    for i, trials in enumerate((12, 12, 6)):
        folder = Sweep(trials=trials, name=f"sweep-{i}", seed=i, slots=2).write(tmp_path / f"run{i}")
        states.append((str(folder), SweepState.load(folder)))
    states[2][1].header["name"] = hostile + "x" * 300
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "report.html").write_text(report_page.render_comparison(compare(states, 2.5)))
    page = visit(tmp_path / "out", **device, color_scheme=theme)
    assert page.locator("#c-best-over-time .scatterlayer .trace").count() == 3
    assert page.locator("#sweeps thead th").count() == 4
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert page.evaluate("typeof window.hurt") == "undefined"


def test_browser__shows_trials_of_an_unknown_status(visit: Callable[..., Any], tmp_path: Path) -> None:
    run = Sweep(trials=24).write(tmp_path)
    view = SweepState.load(run)
    for status, trial in zip(("paused", "paused", "of-tomorrow"), view.with_status("stopped"), strict=False):
        trial.status = status
    write_report(run, state=view)
    page = visit(run)
    scroll_through(page)
    chips = page.locator("#chips button").all_inner_texts()
    assert "paused 2" in chips
    assert "of-tomorrow 1" in chips
    legend = page.locator("#c-curves .legendtext").all_text_contents()
    assert "paused (2)" in legend
    assert "of-tomorrow (1)" in legend
    page.locator("#filter").fill("of-tomorrow")
    page.locator("#trials tbody tr").first.click()
    assert "not ranked" in page.locator("dialog[open]").inner_text()

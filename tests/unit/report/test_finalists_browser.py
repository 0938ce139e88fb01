"""The finalists' table in a real browser: it opens trials, and on a phone the table scrolls, not the page."""

from __future__ import annotations

from pathlib import Path

import pytest
from finals_sweep import finals_sweep
from test_report_browser import CHROMIUM, DESKTOP, PHONE, browser, visit

from sweepft.report import write_report

__all__ = ["browser", "visit"]

pytestmark = [pytest.mark.full, pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")]


@pytest.mark.parametrize("screen", [DESKTOP, PHONE], ids=["desktop", "phone"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_browser__finalists_table_opens_trials_and_fits(visit, tmp_path: Path, screen, scheme):
    run = finals_sweep(tmp_path)
    write_report(run)
    page = visit(run, **screen, color_scheme=scheme)
    page.locator("#finalists").scroll_into_view_if_needed()
    assert page.locator("#finalists tbody tr").count() == 3
    assert page.locator("#finalists tr.base").inner_text().strip().startswith("base model")
    assert page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
    page.locator("#finalists button[data-trial=t1]").click()
    assert page.locator("#trial-title").inner_text() == "t1"


def test_browser__marks_the_final_winner_not_the_first_of_the_ranking(visit, tmp_path: Path):
    run = finals_sweep(tmp_path, chosen=("t1",))
    write_report(run)
    page = visit(run)
    assert page.locator("#result .winner").inner_text() == "t1"
    assert page.locator("#trials td:nth-child(1)").all_inner_texts()[:3] == ["1", "—", "—"]
    assert page.locator("#trials td:nth-child(3)").all_inner_texts()[:3] == ["t1", "t0", "t2"]
    assert page.locator("#trials tr.first td:nth-child(3)").all_inner_texts() == ["t1"]
    page.locator("#filter").fill("finalist")
    assert page.locator("#trials td:nth-child(3)").all_inner_texts() == ["t1"]

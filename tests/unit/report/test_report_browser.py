"""The page in a real browser: sorted, filtered, opened, turned dark, held like a phone - without a console error.

Needs playwright and a chromium of the system; skipped where either is missing.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from synthetic_sweep import Sweep
from test_report_files import hostile_sweep

from sweepft.report import write_report

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")

DESKTOP = {"viewport": {"width": 1280, "height": 900}}
PHONE = {"viewport": {"width": 390, "height": 844}, "is_mobile": True, "has_touch": True}


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as p:
        chromium = p.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = Sweep(trials=48).write(tmp_path_factory.mktemp("run"))
    write_report(run)
    return run


@pytest.fixture
def visit(browser: Any) -> Iterator[Callable[..., Any]]:
    """Opens a report; at the end of the test there must have been no message of the console and no request."""
    contexts, said = [], []

    def open_page(run: Path, **options: Any) -> Any:
        context = browser.new_context(**{**DESKTOP, **options})
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(120_000)
        page.on("console", lambda m: said.append(m.text) if m.type in ("error", "warning") else None)
        page.on("pageerror", lambda e: said.append(str(e)))
        page.on(
            "request", lambda r: None if r.url.startswith(("file:", "data:", "blob:")) else said.append(r.url)
        )
        page.goto((run / "report.html").as_uri())
        page.wait_for_selector("body[data-ready=all]")
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert said == []


def scroll_through(page: Any) -> None:
    """Every chart comes into view once: it is drawn, or its card is hidden because there is nothing to draw."""
    page.evaluate("""async () => {
        for (const chart of document.querySelectorAll('.chart')) {
            chart.scrollIntoView({ behavior: 'instant' });
            while (chart.offsetParent && !chart.querySelector('.main-svg, p')) {
                await new Promise((done) => setTimeout(done, 20));
            }
        }
    }""")


def column(page: Any, n: int) -> list[str]:
    return page.locator(f"#trials tbody tr td:nth-child({n})").all_inner_texts()


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("device", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_browser__every_chart_is_drawn_and_nothing_overflows(
    visit: Callable[..., Any], run: Path, device: dict, theme: str
) -> None:
    page = visit(run, **device, color_scheme=theme)
    scroll_through(page)
    charts = page.locator(".chart").all()
    assert len(charts) == 9
    for chart in charts:
        assert chart.locator(".main-svg").count() > 0, chart.get_attribute("id")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    cut = page.evaluate("""() => [...document.querySelectorAll('.chart')].flatMap((chart) => {
        const box = chart.getBoundingClientRect();
        return [...chart.querySelectorAll('.xtick text, .ytick text, .xtitle, .ytitle, .legendtext')].filter((text) => {
            const r = text.getBoundingClientRect();
            const inside = r.left > box.left - 1 && r.right < box.right + 1 && r.top > box.top - 1;
            return r.width && !(inside && r.bottom < box.bottom + 1);
        }).map((text) => chart.id + ': ' + text.textContent);
    })""")
    assert cut == [], "labels cut at the edge of their chart"


def test_browser__pareto_chart_uses_a_loss_outside_the_objective(
    visit: Callable[..., Any], run: Path
) -> None:
    page = visit(run)
    page.wait_for_function("R !== null")
    against = page.evaluate("""() => {
        for (const t of done()) t.validation.math.loss += 0.1;  // as where two sets decide: neither is the objective
        return paretoFigure().layout.yaxis.title.text;
    }""")
    assert against.startswith("retention")


def test_browser__no_chart_offers_to_send_data_away(visit: Callable[..., Any], run: Path) -> None:
    page = visit(run)
    scroll_through(page)
    titles = page.evaluate("[...document.querySelectorAll('.modebar-btn')].map((b) => b.dataset.title)")
    assert "Zoom" in titles
    assert not [t for t in titles if "share" in t.lower() or "cloud" in t.lower() or "edit" in t.lower()]
    assert page.evaluate("[...document.querySelectorAll('.chart')].every((c) => !c._context.plotlyServerURL)")
    assert "form-action 'none'" in page.content()


def test_browser__sort_filter_and_open(visit: Callable[..., Any], run: Path) -> None:
    page = visit(run)
    ranks = [r for r in column(page, 1) if r != "—"]
    assert ranks == [str(i + 1) for i in range(len(ranks))]
    header = page.locator("#trials th", has_text="learning_rate")
    header.locator("button").click()
    values = [float(v) for v in column(page, 7)]
    assert values == sorted(values)
    assert header.get_attribute("aria-sort") == "ascending"
    header.locator("button").click()
    assert [float(v) for v in column(page, 7)] == sorted(values, reverse=True) or len(values) == 40

    page.locator("#trials th", has_text="validation loss").locator("button").click()
    page.locator("#trials th", has_text="validation loss").locator("button").click()
    losses = [v for v in column(page, 4) if v != "—"]
    assert losses == sorted(losses, reverse=True)
    assert "—" not in column(page, 4)[: len(losses)], "what is not known stays below, whichever way is sorted"

    page.locator("#filter").fill("schedule=cosine stopped")
    assert set(column(page, 3)) == {"stopped"}
    assert set(column(page, 9)) == {"cosine"}
    page.locator("#filter").fill("no such trial")
    assert "No trial matches" in page.locator("#trials tbody").inner_text()
    page.locator("#filter").fill("")
    page.locator("#chips button", has_text="stopped").click()
    assert "stopped" not in column(page, 3)

    page.locator("#trials tbody tr").first.click()
    dialog = page.locator("dialog[open]")
    first = dialog.locator("h2").inner_text()
    assert first == column(page, 2)[0]
    assert dialog.locator(".main-svg").count() > 0
    assert "learning_rate" in dialog.inner_text()
    dialog.locator("button[aria-label='Next trial']").click()
    assert dialog.locator("h2").inner_text() == column(page, 2)[1]
    assert page.url.endswith("#trial=" + column(page, 2)[1])
    page.keyboard.press("Escape")
    assert page.locator("dialog[open]").count() == 0


def test_browser__stopped_trial_has_a_reason_and_no_loss(visit: Callable[..., Any], run: Path) -> None:
    page = visit(run)
    page.locator("#filter").fill("stopped")
    page.locator("#trials tbody tr").first.click()
    text = page.locator("dialog[open]").inner_text()
    assert "not ranked" in text
    assert "is worse than the median" in text
    assert "none: the trial did not reach the full budget" in text


def test_browser__all_rows_can_be_reached(visit: Callable[..., Any], run: Path) -> None:
    page = visit(run)
    assert len(column(page, 1)) == 40
    page.locator("#more").click()
    assert len(column(page, 1)) == 48
    assert page.locator("#more").is_hidden()


def test_browser__every_choice_of_the_curves_draws(visit: Callable[..., Any], run: Path) -> None:
    page = visit(run)
    scroll_through(page)
    for select in page.locator("#curve-controls select").all():
        for i in range(select.locator("option").count()):
            select.select_option(index=i)
            assert page.locator("#c-curves .scatterlayer .trace").count() > 0
    for box in page.locator("#curve-controls input").all():
        box.click()
    assert page.locator("#c-curves .scatterlayer .trace").count() > 0


def test_browser__theme_can_be_switched_and_is_kept(visit: Callable[..., Any], run: Path) -> None:
    page = visit(run, color_scheme="light")
    ground = "getComputedStyle(document.body).backgroundColor"
    light = page.evaluate(ground)
    page.locator("#theme").click()
    dark = page.evaluate(ground)
    assert dark != light
    page.reload()
    page.wait_for_selector("body[data-ready=all]")
    assert page.evaluate(ground) == dark


def test_browser__link_to_a_trial_opens_it(visit: Callable[..., Any], run: Path, browser: Any) -> None:
    page = visit(run)
    name = column(page, 2)[3]
    page.goto((run / "report.html").as_uri() + "#trial=" + name)
    page.reload()
    page.wait_for_selector("dialog[open]")
    assert page.locator("dialog[open] h2").inner_text() == name


@pytest.mark.parametrize("device", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_browser__hostile_texts_run_nothing_and_break_nothing(
    visit: Callable[..., Any], tmp_path: Path, device: dict
) -> None:
    run = hostile_sweep(tmp_path)
    write_report(run)
    page = visit(run, **device)
    scroll_through(page)
    for i in range(13):
        page.locator("#trials tbody tr").nth(i).click()
        page.keyboard.press("Escape")
    assert page.evaluate("typeof window.hurt") == "undefined"
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert page.locator("img").count() == 0


@pytest.mark.parametrize("rows", [1, 60, 400])
def test_browser__sweep_that_has_just_begun_has_a_page(
    visit: Callable[..., Any], run: Path, tmp_path: Path, rows: int
) -> None:
    lines = (run / "ledger/ledger.jsonl").read_bytes().splitlines(keepends=True)
    (tmp_path / "ledger").mkdir()
    (tmp_path / "ledger/ledger.jsonl").write_bytes(b"".join(lines[:rows]))
    write_report(tmp_path, live=True)
    page = visit(tmp_path)
    scroll_through(page)
    assert page.locator("#problem").is_hidden()

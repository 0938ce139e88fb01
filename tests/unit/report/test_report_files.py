"""The files of a report and their content, for any state of a sweep and any text."""

from __future__ import annotations

import base64
import csv
import gzip
import io
import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console
from synthetic_sweep import Sweep

from support.errors import raises
from sweepft.errors import LedgerError, StorageError
from sweepft.ledger import Ledger, SweepState, read_ledger
from sweepft.report import summarise, terminal_table, write_report
from sweepft.report.tables import CSV_COLUMNS, markdown, ranked_csv
from sweepft.report.write import render_page


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Sweep(trials=24).write(tmp_path_factory.mktemp("run"))


def table(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def page_data(page: str) -> dict:
    packed = re.search(r'<script type="text/plain" id="data">([A-Za-z0-9+/=]+)</script>', page)[1]
    return json.loads(gzip.decompress(base64.b64decode(packed)))


def terminal(view: SweepState, width: int = 160) -> str:
    console = Console(width=width, file=io.StringIO(), force_terminal=True)
    console.print(terminal_table(view))
    return console.file.getvalue()


def test_write_report__every_trial_is_in_every_file_as_in_the_ledger(run: Path) -> None:
    paths = write_report(run)
    assert {k: p.name for k, p in paths.items()} == {
        "csv": "ranked.csv", "json": "report.json", "md": "report.md", "html": "report.html"}  # fmt: skip
    ends = {r["trial_id"]: r for r in read_ledger(run) if r["kind"] == "end"}
    rows = table(paths["csv"].read_text(encoding="utf-8"))
    report = json.loads(paths["json"].read_text(encoding="utf-8"))
    assert {r["trial_id"] for r in rows} == set(ends) == {t["trial_id"] for t in report["trials"]}
    for row, trial in zip(rows, report["trials"], strict=True):
        end = ends[row["trial_id"]]
        assert row["status"] == trial["status"] == end["status"]
        assert int(row["step"]) == trial["step"] == end["step"]
        assert int(row["samples_seen"]) == end["samples_seen"]
        if end["status"] == "completed":
            assert float(row["objective"]) == trial["objective"] == end["objective"]
            assert float(row["validation.math"]) == end["objective"]
        else:
            assert row["rank"] == row["objective"] == row["validation.math"] == ""
            assert trial["rank"] is trial["objective"] is None
    ranked = [r for r in rows if r["rank"]]
    assert [int(r["rank"]) for r in ranked] == list(range(1, len(ranked) + 1))
    assert [float(r["objective"]) for r in ranked] == sorted(
        e["objective"] for e in ends.values() if e["objective"]
    )
    page = page_data(paths["html"].read_text(encoding="utf-8"))
    assert [t["trial_id"] for t in page["report"]["trials"]] == [t["trial_id"] for t in report["trials"]]


def test_ranked_csv__columns_are_the_documented_ones(run: Path) -> None:
    header = ranked_csv(summarise(SweepState.load(run))).splitlines()[0].split(",")
    assert header == [
        *CSV_COLUMNS,
        "batch_size",
        "learning_rate",
        "warmup",
        "schedule",
        "validation.math",
        "validation.retention",
    ]


def test_ranked_csv__swept_key_named_as_a_column_gets_a_prefix(tmp_path: Path) -> None:
    run = Sweep(trials=2, configs=[{"step": 7, "validation.math": 1}] * 2).write(tmp_path)
    header = ranked_csv(summarise(SweepState.load(run))).splitlines()[0].split(",")
    assert len(set(header)) == len(header)
    assert {"step", "params.step", "params.validation.math", "validation.math"} <= set(header)


def test_report__imports_neither_torch_nor_ray(run: Path) -> None:
    code = """
        import sys
        from sweepft.report import write_report
        write_report(sys.argv[1])
        loaded = {m.partition('.')[0] for m in sys.modules} & {'torch', 'ray', 'deepspeed', 'transformers', 'datasets'}
        sys.exit(f'loaded {loaded}' if loaded else 0)
    """
    subprocess.run(
        [sys.executable, "-c", "\n".join(s.strip() for s in code.splitlines()), str(run)], check=True
    )


def test_html__needs_no_other_file(run: Path) -> None:
    page = write_report(run)["html"].read_text(encoding="utf-8")
    shell = re.sub(r'<script type="text/plain"[^>]*>[^<]*</script>', "", page)
    assert not re.search(r"""(?:src|href)\s*=\s*["']?(?:https?:)?//""", shell)
    assert "default-src 'none'" in shell
    assert page.count('id="plotly"') == 1
    assert len(page) < 2_500_000


def test_html__only_a_live_page_reloads_itself(run: Path) -> None:
    assert page_data(write_report(run, live=True)["html"].read_text())["refresh"] > 0
    assert page_data(write_report(run)["html"].read_text())["refresh"] == 0


def test_html__two_hundred_trials_fit_in_six_megabytes(tmp_path: Path) -> None:
    run = Sweep(trials=200, slots=8, rule="none", budget=12_800).write(tmp_path)
    assert write_report(run)["html"].stat().st_size < 6_000_000


def test_write_report__missing_ledger_or_folder_is_an_error(run: Path, tmp_path: Path) -> None:
    with raises(LedgerError, "ledger.missing"):
        write_report(tmp_path)
    view = SweepState.load(run)
    with raises(StorageError, "report.write"):
        write_report(tmp_path / "gone", state=view)


def test_write_report__replaces_its_files_atomically(run: Path) -> None:
    write_report(run)
    before = {p.name: p.stat().st_ino for p in run.iterdir() if p.is_file()}
    write_report(run)
    after = {p.name: p.stat().st_ino for p in run.iterdir() if p.is_file()}
    assert before.keys() == after.keys() == {"ranked.csv", "report.json", "report.md", "report.html"}
    assert all(before[k] != after[k] for k in before), "each is a new file, renamed into place"


# --- any state of a sweep -------------------------------------------------------------------------


def everything(view: SweepState) -> dict:
    """All outputs of a view; returns the page's data."""
    summary = summarise(view)
    json.dumps(summary, allow_nan=False)
    assert len(table(ranked_csv(summary))) == len(view.trials)
    assert "sweep report" in markdown(summary)
    assert terminal(view)
    return page_data(render_page(view, summary, live=True))


def test_report__of_an_empty_ledger(tmp_path: Path) -> None:
    Ledger.create(tmp_path).close()
    everything(SweepState.load(tmp_path))


@settings(deadline=None, max_examples=25)
@given(data=st.data())
def test_report__of_a_sweep_cut_at_any_row(run: Path, data: st.DataObject) -> None:
    rows = read_ledger(run)
    cut = data.draw(st.integers(1, len(rows)))
    view = SweepState.from_rows(rows[:cut])
    page = everything(view)
    assert len(page["curves"]) == len(view.trials)


def test_report__of_a_ledger_without_one_kind_of_row(run: Path) -> None:
    """Drivers of other versions may lack a kind of row altogether."""
    rows = read_ledger(run)
    for kind in ("start", "steps", "eval", "decision", "end", "cost", "fault", "finish"):
        everything(SweepState.from_rows([r for r in rows if r["kind"] != kind]))


# --- hostile texts --------------------------------------------------------------------------------

HOSTILE = [
    "<script>window.hurt = 1</script>",
    "</script><img src=x onerror='window.hurt=1'>",
    '"\' onmouseover="window.hurt=1" x=\'',
    "<!-- ]]> {{ 7 * 7 }} {% raw %}",
    "emoji 🤖🏳️‍🌈 and \u202eright to left",
    "x" * 10_000,
    "a\nb\r\nc\td\0\x1b[31mred\x1b[0m",
    "| pipe | `tick` **bold** [link](javascript:alert(1))",
    '=HYPERLINK("http://x","y")',
    "lone surrogate \ud800",
    "[bold red]markup[/]",
    "nan",
    "",
]


def hostile_sweep(tmp_path: Path) -> Path:
    """A sweep in which every free text is hostile: settings and their keys, reasons, errors. Names are plain: others are
    refused where the ledger is read."""
    configs = [
        {"learning_rate": 1e-3, "batch_size": 8, text[:40] or "k": text, "note": text} for text in HOSTILE
    ]
    odd = [float("nan"), float("-inf"), None, [1, "<b>"], {"a": {"b": []}}, True, 10**400]
    configs += [{"learning_rate": 1e-3, "batch_size": 16, "note": value} for value in odd]
    sweep = Sweep(trials=len(configs) + 6, slots=2, configs=configs, rule="median")
    run = sweep.write(tmp_path)
    rows = read_ledger(run)
    (run / "ledger/ledger.jsonl").unlink()
    with Ledger.create(run) as ledger:
        for i, row in enumerate(rows):
            fields = {k: v for k, v in row.items() if k not in ("seq", "time", "kind")}
            text = HOSTILE[i % len(HOSTILE)]
            for key in ("reason", "message", "error", "command", "git_commit"):
                if key in fields:
                    fields[key] = text
            if row["kind"] == "decision":
                fields["evidence"] = {text[:50]: text, "value": float("nan")}
            if row["kind"] == "eval":
                fields["sets"] = {**fields["sets"], HOSTILE[0]: {"loss": 2.0, "stderr": float("inf")}}
            if row["kind"] == "cost":
                fields["phase"] = text[:60] if i % 5 == 0 else fields["phase"]
            if row["kind"] == "sweep":
                fields["versions"] = fields["hardware"] = {text: text for text in HOSTILE}
                fields["spec"] = {**fields["spec"], "hostile": HOSTILE}
            ledger.append(row["kind"], **fields)
    return run


class Tags(HTMLParser):
    """Collects what a browser would run: script bodies, event attributes, links."""

    def __init__(self) -> None:
        super().__init__()
        self.scripts = 0
        self.bad: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.scripts += tag == "script"
        self.bad += [f"{tag} {k}" for k, _ in attrs if k.startswith("on")]
        self.bad += [
            f"{tag} {k}={v}"
            for k, v in attrs
            if k in ("src", "href") and not (v or "").startswith(("#", "data:"))
        ]
        if tag in ("img", "iframe", "object", "embed"):
            self.bad.append(tag)


def test_report__hostile_texts_do_no_harm(tmp_path: Path) -> None:
    run = hostile_sweep(tmp_path)
    paths = write_report(run)
    page = paths["html"].read_text(encoding="utf-8")
    tags = Tags()
    tags.feed(page)
    assert tags.scripts == 3
    assert tags.bad == []
    assert "49 {%" not in page
    view = SweepState.load(run)
    rows = table(paths["csv"].read_bytes().decode())
    assert len(rows) == len(view.trials)
    assert not any(str(v).startswith(("=", "@", "+", "-")) for r in rows for v in r.values()), (
        "no spreadsheet formula"
    )
    for line in paths["md"].read_text(encoding="utf-8").splitlines():
        assert "<script" not in line
        assert not line.startswith("| ") or line.count(" | ") <= 40
    shown = terminal(view)
    assert "\x1b[31mred" not in shown
    assert "[bold red]markup" in shown.replace("\n", "") or "[bold" in shown
    assert json.loads(paths["json"].read_text(encoding="utf-8"))["trials"]


@pytest.mark.parametrize("width", [120, 80, 60, 45])
def test_terminal_table__narrow_one_hides_params_and_cuts_none(run: Path, width: int) -> None:
    view = SweepState.load(run)
    shown = re.sub(r"\x1b\[[0-9;]*m", "", terminal(view, width)).splitlines()
    assert max(map(len, shown)) <= width
    rows = [line for line in shown if re.match(r" *([0-9]+|—)  t[0-9]+ ", line)]
    assert len(rows) == min(30, len(view.trials))
    assert not any("…" in line for line in rows)
    assert any("hidden (terminal too narrow)" in line for line in shown) == (width < 80)


@pytest.mark.full
def test_write_report__two_thousand_trials_in_half_a_minute(tmp_path: Path) -> None:
    import time

    run = Sweep(trials=2000, slots=32, rule="none", batches=(10,), budget=2000).write(tmp_path)
    began = time.process_time()
    paths = write_report(run)
    assert time.process_time() - began < 30
    assert paths["html"].stat().st_size < 8_000_000

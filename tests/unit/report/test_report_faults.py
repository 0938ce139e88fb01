"""The report lists faults with time, place, action and cost, all escaped."""

from __future__ import annotations

import json
from pathlib import Path

from synthetic_sweep import Sweep

from sweepft.ledger import Ledger
from sweepft.report import write_report


def test_report__lists_faults_with_their_cost(tmp_path: Path) -> None:
    run = Sweep(trials=8, slots=2, seed=0).write(tmp_path / "run")
    with Ledger.open(run) as ledger:
        ledger.append(
            "fault", trial_id=None, slot="s1", rank=None, error="SlotLost", message="the <node> is gone",
            action="tried again", lost_seconds=75.0,
        )  # fmt: skip
    write_report(run)
    report = json.loads((run / "report.json").read_text())
    assert [(f["trial_id"], f["error"], f["lost_seconds"]) for f in report["faults"]] == [
        ("t005", "RankFailed", 7.0), (None, "SlotLost", 75.0),
    ]  # fmt: skip
    assert report["cost"]["lost_to_faults"] == 7.0, "of the slots, by their cost rows"
    page = (run / "report.html").read_text()
    table = page[page.index("<h3>Faults and retries</h3>") :].partition("</table>")[0]
    for words in (
        "t005",
        "RankFailed: rank 0 was killed",
        "7.0 s lost",
        "75 s lost",
        "the &lt;node&gt; is gone",
    ):
        assert words in table, words
    assert "<node>" not in page
    assert "- **Faults** RankFailed, SlotLost; 7.0 s lost" in (run / "report.md").read_text()


def test_report__says_where_there_were_no_faults(tmp_path: Path) -> None:
    run = Sweep(trials=4, slots=2, seed=0, faulty=False).write(tmp_path / "run")
    write_report(run)
    page = (run / "report.html").read_text()
    assert '<p class="muted">None.</p>' in page[page.index("<h3>Faults and retries</h3>") :][:200]
    assert "Faults" not in (run / "report.md").read_text()

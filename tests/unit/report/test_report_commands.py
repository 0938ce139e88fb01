"""The report lists the commands on a running sweep with sender, time and answer, all escaped."""

from __future__ import annotations

import json
from pathlib import Path

from synthetic_sweep import Sweep

from sweepft.ledger import Ledger
from sweepft.report import write_report


def test_report__lists_commands_under_provenance(tmp_path: Path) -> None:
    run = Sweep(trials=4, slots=2, seed=0).write(tmp_path / "run")
    asked = {"command_id": "1", "who": "<ada>@host", "asked": 1.0}
    with Ledger.open(run) as ledger:
        ledger.append(
            "command", command="clone", trial_id="t001", arguments={"params": {"learning_rate": 2e-5}},
            accepted=True, answer="it runs next", **asked,
        )  # fmt: skip
        ledger.append(
            "command", command="stop", trial_id="t000", arguments={}, accepted=False,
            answer="the trial has already ended", **asked,
        )  # fmt: skip
    write_report(run)
    report = json.loads((run / "report.json").read_text())
    assert [(c["command"], c["accepted"]) for c in report["commands"]] == [("clone", True), ("stop", False)]
    page = (run / "report.html").read_text()
    assert "<h3>Commands</h3>" in page
    assert "&lt;ada&gt;@host" in page
    assert "<ada>" not in page
    assert "rejected: the trial has already ended" in page


def test_report__has_no_commands_table_without_commands(tmp_path: Path) -> None:
    run = Sweep(trials=4, slots=2, seed=0).write(tmp_path / "run")
    write_report(run)
    assert "<h3>Commands</h3>" not in (run / "report.html").read_text()

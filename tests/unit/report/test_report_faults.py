"""The report lists faults with time, place, action and cost, all escaped."""

from __future__ import annotations

import json
from pathlib import Path

from synthetic_sweep import Sweep

from sweepft.driver.progress import describe_run, status_of
from sweepft.ledger import Ledger
from sweepft.ledger.rows import GPU_GIVEN_UP, NODE_KEPT_OUT
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


def test_report__names_the_nodes_where_trials_could_not_start(tmp_path: Path) -> None:
    run = Sweep(trials=4, slots=2, seed=0, faulty=False).write(tmp_path / "run")
    with Ledger.open(run) as ledger:
        for trial, node in (("t001", "n3 (10.0.0.3)"), ("t002", "n2 (10.0.0.2), n3 (10.0.0.3)")):
            ledger.append(
                "fault", trial_id=trial, slot=None, rank=None, error="EnvironmentFault", action="waits for another slot",
                message="run: rank 1 raised RuntimeError: <broken>\n  a remedy", node=node,
            )  # fmt: skip
        ledger.append(
            "fault", trial_id=None, slot=None, rank=None, error="NodeFailed", action=NODE_KEPT_OUT,
            message="n3 (10.0.0.3): t001 and t002 failed", node="n3 (10.0.0.3)",
        )  # fmt: skip
        gpu = {"node": "n1 (10.0.0.1)", "gpu": "1"}
        ledger.append(
            "fault", trial_id="t003", slot=None, rank=None, error="EnvironmentFault", action="waits for another slot",
            message="connect: rank 0 raised RuntimeError: self-test", **gpu,
        )  # fmt: skip
        ledger.append(
            "fault", trial_id=None, slot=None, rank=None, error="GpuFailed", action=GPU_GIVEN_UP,
            message="n1 (10.0.0.1), GPU 1: t002 and t003 failed", **gpu,
        )  # fmt: skip
    write_report(run)
    third, second, first = json.loads((run / "report.json").read_text())["nodes"]
    assert (third["node"], third["trials"], third["kept_out"]) == ("n3 (10.0.0.3)", ["t001", "t002"], True)
    assert (second["trials"], second["kept_out"]) == (["t002"], False)
    assert third["reason"] == "run: rank 1 raised RuntimeError: <broken>"
    assert (first["node"], first["gpu"], first["trials"]) == ("n1 (10.0.0.1)", "1", ["t003"])
    assert first["kept_out"]
    page = (run / "report.html").read_text()
    assert "GPU 1 of node n1 (10.0.0.1) was given up." in page
    assert "**Node n1 (10.0.0.1), GPU 1** given up: t003 failed there" in (run / "report.md").read_text()
    assert "GPU given up: n1 (10.0.0.1), GPU 1: t002 and t003 failed" in describe_run(status_of(run))
    assert status_of(run)["gpus_given_up"][0]["gpu"] == "1"
    assert "Node n3 (10.0.0.3) was kept out." in page
    assert (
        "t001, t002 failed there before the first report: run: rank 1 raised RuntimeError: &lt;broken&gt;"
        in page
    )
    assert "kept out: t001, t002 failed there" in (run / "report.md").read_text()
    assert "node kept out: n3" in describe_run(status_of(run))

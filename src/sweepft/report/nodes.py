"""The nodes of the cluster on which trials could not start."""

from __future__ import annotations

from typing import Any

from sweepft.ledger import SweepState
from sweepft.report.format import markdown


def node_rows(sweep: SweepState) -> list[dict[str, Any]]:
    """A row for each node where a trial failed before its first report, over all sessions of the sweep.

    Returns:
        ``node`` (host name and address), ``trials`` (that failed there, in the order of their first failure),
        ``kept_out`` (whether the last session placed no more slots there), ``reason`` (of the last failure).
    """
    found: dict[str, dict[str, Any]] = {}
    for fault in sweep.faults:
        if not fault.get("node") or fault["trial_id"] is None:
            continue
        for name in fault["node"].split(", "):
            row = found.setdefault(name, {"node": name, "trials": [], "kept_out": False, "reason": ""})
            row["trials"] = list(dict.fromkeys([*row["trials"], fault["trial_id"]]))
            row["reason"] = str(fault["message"]).partition("\n")[0]
    for name, message in sweep.nodes_kept_out.items():  # by evaluation jobs alone, where no trial is named
        reason = message.partition("\n")[0]
        found.setdefault(name, {"node": name, "trials": [], "kept_out": True, "reason": reason})[
            "kept_out"
        ] = True
    return list(found.values())


def node_lines(rows: list[dict[str, Any]]) -> list[str]:
    """The same as items of a Markdown list."""
    lines = []
    for row in rows:
        what = "kept out" if row["kept_out"] else "could not start"
        trials = ", ".join(row["trials"]) or "evaluation jobs"
        lines.append(
            f"- **Node {markdown(row['node'])}** {what}: {markdown(trials)} failed there before the first "
            f"report: {markdown(row['reason'], 300)}"
        )
    return lines

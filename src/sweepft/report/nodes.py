"""The nodes and GPUs of the cluster on which trials could not start."""

from __future__ import annotations

from typing import Any

from sweepft.ledger import SweepState
from sweepft.report.format import markdown


def node_rows(sweep: SweepState) -> list[dict[str, Any]]:
    """A row for each node, or GPU where it is known, where a trial failed before its first report, over all sessions of
    the sweep.

    Returns:
        ``node`` (host name and address), ``gpu`` (Ray's id; None for a whole node), ``trials`` (that failed there, in
        the order of their first failure), ``kept_out`` (whether the last session placed no more slots there),
        ``reason`` (of the last failure).
    """
    found: dict[tuple[str, str | None], dict[str, Any]] = {}

    def row_of(node: str, gpu: str | None) -> dict[str, Any]:
        new: dict[str, Any] = {"node": node, "gpu": gpu, "trials": [], "kept_out": False, "reason": ""}
        return found.setdefault((node, gpu), new)

    for fault in sweep.faults:
        if not fault.get("node") or fault["trial_id"] is None:
            continue
        for name, gpu in _places(fault["node"], fault.get("gpu")):
            row = row_of(name, gpu)
            row["trials"] = list(dict.fromkeys([*row["trials"], fault["trial_id"]]))
            row["reason"] = str(fault["message"]).partition("\n")[0]
    kept_out: dict[tuple[str, str | None], str] = {
        (node, None): message for node, message in sweep.nodes_kept_out.items()
    }
    kept_out.update(sweep.gpus_given_up.items())
    for (node, gpu), message in kept_out.items():  # by evaluation jobs alone, where no trial is named
        row = row_of(node, gpu)
        row["kept_out"] = True
        row["reason"] = row["reason"] or message.partition("\n")[0]
    return list(found.values())


def _places(nodes: str, gpus: str | None) -> list[tuple[str, str | None]]:
    """Where a trial failed: nodes, or GPUs of one node."""
    if gpus:
        return [(nodes, gpu) for gpu in gpus.split(", ")]
    return [(node, None) for node in nodes.split(", ")]


def node_lines(rows: list[dict[str, Any]]) -> list[str]:
    """The same as items of a Markdown list."""
    lines = []
    for row in rows:
        what = "could not start"
        if row["kept_out"]:
            what = "kept out" if row["gpu"] is None else "given up"
        gpu = "" if row["gpu"] is None else f", GPU {markdown(row['gpu'])}"
        trials = ", ".join(row["trials"]) or "evaluation jobs"
        lines.append(
            f"- **Node {markdown(row['node'])}{gpu}** {what}: {markdown(trials)} failed there before the first "
            f"report: {markdown(row['reason'], 300)}"
        )
    return lines

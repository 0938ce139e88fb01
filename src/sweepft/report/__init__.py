"""The ranked-trials report, made from a run's ledger: which settings won, how sure, at what cost, and why.

Runs on a copied run folder, without torch and without Ray, also for a sweep that still runs or has crashed.
"""

from __future__ import annotations

from sweepft.report.summary import REPORT_SCHEMA_VERSION, summarise
from sweepft.report.tables import terminal_table
from sweepft.report.write import write_comparison, write_report

__all__ = ["REPORT_SCHEMA_VERSION", "summarise", "terminal_table", "write_comparison", "write_report"]

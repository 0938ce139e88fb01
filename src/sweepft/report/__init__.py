"""The ranked-trials report, made from a run's ledger: the winner, how certain it is, why trials ended, and the cost.

Works on a copied run folder, without torch and Ray, for a finished, running or crashed sweep.
"""

from __future__ import annotations

from sweepft.report.learned import learned_lines
from sweepft.report.summary import REPORT_SCHEMA_VERSION, summarise
from sweepft.report.tables import terminal_table
from sweepft.report.write import write_comparison, write_report

__all__ = [
    "REPORT_SCHEMA_VERSION",
    "learned_lines",
    "summarise",
    "terminal_table",
    "write_comparison",
    "write_report",
]

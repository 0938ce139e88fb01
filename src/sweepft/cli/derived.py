"""What is made from a run's ledger again, and said on the terminal: report and ``best/``."""

from __future__ import annotations

from pathlib import Path

import click

__all__ = ["make_derived"]


def make_derived(run: Path, price: float | None = None, without_weights: bool = False) -> None:
    """Write the report of a run, and ``best/`` where it has a winner whose weights are there, or need not be."""
    from sweepft.best import write_best
    from sweepft.recorder import RunView
    from sweepft.report import write_report

    view = RunView.load(run)
    for path in write_report(run, view=view, price=price).values():
        click.echo(path)
    best = view.best
    if best is not None and (without_weights or (run / "weights" / best.trial_id).is_dir()):
        click.echo(write_best(run, view))

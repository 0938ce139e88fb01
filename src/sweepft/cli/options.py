"""Arguments and options that several commands share, and the files that are derived from a ledger."""

from __future__ import annotations

from pathlib import Path

import click

SET = click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="KEY=VALUE",
    help="Override a key, e.g. train.budget.samples=200.",
)

SPEC = click.argument("spec", type=click.Path(dir_okay=False, path_type=Path))
RUN = click.argument("run", type=click.Path(exists=True, file_okay=False, path_type=Path))

NO_FILES = click.option(
    "--no-files",
    is_flag=True,
    help="Do not read the model and data that SPEC names.",
)

OUT = click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    help="Run folder. Default: a new one under runs/.",
)

ADDRESS = click.option(
    "--address",
    help="Ray cluster: auto, HOST:PORT, or http://HEAD:8265 for a Ray Job. Default: start Ray here.",
)


def make_derived(run: Path, price: float | None = None, without_weights: bool = False) -> None:
    """Write the report of a run, and ``best/`` if its winner's weights are there or are not needed."""
    from sweepft.export import write_best
    from sweepft.ledger import SweepState, winner
    from sweepft.report import write_report

    view = SweepState.load(run)
    for path in write_report(run, state=view, price=price).values():
        click.echo(path)
    best = winner(view)
    if best is not None and (without_weights or (run / "weights" / best.trial_id).is_dir()):
        click.echo(write_best(run, view))

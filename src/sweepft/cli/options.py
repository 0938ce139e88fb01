"""Arguments and options that several subcommands share."""
# MERGED What is made from a run's ledger again, and said on the terminal: report and ``best/``.

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
    help="Do not look at the model and data that SPEC names; they may be elsewhere.",
)


OUT = click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    help="Run folder; a new one under runs/ by default.",
)


ADDRESS = click.option(
    "--address",
    help="Ray cluster to join: auto or HOST:PORT; http://HEAD:8265 submits a Ray Job. Default: a local Ray.",
)


def make_derived(run: Path, price: float | None = None, without_weights: bool = False) -> None:
    """Write the report of a run, and ``best/`` where it has a winner whose weights are there, or need not be."""
    from sweepft.export import write_best
    from sweepft.ledger import SweepState, winner
    from sweepft.report import write_report

    view = SweepState.load(run)
    for path in write_report(run, view=view, price=price).values():
        click.echo(path)
    best = winner(view)
    if best is not None and (without_weights or (run / "weights" / best.trial_id).is_dir()):
        click.echo(write_best(run, view))

"""Arguments and options that several commands share, and the files that are derived from a ledger."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import click

from sweepft.errors import StorageError
from sweepft.files import inside
from sweepft.output import say

SET = click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="KEY=VALUE",
    help="Override a key, e.g. train.budget.samples=200.",
)

SPEC = click.argument("spec", type=click.Path(dir_okay=False, path_type=Path))
RUN = click.argument("run", type=click.Path(exists=True, file_okay=False, path_type=Path))

JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON.")

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


def output_file(_context: click.Context, _option: click.Parameter, path: Path | None) -> Path | None:
    """A file that can be written, found out before the work rather than after it; its folder is made."""
    if path is None or path == Path("-"):  # standard output, where the option allows it
        return path
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise click.BadParameter(f"{path.parent}: cannot be made: {error.strerror}") from error
    if path.is_dir() or not os.access(path if path.exists() else path.parent, os.W_OK):
        raise click.BadParameter(f"{path}: cannot be written" + (": it is a folder" if path.is_dir() else ""))
    return path


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Report a file that cannot be written after all, as on a full disk.

    Raises:
        StorageError: With the system's reason.
    """
    try:
        yield
    except OSError as error:
        raise StorageError(
            f"{path}: cannot be written: {error.strerror or error}\n  free space, or name another file",
            key="output.file",
        ) from error


def make_derived(
    run: Path, price: float | None = None, without_weights: bool = False, *, quiet: bool = False
) -> list[Path]:
    """Write the report of a run, and ``best/`` if its winner's weights are there or are not needed.

    Returns:
        The files, which are printed unless `quiet`.
    """
    from sweepft.export import write_best
    from sweepft.ledger import SweepState, winner
    from sweepft.report import write_report

    view = SweepState.load(run)
    written = list(write_report(run, state=view, price=price).values())
    best = winner(view)
    if best is not None and (without_weights or inside(run, "weights", best.trial_id).is_dir()):
        folder = write_best(run, view)
        written += [folder] if folder is not None else []
    for path in () if quiet else written:
        say(path)
    return written

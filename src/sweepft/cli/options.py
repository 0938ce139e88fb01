"""Arguments and options that several subcommands share."""

from __future__ import annotations

from pathlib import Path

import click

__all__ = ["NO_FILES", "RUN", "SET", "SPEC"]

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

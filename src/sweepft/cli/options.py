"""Arguments and options that several subcommands share."""

from __future__ import annotations

from pathlib import Path

import click

__all__ = ["ADDRESS", "NO_FILES", "OUT", "RUN", "SET", "SPEC"]

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

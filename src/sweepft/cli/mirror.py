"""The command line's side of mirrors: bring one up to date, bring a run folder back from one."""

from __future__ import annotations

from pathlib import Path

import click

from sweepft.cli.derived import make_derived
from sweepft.cli.options import RUN as _RUN
from sweepft.errors import MirrorError

__all__ = ["fetch", "mirror"]


@click.command()
@_RUN
@click.argument("uri", required=False)
def mirror(run: Path, uri: str | None) -> None:
    """Bring the mirror of RUN up to date: that of its spec, or a new one at URI (s3://, gs://, file://)."""
    from sweepft.mirror.follow import copy_once
    from sweepft.recorder import RunView

    uri = uri or (RunView.load(run).spec.get("mirror") or {}).get("uri")
    if uri is None:
        raise MirrorError(f"{run}: has no mirror\n  for example sweepft mirror {run} s3://bucket/folder")
    click.echo(f"{uri}: has everything, {copy_once(run.resolve(), uri) / 1e6:.1f} MB")


@click.command()
@click.argument("uri")
@click.argument("run", type=click.Path(path_type=Path))
def fetch(uri: str, run: Path) -> None:
    """Bring a run folder back from its mirror at URI, as the new folder RUN; then resume, report or replay it."""
    from sweepft.launch.status import describe_run, status_of
    from sweepft.mirror.fetch import fetch as bring

    size = bring(uri, run).size
    click.echo(f"{run}: {size / 1e6:.1f} MB from {uri}")
    make_derived(run, without_weights=True)
    click.echo(describe_run(status_of(run)))

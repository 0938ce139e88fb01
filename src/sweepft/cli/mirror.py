"""``sweepft mirror`` and ``sweepft fetch``: the copy of a run folder elsewhere."""

from __future__ import annotations

import json
from pathlib import Path

import click

from sweepft.cli.options import JSON, RUN, make_derived
from sweepft.cli.results import result_alone
from sweepft.errors import MirrorError
from sweepft.output import say


@click.command()
@RUN
@click.argument("uri", required=False)
@JSON
def mirror(run: Path, uri: str | None, as_json: bool) -> None:
    """Create or update the mirror of a run.

    URI is an address of s3://, gs:// or file://. Default: the one in the run's YAML file.
    """
    from sweepft.ledger import SweepState
    from sweepft.mirror.follow import copy_once

    uri = uri or (SweepState.load(run).spec.get("mirror") or {}).get("uri")
    if uri is None:
        raise MirrorError(
            f"{run}: has no mirror\n  give an address, e.g. sweepft mirror {run} s3://bucket/folder",
            key="mirror.none",
        )
    size = copy_once(run.resolve(), uri) / 1e6
    if as_json:
        say(json.dumps({"uri": uri, "megabytes": size}, indent=2))
    else:
        say(f"{uri}: up to date, {size:.1f} MB")


@click.command()
@click.argument("uri")
@click.argument("run", type=click.Path(path_type=Path))
@JSON
def fetch(uri: str, run: Path, as_json: bool) -> None:
    """Download a run folder from its mirror at URI."""
    from sweepft.driver.progress import describe_run, status_of
    from sweepft.mirror.fetch import fetch as bring

    size = bring(uri, run).size
    with result_alone(as_json) as stream:
        say(f"{run}: {size / 1e6:.1f} MB from {uri}")
        make_derived(run, without_weights=True)
        found = status_of(run)
        say(json.dumps(found, indent=2) if as_json else describe_run(found), file=stream)

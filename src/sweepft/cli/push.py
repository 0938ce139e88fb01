"""``sweepft push``: upload the winner to the hub."""

from __future__ import annotations

import json
from pathlib import Path

import click

from sweepft.cli.options import JSON, RUN
from sweepft.extras import require_run
from sweepft.output import say


@click.command()
@RUN
@click.argument("repo", metavar="ORG/NAME")
@click.option("--public", is_flag=True, help="Make a new repository public.")
@click.option("--adapter", is_flag=True, help="Upload the adapter alone, of a winner that has one.")
@click.option(
    "--with-specs", is_flag=True, help="Upload spec.yaml, trl.yaml and train.py, which name local folders."
)
@JSON
def push(run: Path, repo: str, public: bool, adapter: bool, with_specs: bool, as_json: bool) -> None:
    """Upload the winner of RUN to the Hugging Face Hub.

    A new repository is private. The token is that of HF_TOKEN, or of hf auth login.
    """
    from sweepft.export.push import push_best

    require_run("sweepft push")
    address = push_best(run, repo, private=not public, adapter=adapter, with_specs=with_specs)
    say(json.dumps({"url": address}, indent=2) if as_json else address)

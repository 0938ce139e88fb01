"""Commands on a sweep that runs elsewhere: written into its run folder, answered by its driver."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from sweepft.cli.job import job_of, run_folder, stop_the_job
from sweepft.cli.options import RUN as _RUN

_TRIAL = click.argument("trial")


def _give(run: Path, name: str, trial: str | None = None, arguments: dict[str, Any] | None = None) -> None:
    from sweepft.driver.commands import give_command

    answer = give_command(run_folder(run), name, trial, arguments)
    click.echo(f"{name}{f' {trial}' if trial else ''}: {answer}")


@click.command()
@_RUN
@click.argument("trial", required=False)
def stop(run: Path, trial: str | None) -> None:
    """End TRIAL of the running RUN at its next report; without TRIAL, the whole sweep at the next windows."""
    job = job_of(run)
    if job is not None and trial is None:
        stop_the_job(job)
    else:
        _give(run, "stop", trial)


@click.command()
@_RUN
@_TRIAL
def pin(run: Path, trial: str) -> None:
    """Let no rule stop TRIAL of the running RUN."""
    _give(run, "pin", trial)


@click.command()
@_RUN
@_TRIAL
@click.option(
    "--set", "settings", multiple=True, required=True, metavar="KEY=VALUE", help="A swept setting to change."
)
def clone(run: Path, trial: str, settings: tuple[str, ...]) -> None:
    """Run TRIAL of the running RUN again with other settings, next: --set learning_rate=2e-5."""
    from sweepft.driver.commands import parse_params

    _give(run, "clone", trial, {"params": parse_params(settings)})


@click.command()
@_RUN
@click.option("--trials", type=click.IntRange(min=1), required=True, help="Trials in all.")
def extend(run: Path, trials: int) -> None:
    """Let the running RUN propose more trials."""
    _give(run, "extend", None, {"trials": trials})


@click.command()
@_RUN
def pause(run: Path) -> None:
    """Free the GPUs of the running RUN: trials leave at their next report, and go on from there later."""
    _give(run, "pause")


@click.command("continue")
@_RUN
def go_on(run: Path) -> None:
    """Go on with the paused RUN."""
    _give(run, "continue")


@click.command()
@_RUN
def watch(run: Path) -> None:
    """Show RUN live, wherever its driver is; Ctrl-C ends the watching only."""
    from sweepft.driver.status import watch_run

    watch_run(run_folder(run))


SWEEP_COMMANDS = (watch, stop, pin, clone, extend, pause, go_on)

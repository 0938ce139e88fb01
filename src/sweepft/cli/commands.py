"""Commands on a running sweep. They are written into its run folder; the driver answers them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from sweepft.cli.job import job_of, run_folder, stop_the_job
from sweepft.cli.options import RUN
from sweepft.errors import CommandError, Problem

_TRIAL = click.argument("trial")


def _send(run: Path, name: str, trial: str | None = None, arguments: dict[str, Any] | None = None) -> None:
    from sweepft.driver.commands import give_command

    answer = give_command(run_folder(run), name, trial, arguments)
    click.echo(f"{name}{f' {trial}' if trial else ''}: {answer}")


@click.command()
@RUN
@click.argument("trial", required=False)
def stop(run: Path, trial: str | None) -> None:
    """Stop TRIAL, or the whole sweep.

    A trial stops at its next report. Without TRIAL, running trials stop at their next rung and the sweep ends.
    """
    job = job_of(run)
    if job is not None and trial is None:
        stop_the_job(job)
    else:
        _send(run, "stop", trial)


@click.command()
@RUN
@_TRIAL
def pin(run: Path, trial: str) -> None:
    """Exempt TRIAL from early stopping."""
    _send(run, "pin", trial)


@click.command()
@RUN
@_TRIAL
@click.option(
    "--set", "params", multiple=True, required=True, metavar="KEY=VALUE", help="Swept parameter to change."
)
def clone(run: Path, trial: str, params: tuple[str, ...]) -> None:
    """Queue TRIAL again with changed parameters.

    Example: sweepft clone RUN t003 --set learning_rate=2e-5
    """
    _send(run, "clone", trial, {"params": _parse_params(params)})


@click.command()
@RUN
@click.option("--trials", type=click.IntRange(min=1), required=True, help="Total number of trials.")
def extend(run: Path, trials: int) -> None:
    """Raise the number of trials of a running sweep."""
    _send(run, "extend", None, {"trials": trials})


@click.command()
@RUN
def pause(run: Path) -> None:
    """Pause a running sweep and free its GPUs.

    Trials leave at their next report; sweepft continue resumes them there.
    """
    _send(run, "pause")


@click.command("continue")
@RUN
def go_on(run: Path) -> None:
    """Continue a paused sweep."""
    _send(run, "continue")


@click.command()
@RUN
def watch(run: Path) -> None:
    """Follow a running sweep. Ctrl-C stops watching, not the sweep."""
    from sweepft.driver.progress import watch_run

    watch_run(run_folder(run))


def _parse_params(texts: tuple[str, ...]) -> dict[str, Any]:
    """``learning_rate=2e-5`` texts as params.

    Raises:
        CommandError: If one cannot be read.
    """
    from sweepft.spec.yaml_source import read_value

    params: dict[str, Any] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        where = f"--set {text}"
        if not equals or not key:
            rule, remedy = "must have the form key=value", "for example --set learning_rate=2e-5"
            raise CommandError([Problem(where, key or "--set", rule, remedy)])
        try:
            params[key.strip()] = read_value(value)
        except ValueError as error:
            raise CommandError([Problem(where, key, str(error), "quote the value", value)]) from None
    return params


SWEEP_COMMANDS = (watch, stop, pin, clone, extend, pause, go_on)

"""Commands on a running sweep. They are written into its run folder; the driver answers them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from sweepft.cli.job import job_of, run_folder, stop_the_job
from sweepft.cli.options import JSON, RUN
from sweepft.errors import CommandError, Problem
from sweepft.output import say

_TRIAL = click.argument("trial")


def _send(
    run: Path, as_json: bool, name: str, trial: str | None = None, arguments: dict[str, Any] | None = None
) -> None:
    from sweepft.driver.give_command import give_command

    answer = give_command(run_folder(run), name, trial, arguments)
    if as_json:
        say(json.dumps({"command": name, "trial": trial, "answer": str(answer)}, indent=2))
    else:
        say(f"{name}{f' {trial}' if trial else ''}: {answer}")


@click.command()
@RUN
@click.argument("trial", required=False)
@JSON
def stop(run: Path, trial: str | None, as_json: bool) -> None:
    """Stop TRIAL, or the whole sweep.

    A trial stops at its next report. Without TRIAL, running trials stop at their next rung and the sweep ends.
    """
    job = job_of(run)
    if job is not None and trial is None:
        stop_the_job(job)
    else:
        _send(run, as_json, "stop", trial)


@click.command()
@RUN
@_TRIAL
@JSON
def pin(run: Path, trial: str, as_json: bool) -> None:
    """Exempt TRIAL from early stopping."""
    _send(run, as_json, "pin", trial)


@click.command()
@RUN
@_TRIAL
@click.option(
    "--set", "params", multiple=True, required=True, metavar="KEY=VALUE", help="Swept parameter to change."
)
@JSON
def clone(run: Path, trial: str, params: tuple[str, ...], as_json: bool) -> None:
    """Queue TRIAL again with changed parameters.

    Example: sweepft clone RUN t003 --set learning_rate=2e-5
    """
    _send(run, as_json, "clone", trial, {"params": _parse_params(params)})


@click.command()
@RUN
@click.option("--trials", type=click.IntRange(min=1), required=True, help="Total number of trials.")
@JSON
def extend(run: Path, trials: int, as_json: bool) -> None:
    """Raise the number of trials of a running sweep."""
    _send(run, as_json, "extend", None, {"trials": trials})


@click.command()
@RUN
@JSON
def pause(run: Path, as_json: bool) -> None:
    """Pause a running sweep and free its GPUs.

    Trials leave at their next report; sweepft continue resumes them there.
    """
    _send(run, as_json, "pause")


@click.command("continue")
@RUN
@JSON
def go_on(run: Path, as_json: bool) -> None:
    """Continue a paused sweep."""
    _send(run, as_json, "continue")


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

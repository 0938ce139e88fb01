"""The ``sweepft`` command. Commands import what they need when they run, so that ``sweepft --help`` is fast."""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TextIO

import click

import sweepft
from sweepft.cli.commands import SWEEP_COMMANDS
from sweepft.cli.data import data
from sweepft.cli.init import init
from sweepft.cli.job import is_job, job_of, logs, resubmit, show_job, submit
from sweepft.cli.mirror import fetch, mirror
from sweepft.cli.options import ADDRESS, JSON, OUT, RUN, SET, SPEC, make_derived
from sweepft.cli.plan import plan
from sweepft.cli.presets import presets
from sweepft.cli.push import push
from sweepft.cli.replay import replay
from sweepft.cli.results import result_alone, run_result, schemas
from sweepft.cli.validate import check_rows, validate
from sweepft.extras import require_run
from sweepft.interrupts import Interrupted
from sweepft.output import end_on_failure, make_console, say

if TYPE_CHECKING:
    from sweepft.driver.sweep import SweepResult


SWEEPS: Final = frozenset({"run", "train", "resume", "demo"})
_ACTING: Final = SWEEPS | {
    *("stop", "pin", "clone", "extend", "pause", "continue"),
    *("mirror", "fetch", "track", "dashboard", "push"),
}
"""Commands that do more than print: they do it also if their output cannot be written."""


class _Commands(click.Group):
    """Names the new command where an old one is called. Notes whether the command depends on its output."""

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        end_on_failure(not args or args[0] not in _ACTING)
        if args and args[0] not in self.commands:
            from sweepft.spec.problems import RENAMED_COMMANDS

            if args[0] in RENAMED_COMMANDS:
                raise click.UsageError(f"{args[0]!r} was renamed: sweepft {RENAMED_COMMANDS[args[0]]}", ctx)
        return super().resolve_command(ctx, args)


@click.group(
    cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}
)
@click.version_option(sweepft.__version__, prog_name="sweepft")
def cli() -> None:
    """Find good fine-tuning hyperparameters for small language models with few GPUs."""


@cli.command()
@SPEC
@SET
@OUT
@ADDRESS
@click.option(
    "--tiny",
    is_flag=True,
    help="Try SPEC on a CPU in a minute or two, with a tiny model and generated data.",
)
@JSON
def run(
    spec: Path, overrides: tuple[str, ...], out: Path | None, address: str | None, tiny: bool, as_json: bool
) -> None:
    """Run the sweep of SPEC and write its report."""
    from sweepft.spec import load

    if address is not None and is_job(address):
        submit(load(spec, overrides, check_files=False), out, address)
    require_run("sweepft run")
    loaded = load(spec, overrides, check_files=not tiny)
    out = out or _new_folder(loaded.name + ("-tiny" if tiny else ""))
    if tiny:
        from sweepft.demo import make_tiny

        loaded = make_tiny(loaded, out / "material")
    check_rows(loaded)
    from sweepft.driver.start import start_sweep  # loads Ray, which takes a second: after validation

    with result_alone(as_json) as stream, _resumable(out):
        _close(start_sweep(loaded, out, address=address), stream)


@cli.command()
@click.argument("spec", type=click.Path(path_type=Path))
@click.option("--trial", metavar="ID", help="Retrain this trial; SPEC is then a run folder.")
@SET
@OUT
@ADDRESS
@JSON
def train(
    spec: Path,
    trial: str | None,
    overrides: tuple[str, ...],
    out: Path | None,
    address: str | None,
    as_json: bool,
) -> None:
    """Train a single configuration.

    SPEC is a YAML file without a search space, such as best/spec.yaml, or a run folder with --trial.
    """
    require_run("sweepft train")
    from sweepft.driver.train_alone import spec_of, train_alone

    out = out or _new_folder("train")
    with result_alone(as_json) as stream, spec_of(spec, trial) as one, _resumable(out):
        _close(train_alone(one, overrides, out, address=address), stream)


def _trial_ids(_context: click.Context, _option: click.Parameter, text: str | None) -> tuple[str, ...] | None:
    """``t003,t007``; an empty tuple for all."""
    if text is None:
        return None
    return () if text == "all" else tuple(name.strip() for name in text.split(",") if name.strip())


@cli.command()
@RUN
@SET
@ADDRESS
@click.option(
    "--retry-failed",
    is_flag=False,
    flag_value="all",
    callback=_trial_ids,
    metavar="[IDS]",
    help="Run failed trials again: all, or those named, e.g. t003,t007.",
)
@click.option(
    "--take-over",
    is_flag=True,
    help="Do not wait for a driver on another host that is known to be dead.",
)
@JSON
def resume(
    run: Path,
    overrides: tuple[str, ...],
    address: str | None,
    retry_failed: tuple[str, ...] | None,
    take_over: bool,
    as_json: bool,
) -> None:
    """Resume a run, or extend it.

    Finished trials are kept, interrupted ones continue. To extend: --set search.trials=64

    A run whose driver was on another host is taken over when that driver has given no sign of life for two
    minutes. With --take-over this does not wait. If that driver still runs, it stops at its next heartbeat (5
    seconds), and what its trials do until then is lost.
    """
    job = job_of(run)
    if job is not None:
        resubmit(job, overrides, address, retry_failed, take_over)
    require_run("sweepft resume")
    from sweepft.driver.start import resume_sweep

    with result_alone(as_json) as stream, _resumable(run):
        finished = resume_sweep(
            run, overrides, address=address, retry_failed=retry_failed, take_over=take_over
        )
        _close(finished, stream)


@cli.command()
@RUN
@JSON
def status(run: Path, as_json: bool) -> None:
    """Show the status of a run."""
    from sweepft.driver.progress import describe_run, status_of

    job = job_of(run)
    if job is not None:
        show_job(job, as_json)
        return
    found = status_of(run)
    say(json.dumps(found, indent=2) if as_json else describe_run(found))


for command in (data, fetch, init, logs, mirror, plan, presets, push, replay, validate, *SWEEP_COMMANDS):
    cli.add_command(command)


@cli.command()
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("runs/demo"),
    show_default=True,
    help="Folder of the demo's model, data and runs.",
)
@JSON
def demo(out: Path, as_json: bool) -> None:
    """Run a sweep of 12 trials with a tiny model on generated data."""
    require_run("sweepft demo")
    from sweepft.demo import make_demo
    from sweepft.driver.start import start_sweep
    from sweepft.spec import load

    say(f"creating the demo's data and model in {out / 'material'}", err=as_json)
    spec = make_demo(out / "material")
    run = out / f"run-{dt.datetime.now().strftime('%Y%m%d-%H%M%S')}"
    with result_alone(as_json) as stream, _resumable(run):
        _close(start_sweep(load(spec), run), stream)


@cli.command()
@click.argument(
    "runs",
    nargs=-1,
    required=True,
    metavar="RUN...",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
)
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("comparison"),
    show_default=True,
    help="Folder of the comparison, for several runs.",
)
@click.option(
    "--price",
    type=click.FloatRange(min=0),
    help="Price per GPU-hour (on CPUs per slot-hour), instead of resources.price_per_gpu_hour.",
)
@JSON
def report(runs: tuple[Path, ...], out: Path, price: float | None, as_json: bool) -> None:
    """Write the report of a run, or compare several."""
    if len(runs) == 1:
        written = make_derived(runs[0], price, quiet=as_json)
    else:
        from sweepft.report import write_comparison

        written = list(write_comparison(runs, out, price=price).values())
        for path in () if as_json else written:
            say(path)
    if as_json:
        say(json.dumps({"files": [str(path) for path in written]}, indent=2))


@cli.command()
@RUN
@click.option(
    "--port", type=click.IntRange(1, 65535), default=8080, show_default=True, help="Port of the page."
)
def dashboard(run: Path, port: int) -> None:
    """Serve optuna-dashboard for the study of a run.

    It listens on this machine only, and needs sweepft[dashboard].
    """
    from sweepft.search.study import serve_dashboard

    say(f"http://127.0.0.1:{port}/ shows {run}; Ctrl-C stops the server")
    serve_dashboard(run, port)


@cli.command()
@RUN
@SET
@JSON
def track(run: Path, overrides: tuple[str, ...], as_json: bool) -> None:
    """Upload metrics missing from the configured trackers."""
    from sweepft.trackers.feed import track_run

    found = track_run(run, overrides)
    if as_json:
        say(json.dumps(found, indent=2))
    for name, failure in () if as_json else found.items():
        say(f"{name}: {failure or 'up to date'}")
    sys.exit(any(found.values()))


@cli.command()
@click.argument("name", required=False, default="sweep")
def schema(name: str) -> None:
    """Print the JSON schema of the YAML file, or of a command's --json.

    NAME is a command, such as run, validate, data or plan; without it, the schema is that of the YAML file.
    """
    from sweepft.spec import json_schema

    known = {"sweep": json_schema, **schemas()}
    if name not in known:
        raise click.UsageError(f"there is no schema {name!r}: name one of {', '.join(known)}")
    say(json.dumps(known[name](), indent=2))


@contextlib.contextmanager
def _resumable(run: Path) -> Iterator[None]:
    """Print how to go on after a signal that ended the command before its sweep was over."""
    try:
        yield
    except Interrupted as error:
        ledger = run / "ledger" / "ledger.jsonl"
        started = ledger.is_file() and ledger.stat().st_size > 0
        again = (
            f"to resume: sweepft resume {run}" if started else f"to start again: the same with --out {run}"
        )
        say(f"{error}; {again}", err=True)
        raise


def _new_folder(name: str) -> Path:
    return Path("runs") / f"{name}-{dt.datetime.now().strftime('%Y%m%d-%H%M%S')}"


def _close(finished: SweepResult, stream: TextIO | None) -> None:
    """Print the result, as JSON to `stream` if there is one, and exit with its code."""
    if stream is not None:
        say(json.dumps(run_result(finished), indent=2, allow_nan=False), file=stream)
        sys.exit(finished.exit_code)

    from sweepft.report import terminal_table

    console = make_console()
    console.print(terminal_table(finished.view))
    for path in finished.reports.values():
        console.print(str(path), highlight=False, markup=False, soft_wrap=True)
    if finished.fault is not None:
        console.print(f"error: {finished.fault}", style="red", highlight=False, markup=False, soft_wrap=True)
    if finished.status in ("interrupted", "failed") or finished.interrupted:
        console.print(
            f"to resume: sweepft resume {finished.run_dir}", highlight=False, markup=False, soft_wrap=True
        )
    if finished.best is not None:
        console.print(f"winner: {finished.best}", highlight=False, markup=False, soft_wrap=True)
    sys.exit(finished.exit_code)

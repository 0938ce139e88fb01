"""Ray Jobs on the command line: submit one, follow it, and address it by the local folder that holds its note."""

from __future__ import annotations

import datetime as dt
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import click

from sweepft.cli.options import RUN
from sweepft.errors import JobError, Problem
from sweepft.files import inside
from sweepft.output import say

if TYPE_CHECKING:
    from sweepft.driver.ray_job import Job
    from sweepft.spec import SweepSpec


def is_job(address: str | None) -> bool:
    """Whether an address is that of a Ray Jobs server."""
    return address is not None and address.startswith(("http://", "https://"))


def submit(spec: SweepSpec, out: Path | None, address: str) -> NoReturn:
    """Submit a sweep, follow it, and exit with its code."""
    from sweepft.driver.ray_job import submit_sweep

    note = _new_note(spec.name)
    _follow(submit_sweep(spec, out, address, note), note)


def resubmit(
    before: Job,
    overrides: tuple[str, ...],
    address: str | None,
    retry_failed: tuple[str, ...] | None,
    take_over: bool,
) -> NoReturn:
    """Resume a job's run in a new job."""
    from sweepft.driver.ray_job import resume_job

    note = _new_note(before.name)
    job = resume_job(before, overrides, address, note, retry_failed, take_over=take_over)
    _follow(job, note)


def job_of(folder: Path) -> Job | None:
    """The job that a folder refers to; None for a run folder."""
    if not (folder / "job.json").is_file():
        return None
    from sweepft.driver.ray_job import noted_job

    return noted_job(folder)


def run_folder(folder: Path) -> Path:
    """The run folder that a folder is or refers to.

    Raises:
        JobError: If it is not accessible from this machine.
    """
    job = job_of(folder)
    if job is None:
        return folder
    found = Path(job.run_dir)
    if not found.is_dir():
        rule, remedy = (
            "the run folder is not accessible from this machine",
            "run the command on a machine that mounts it",
        )
        raise JobError([Problem(str(folder), "run_dir", rule, remedy, job.run_dir)])
    return found


def show_job(job: Job, as_json: bool) -> None:
    """Show the status of a job, and of its sweep if the run folder is accessible."""
    from sweepft.driver.progress import describe_run, status_of
    from sweepft.driver.ray_job import job_status

    found = job_status(job)
    sweep = status_of(Path(job.run_dir)) if (Path(job.run_dir) / "ledger").is_dir() else None
    if as_json:
        say(json.dumps(found | {"sweep": sweep}, indent=2))
        return
    say(f"job {found['job']}: {found['status']} at {found['address']}")
    if found["message"]:
        say(found["message"])
    say(describe_run(sweep) if sweep else f"run folder, on the cluster: {job.run_dir}")


def stop_the_job(job: Job) -> None:
    """Ask the job's driver to stop."""
    from sweepft.driver.ray_job import stop_job

    stop_job(job)
    say(f"job {job.submission_id}: stop requested; to resume: sweepft resume")


@click.command()
@RUN
def logs(run: Path) -> None:
    """Show the driver's log; follow it if RUN is a Ray Job."""
    job = job_of(run)
    if job is not None:
        _follow(job, run)
    file = inside(run, "logs", "driver.log")
    say(file.read_text(encoding="utf-8", errors="replace") if file.is_file() else f"{file}: empty", nl=False)


def _new_note(name: str) -> Path:
    return Path("runs") / f"{name}-job-{dt.datetime.now().strftime('%Y%m%d-%H%M%S')}"


def _follow(job: Job, note: Path) -> NoReturn:
    from sweepft.driver.ray_job import follow

    say(
        f"job {job.submission_id} at {job.address}; Ctrl-C stops following, not the job. Local folder: {note}"
    )
    try:
        status = follow(job, lambda text: say(text, nl=False))
    except KeyboardInterrupt:
        say(f"\nthe job keeps running; see: sweepft status {note}, sweepft logs {note}, sweepft stop {note}")
        sys.exit(0)
    say(f"job {job.submission_id}: {status}")
    sys.exit(0 if status == "succeeded" else 1)

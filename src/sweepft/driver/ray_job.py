"""A sweep as a Ray Job: spec and code go to the cluster, and the driver runs there without this client.

A folder with ``job.json`` stays here, which names the job; ``status``, ``logs``, ``stop`` and ``resume`` take that
folder. The run folder itself is on the cluster's shared storage.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import re
import shlex
import socket
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import sweepft
from sweepft.bounded_json import read_json_file
from sweepft.driver.cluster_address import may_use_token, use_token
from sweepft.driver.notify import with_secret_apart
from sweepft.errors import JobError, Problem
from sweepft.extras import install
from sweepft.files import atomic_write
from sweepft.ledger.commands import who_am_i
from sweepft.redact import redact
from sweepft.spec import SweepSpec, dump

NOTE: Final = "job.json"

_CONNECT_SECONDS: Final = 10.0
"""For the job server to take a connection; Ray would wait for minutes."""

_STOP_SECONDS: Final = "60"
"""From the stop of a job to its kill: time to write the ledger's last rows. Ray's default is 3."""


@dataclass(frozen=True)
class Job:
    """A submitted sweep.

    Attributes:
        address: Of the cluster's job server, ``http://HEAD:8265``.
        submission_id: Names the job there.
        run_dir: The run folder, on the cluster.
        name: Of the sweep.
    """

    address: str
    submission_id: str
    run_dir: str
    name: str


def submit_sweep(spec: SweepSpec, run_dir: Path | None, address: str, note: Path) -> Job:
    """Submit a new sweep.

    Args:
        spec: Loaded; the files it names are looked for on the cluster only.
        run_dir: Run folder, on storage that every node of the cluster sees.
        address: Of the job server.
        note: Folder for ``job.json``.
    Raises:
        JobError: If the run folder is no absolute path, or the job server cannot be reached or refuses.
    """
    if run_dir is None or not run_dir.is_absolute():
        rule = "a job needs an absolute path on storage that every node of the cluster sees"
        found = None if run_dir is None else str(run_dir)
        raise JobError(
            [Problem("sweepft run", "--out", rule, "for example --out /shared/runs/my-sweep", found)]
        )
    command = ["python", "-m", "sweepft.cli", "run", "spec.yaml", "--out", str(run_dir), "--address", "auto"]
    return _submit(
        command, {"spec.yaml": dump(with_secret_apart(spec))}, spec.name, str(run_dir), address, note
    )


def resume_job(
    before: Job,
    overrides: Sequence[str],
    address: str | None,
    note: Path,
    retry_failed: Sequence[str] | None = None,
    *,
    take_over: bool = False,
) -> Job:
    """Submit a job that resumes the run of an earlier one.

    Raises:
        JobError: If an override holds a secret, which the job server would show to whoever reaches it, or the job
            server cannot be reached or refuses.
    """
    if any(redact(text) != text for text in overrides):
        remedy = "give it in the environment of the cluster's nodes"
        raise JobError([Problem("sweepft resume", "--set", "must not hold a token, key or password", remedy)])
    command = ["python", "-m", "sweepft.cli", "resume", before.run_dir, "--address", "auto"]
    command += [part for text in overrides for part in ("--set", text)] + ["--take-over"] * take_over
    if retry_failed is not None:
        command += ["--retry-failed", ",".join(retry_failed) or "all"]
    return _submit(command, {}, before.name, before.run_dir, address or before.address, note)


def noted_job(folder: Path) -> Job | None:
    """The job of a folder's ``job.json``, or None.

    Raises:
        JobError: If this user did not write the file on this machine. Its address is given the cluster's token, so one
            that somebody else has named is not used.
    """
    file = folder / NOTE
    if not file.is_file():
        return None
    try:
        found = read_json_file(file, most=1 << 16, links=False)
        job = Job(**found)
        sound = all(isinstance(text, str) and text for text in found.values())
    except (OSError, ValueError, TypeError):
        raise _strange(folder, "is not a note about a job") from None
    if not sound or not _ADDRESS.fullmatch(job.address):
        raise _strange(folder, "does not name a job at http(s)://HOST:PORT")
    if not _known(job).is_file():
        raise _strange(folder, "was not written here by this user")
    return job


_ADDRESS: Final = re.compile(r"https?://([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?/?")


def _strange(folder: Path, rule: str) -> JobError:
    remedy = "give the run folder itself, or ask the cluster: ray job status SUBMISSION_ID --address http://HEAD:8265"
    return JobError([Problem(str(folder / NOTE), "job.note", rule, remedy)])


def _known(job: Job) -> Path:
    """The file that tells this user's own notes from copies of others."""
    state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    digest = hashlib.sha256(json.dumps(asdict(job), sort_keys=True).encode()).hexdigest()
    return Path(state) / "sweepft" / "jobs" / digest


def write_note(job: Job, folder: Path) -> None:
    """Write a job's note, and remember that it is this user's own.

    Raises:
        OSError: If one of the two files cannot be written.
    """
    known = _known(job)
    known.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    atomic_write(known, "", sync=False)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    atomic_write(folder / NOTE, json.dumps(asdict(job), indent=1) + "\n")


def job_status(job: Job) -> dict[str, Any]:
    """``job, status (pending, running, succeeded, failed, stopped), message, address, run_dir``."""
    with _server(job.address) as client:
        info = client.get_job_info(job.submission_id)
    return {
        "name": job.name,
        "job": job.submission_id,
        "status": str(info.status.value).lower(),
        "message": redact(info.message or ""),
        "address": job.address,
        "run_dir": job.run_dir,
    }


def stop_job(job: Job) -> None:
    """Ask the driver to end. The run can be resumed."""
    with _server(job.address) as client:
        client.stop_job(job.submission_id)


def follow(job: Job, say: Callable[[str], None]) -> str:
    """Pass on what the driver prints, from its first line until it ends. Returns the job's status then."""

    async def tail(client: Any) -> None:
        async for text in client.tail_job_logs(job.submission_id):
            say(text)

    with _server(job.address) as client:
        asyncio.run(tail(client))
    return str(job_status(job)["status"])


def _submit(
    command: list[str], files: dict[str, str], name: str, run_dir: str, address: str, note: Path
) -> Job:
    job = Job(address, f"sweepft-{name}-{os.urandom(4).hex()}", run_dir, name)
    with _server(address) as client, tempfile.TemporaryDirectory(prefix="sweepft-job-") as folder:
        for file, text in files.items():
            atomic_write(Path(folder) / file, text, sync=False)
        write_note(job, note)
        client.submit_job(
            entrypoint=shlex.join(command),
            submission_id=job.submission_id,
            # The environment stays here: tokens are the cluster's to give (see docs/how-to/cluster.md).
            runtime_env={
                "working_dir": folder,
                "py_modules": [str(Path(sweepft.__file__).parent)],
                "env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": _STOP_SECONDS},
            },
            metadata=job_metadata(name, run_dir),
        )
    return job


def job_metadata(name: str, run_dir: str) -> dict[str, str]:
    """What a job server shows of a sweep to everyone who can reach it."""
    facts = {"sweep": name, "run_dir": run_dir, "who": who_am_i()}
    return {key: redact(value) for key, value in facts.items()}


@contextlib.contextmanager
def _server(address: str) -> Iterator[Any]:
    """A client of a job server; its errors are raised as `JobError`."""
    try:
        from ray.exceptions import RayError  # as which a missing or wrong token comes
        from ray.job_submission import JobSubmissionClient
    except ImportError as error:
        raise _problem(address, f"Ray's job client is not installed ({error})") from None
    elsewhere = os.environ.pop("RAY_ADDRESS", None)  # Ray would prefer it to the address that was asked for
    try:
        if not _ADDRESS.fullmatch(address):
            raise _problem(address, "must be http://HOST:PORT or https://HOST:PORT, without a user or a path")
        server = urlsplit(address)
        port = server.port or (443 if server.scheme == "https" else 80)
        socket.create_connection((server.hostname or "", port), timeout=_CONNECT_SECONDS).close()
        try:
            client = JobSubmissionClient(address)
        except RayError:
            if not may_use_token():
                raise
            use_token()
            client = JobSubmissionClient(address)
        yield client
    except (RayError, RuntimeError, OSError, ValueError) as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise _problem(address, redact(lines[0])) from error
    finally:
        if elsewhere is not None:
            os.environ["RAY_ADDRESS"] = elsewhere


def _problem(address: str, rule: str) -> JobError:
    if "ray[default]" in rule or "not installed" in rule:
        return JobError([Problem(address, "--address", rule, install("aiohttp"))])
    if "Authentication" in rule:
        remedy = (
            "set RAY_AUTH_MODE=token, and give the cluster's token in RAY_AUTH_TOKEN or ~/.ray/auth_token"
        )
        return JobError([Problem(address, "--address", rule, remedy)])
    remedy = (
        "is the cluster up, and its job server (port 8265) reachable from here? see docs/how-to/cluster.md"
    )
    return JobError([Problem(address, "--address", rule, remedy)])

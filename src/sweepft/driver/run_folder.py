"""The run folder: created once, private to its user, and visible from every node of the cluster.

Also the ``sweep`` row, which records what was asked and where it runs.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

import sweepft
from sweepft.data import Prepared, model_digest
from sweepft.errors import ResourceError, StorageError, SweepftError
from sweepft.evaluation.own_metric import own_tasks
from sweepft.files import atomic_write, inside
from sweepft.ledger import Ledger, has_trials
from sweepft.search import STUDY_FILE
from sweepft.spec import SweepSpec, dump

_PROBE_BYTES = 1 << 16
_PACKAGES = ("torch", "transformers", "datasets", "ray", "optuna", "deepspeed", "pandas")


def make_run_folder(
    out: Path,
    spec: SweepSpec,
    *,
    say: Callable[[str], None] | None = None,
    clock: Callable[[], float] = time.time,
) -> Ledger:
    """Create the folder of a new run, with the resolved spec in it, and begin its ledger.

    What a sweep that failed before its first trial has left in the folder is replaced.

    Args:
        out: The run folder.
        spec: Resolved.
        say: See `sweepft.ledger.lock.WriterLock`.
        clock: See `Ledger.create`.
    Raises:
        SweepftError: If the folder already holds a run.
        LedgerLocked: If a sweep is starting in it.
        UnsafePath: If the folder holds links in place of what a sweep writes.
        StorageError: If it cannot be written.
    """
    check_links(out)
    if has_trials(out):
        raise SweepftError(
            f"{out}: already holds a run\n  name another folder with --out, or resume it: sweepft resume {out}",
            key="run_dir.exists",
        )
    _make_folders(out)
    ledger = Ledger.create(out, clock, say=say)
    try:
        for old in (STUDY_FILE, "ledger/commands.jsonl"):
            (out / old).unlink(missing_ok=True)
        shutil.rmtree(out / "track", ignore_errors=True)
        write_spec(out, spec)
    except BaseException as error:
        ledger.close()
        if isinstance(error, OSError):
            raise _not_writable(out, error) from error
        raise
    return ledger


_OURS: Final = (
    *(
        "ledger/lease",
        "logs/driver.log",
        "study.journal",
        "spec.yaml",
        "cache",
        "home",
        "ray",
        "weights",
        "items",
    ),
    *("track", "tensorboard", "wandb", "trackio", "best", "checkpoints", "mirror", "base"),
)


def check_links(run_dir: Path) -> None:
    """Refuse a run folder in which a folder or file that a sweep writes is a symbolic link.

    Raises:
        UnsafePath: With the link's path.
    """
    for name in _OURS:
        inside(run_dir, name)


def write_spec(run_dir: Path, spec: SweepSpec) -> None:
    """Write ``spec.yaml``, as a whole. Raises OSError."""
    atomic_write(run_dir / "spec.yaml", dump(spec))


def with_trials(spec: SweepSpec, trials: int | None) -> SweepSpec:
    """The spec with another number of trials."""
    return spec.model_copy(update={"search": spec.search.model_copy(update={"trials": trials})})


def _make_folders(out: Path) -> None:
    try:
        out.mkdir(mode=0o700, parents=True, exist_ok=True)
        with contextlib.suppress(OSError):  # an existing folder of another user
            out.chmod(0o700)
        (out / "logs").mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise _not_writable(out, error) from error


def _not_writable(out: Path, error: OSError) -> StorageError:
    return StorageError(
        f"{out}: the run folder cannot be written: {error.strerror}\n"
        "  make it writable, or name another folder with --out"
    )


def storage_problem(out: Path) -> StorageError | None:
    """Why the run folder cannot be written, found by writing a file; None if it can."""
    probe = out / f".probe-{os.getpid()}"
    try:
        atomic_write(probe, bytes(_PROBE_BYTES))
    except OSError as error:
        return StorageError(
            f"{out}: the run folder cannot be written: {error.strerror}\n"
            "  Free space or make the folder writable, then resume the run."
        )
    finally:
        with contextlib.suppress(OSError):
            probe.unlink(missing_ok=True)
    return None


def sweep_row(spec: SweepSpec, prepared: Prepared) -> dict[str, Any]:
    """The fields of the ``sweep`` row: what is asked, on which data, and where it runs."""
    data = prepared.model_dump(mode="json")
    return {
        **asked_row(spec),
        "budget_samples": prepared.budget_samples,
        "data": data,
        "model_digest": model_digest(spec.model),
        "own_metrics": {task.name: task.expected for task in own_tasks(spec)},
    }


def asked_row(spec: SweepSpec) -> dict[str, Any]:
    """The fields of the ``sweep`` row without budget and data."""
    resolved = spec.to_dict()
    return {
        "name": spec.name,
        "spec": resolved,
        "spec_digest": hashlib.sha256(json.dumps(resolved, sort_keys=True, default=str).encode()).hexdigest(),
        "seed": spec.search.seed,
        "sweepft_version": sweepft.__version__,
        "versions": {"python": platform.python_version()} | {name: _version(name) for name in _PACKAGES},
        "hardware": {
            "host": platform.node(),
            "machine": platform.machine(),
            "system": platform.platform(),
            "cpus": os.cpu_count(),
        },
        "git_commit": _git_commit(),
        "command": " ".join([_program(), *sys.argv[1:]]),
    }


def _program() -> str:
    """The name of this program; under ``python -m sweepft.cli`` that is not the file's name."""
    name = Path(sys.argv[0]).name
    return "sweepft" if name == "__main__.py" else name


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _git_commit() -> str | None:
    """Commit of the current folder, if that is a git checkout."""
    try:
        done = subprocess.run(
            ["git", "rev-parse", "HEAD"], capture_output=True, text=True, timeout=5, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


_PATIENCE = 15.0
"""Seconds in which a network file system must show a new file everywhere."""

_START = 120.0
"""Seconds for a worker process to start on each node."""


def check_shared(run_dir: Path) -> None:
    """Write a file into the run folder, and look for it from every node that can hold a rank.

    Raises:
        ResourceError: With the nodes that do not see it.
    """
    nodes = [n for n in ray.nodes() if n["Alive"] and n["Resources"].get("CPU", 0) > 0]
    if len(nodes) < 2:
        return
    probe = run_dir / f".seen-{os.urandom(8).hex()}"
    atomic_write(probe, probe.name, sync=False)
    try:
        look = ray.remote(num_cpus=0, max_retries=0)(_sees)
        asked = {
            look.options(
                scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            ).remote(str(probe), probe.name, _PATIENCE): node
            for node in nodes
        }
        done, _ = ray.wait(list(asked), num_returns=len(asked), timeout=_START)
        blind = [_name(node) for answer, node in asked.items() if answer not in done or not _yes(answer)]
    finally:
        probe.unlink(missing_ok=True)
    if blind:
        raise ResourceError(not_shared(run_dir, blind, len(nodes)), key="run_dir.not_shared")


def not_shared(run_dir: Path, blind: list[str], nodes: int) -> str:
    """The message about nodes that do not see a run folder."""
    return (
        f"{run_dir}: {len(blind)} of {nodes} nodes of the cluster do not see the run folder: {', '.join(blind[:5])}\n"
        "  name a folder on storage that all nodes share (NFS and the like) with --out, or run on one node"
    )


def _sees(path: str, text: str, patience: float) -> bool:
    deadline = time.monotonic() + patience
    while True:
        try:
            if Path(path).read_text(encoding="utf-8") == text:
                return True
        except OSError:
            pass
        if time.monotonic() >= deadline:
            return False
        time.sleep(0.2)


def _yes(answer: Any) -> bool:
    try:
        return bool(ray.get(answer))
    except ray.exceptions.RayError:
        return False


def _name(node: dict[str, Any]) -> str:
    return str(node.get("NodeManagerHostname") or node.get("NodeManagerAddress"))

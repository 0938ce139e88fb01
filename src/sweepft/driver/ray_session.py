"""A Ray session for one sweep: started here or joined, quiet, and ended only if it was started here.

Also what Ray's and Tune's processes read from the environment, and how a local Ray is started.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import logging
import os
import secrets
import signal
import sys
import tempfile
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import ray
from ray._private import ray_constants, services
from ray._private import utils as ray_utils
from ray.tune.execution import class_cache

from sweepft.driver.cluster_room import check_cluster
from sweepft.driver.configs import local_cpus
from sweepft.driver.run_folder import check_shared
from sweepft.files import remove_tree
from sweepft.interrupts import Interrupted
from sweepft.redact import RedactingFormatter, redact_files
from sweepft.secret_shapes import names_a_secret
from sweepft.spec import SweepSpec


@contextlib.contextmanager
def ray_session(spec: SweepSpec, run_dir: Path, address: str | None = None) -> Iterator[list[str]]:
    """A Ray session that holds at least one trial; yields warnings about its CPUs and GPUs.

    Args:
        spec: Its trials are to fit.
        run_dir: Its ``logs/`` takes what Ray and Tune would print.
        address: A running cluster (``auto`` or ``HOST:PORT``); None starts a local one, unless this process
            already has a session, which is then used and left alone.
    Raises:
        ResourceError: If not even one trial fits, or a node of the cluster does not see the run folder.
    """
    set_environment()
    _log_to(run_dir / "logs" / "driver.log")
    found = []
    started, local = not ray.is_initialized(), False
    token = os.environ.get("RAY_AUTH_MODE"), os.environ.get("RAY_AUTH_TOKEN")
    if started and address is None:
        cpus, scarce = local_cpus(spec)
        found += [scarce] if scarce else []
        with _own_signals():
            start_ray(cpus)
        local = True
    elif started:
        with _own_signals():
            ray.init(
                address=address, log_to_driver=False, logging_level=logging.WARNING, configure_logging=False
            )
    _log_to(run_dir / "logs" / "driver.log")  # again: ray.init adds handlers of its own
    try:
        found += check_cluster(spec.resources)
        check_shared(run_dir)
        yield found
    finally:
        if started:
            with _own_signals():
                ray.shutdown()
        if local:
            _set_token(*token)
        redact_files(run_dir / "logs")  # libraries write to the ranks' logs directly


@contextlib.contextmanager
def _own_signals() -> Iterator[None]:
    """Keep this process's handler of SIGTERM while Ray starts, which sets its own, and ends, which removes any."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    except SystemExit:  # by Ray's handler
        raise Interrupted(signal.SIGTERM) from None
    finally:
        in_main = threading.current_thread() is threading.main_thread()  # elsewhere Ray sets none
        if in_main and before is not None:
            signal.signal(signal.SIGTERM, before)


class _LogFile(logging.FileHandler):
    """A log that takes what it can: a full disk or a removed folder ends neither the sweep nor the next message."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write the record if the file can be opened."""
        with contextlib.suppress(OSError):
            super().emit(record)

    def handleError(self, record: logging.LogRecord) -> None:
        """Drop a record that cannot be written."""

    def close(self) -> None:
        """Close the file."""
        with contextlib.suppress(OSError):  # what it still holds is written now
            super().close()


def _log_to(file: Path) -> None:
    """Send what libraries log in this process to a file in the run folder, and keep it off the terminal."""
    handler = _LogFile(file, delay=True, encoding="utf-8", errors="backslashreplace")
    handler.setFormatter(RedactingFormatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    for name in ("ray", "sweepft", "optuna", "py.warnings"):
        logger = logging.getLogger(name)
        for old in logger.handlers:
            if isinstance(old, logging.FileHandler):
                old.close()  # of a sweep before this one in the same process
        logger.handlers = [handler]
        logger.propagate = False
    logging.captureWarnings(True)
    warnings.filterwarnings("default", module=r"(ray|optuna)\.")


_ENVIRONMENT: Final = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # TensorBoard, CSV and JSON files of every result: the ledger has them
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # Ctrl-C is ours: it ends trials at their rungs
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",  # validation loss comes at rungs only
    "TUNE_GLOBAL_CHECKPOINT_S": "600",  # Tune's own snapshot grows with the sweep and is not relied upon
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_worker_niceness": "0",
    "RAY_TRAIN_COUNT_PREEMPTION_AS_FAILURE": "1",  # else Tune restarts a preempted trial itself, from its start
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "TOKENIZERS_PARALLELISM": "false",
}


def set_environment() -> None:
    """Set what Ray and Tune read from the environment, where the user has not set it."""
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    # Tune writes these into each actor's environment, which Ray logs. Processes of a local Ray inherit them anyway.
    class_cache.ENV_VARS_TO_PROPAGATE = {
        name
        for name in class_cache.ENV_VARS_TO_PROPAGATE
        if not (name.startswith("AWS_") or names_a_secret(name))
    }


def start_ray(cpus: int) -> None:
    """Start a local Ray that listens on the loopback only, and join it. ``ray.shutdown`` ends it.

    Its files are private to the user, and all who connect must show a token, which is in the environment of this
    process and its children only: other users of the machine can reach the loopback, too.

    Args:
        cpus: Logical CPUs it has to give.
    """
    folder = _private_folder()
    atexit.register(remove_tree, folder)
    _set_token("token", secrets.token_hex(32))
    with _on_loopback(), _own_process_groups(), _private_files(), _without_agent_servers():
        ray.init(
            address="local",  # else Ray joins a cluster that runs here, and refuses num_cpus
            _temp_dir=str(folder / "r"),  # Ray opens its own folder to all users, but not the one around it
            num_cpus=cpus,
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.WARNING,
            configure_logging=False,
        )


def _private_folder() -> Path:
    """A new folder for the files of a Ray session. Its path is short: those of Ray's sockets have 107 bytes at most."""
    parent = os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or "/tmp"
    return Path(tempfile.mkdtemp(prefix="r", dir=parent))


@contextlib.contextmanager
def _private_files() -> Iterator[None]:
    """Files of this process, and of those that it starts meanwhile, can be read by their user only."""
    before = os.umask(0o077)
    try:
        yield
    finally:
        os.umask(before)


def _set_token(mode: str | None, token: str | None) -> None:
    """Set what Ray reads of its token in this process and its children; None removes it."""
    for name, value in (("RAY_AUTH_MODE", mode), ("RAY_AUTH_TOKEN", token)):
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
    if (raylet := sys.modules.get("ray._raylet")) is not None:
        raylet.Config.initialize("")


@contextlib.contextmanager
def _own_process_groups() -> Iterator[None]:
    """Have Ray's processes lead process groups of their own; Ray has no option for it.

    A closed terminal, ``timeout`` and job control signal the group of this process. Ray's processes would end with the
    signal, before the trials and the report. They still end with this process, of whatever it dies.
    """
    popen = services.ConsolePopen
    services.ConsolePopen = functools.partial(popen, process_group=0) if sys.platform == "linux" else popen
    try:
        yield
    finally:
        services.ConsolePopen = popen


@contextlib.contextmanager
def _without_agent_servers() -> Iterator[None]:
    """Have Ray's agent start without its HTTP server, which takes jobs (programs to run), and without metrics ports.

    Ray has no option for it, but starts so where ``ray[default]`` is not installed: here it is made to think so.
    """
    before = ray_utils.get_dashboard_dependency_error
    ray_utils.get_dashboard_dependency_error = lambda: ImportError("not wanted")
    try:
        yield
    finally:
        ray_utils.get_dashboard_dependency_error = before


@contextlib.contextmanager
def _on_loopback() -> Iterator[None]:
    """Have Ray listen on the loopback only, as on a Mac; on Linux there is no option for it."""
    before, name = ray_constants.ENABLE_RAY_CLUSTER, ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR
    kept = os.environ.get(name)
    ray_constants.ENABLE_RAY_CLUSTER, os.environ[name] = False, "0"
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before
        os.environ.pop(name)
        if kept is not None:
            os.environ[name] = kept

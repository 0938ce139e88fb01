"""A Ray session for one sweep: started here or joined, quiet, and ended only if it was started here."""

from __future__ import annotations

import contextlib
import logging
import signal
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path

import ray

from sweepft.launch.storage import check_shared
from sweepft.redact import RedactingFormatter, redact_files
from sweepft.spec import SweepSpec
from sweepft.tuner.resources import check_cluster, local_cpus
from sweepft.tuner.session import set_environment, start_ray

__all__ = ["ray_session", "set_environment"]


@contextlib.contextmanager
def ray_session(spec: SweepSpec, run_dir: Path, address: str | None = None) -> Iterator[str | None]:
    """A Ray session that holds at least one trial; yields a warning about CPUs, or None.

    Args:
        spec: Whose trials are to fit.
        run_dir: Its ``logs/`` takes what Ray and Tune would print.
        address: A running cluster (``auto`` or ``HOST:PORT``); None starts a local one, unless this process
            already has a session, which is then used and left alone.
    Raises:
        ResourceError: If not even one trial fits, or a node of the cluster does not see the run folder.
    """
    set_environment()
    _log_to(run_dir / "logs" / "driver.log")
    warning = None
    started = not ray.is_initialized()
    if started and address is None:
        cpus, warning = local_cpus(spec)
        with _own_sigterm():
            start_ray(cpus)
    elif started:
        with _own_sigterm():
            ray.init(
                address=address, log_to_driver=False, logging_level=logging.WARNING, configure_logging=False
            )
    _log_to(run_dir / "logs" / "driver.log")  # once more: ray.init brings handlers of its own
    try:
        check_cluster(spec)
        check_shared(run_dir)
        yield warning
    finally:
        if started:
            ray.shutdown()
        redact_files(run_dir / "logs")  # the ranks', which libraries write to as they like


@contextlib.contextmanager
def _own_sigterm() -> Iterator[None]:
    """Keep this process's answer to SIGTERM, by which sweeps end at their windows: Ray's own ends the process."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        in_main = threading.current_thread() is threading.main_thread()  # elsewhere Ray sets none
        if in_main and before is not None:
            signal.signal(signal.SIGTERM, before)


def _log_to(file: Path) -> None:
    """Send what libraries log in this process to a file in the run folder, and keep it off the terminal."""
    handler = logging.FileHandler(file, delay=True)
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

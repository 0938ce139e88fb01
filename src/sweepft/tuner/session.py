"""A Ray of our own on this machine: what its processes read from the environment, and how it is started."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator
from typing import Final

import ray
from ray._private import ray_constants

__all__ = ["set_environment", "start_ray"]

_ENVIRONMENT: Final = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # TensorBoard, CSV and JSON files of every result: the ledger has them
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # Ctrl-C is ours: it ends trials at their windows
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",  # held-out loss comes at windows only
    "TUNE_GLOBAL_CHECKPOINT_S": "600",  # Tune's own snapshot grows with the sweep and is not relied upon
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_worker_niceness": "0",
    "RAY_TRAIN_COUNT_PREEMPTION_AS_FAILURE": "1",  # else Tune starts a preempted trial again itself, from its start
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "TOKENIZERS_PARALLELISM": "false",
}


def set_environment() -> None:
    """Set what Ray and Tune read from the environment, where the user has not set it."""
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)


def start_ray(cpus: int) -> None:
    """Start a local Ray that listens on the loopback only, and join it. ``ray.shutdown`` ends it.

    Args:
        cpus: Logical CPUs it has to give.
    """
    with _on_loopback():
        ray.init(
            address="local",  # else Ray joins a cluster that happens to run here, and refuses num_cpus
            num_cpus=cpus,
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.WARNING,
            configure_logging=False,
        )


@contextlib.contextmanager
def _on_loopback() -> Iterator[None]:
    """Have a Ray that starts now listen on the loopback only, as it does on a Mac; on Linux it has no option for it."""
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

"""One Ray session for all end-to-end tests of a run: starting one costs as much as a small sweep."""

from __future__ import annotations

import logging
import os

import pytest


@pytest.fixture(scope="session")
def ray_here():
    import ray

    from sweepft.driver.ray_session import set_environment

    set_environment()
    os.environ["SWEEPFT_PRETEND_GPUS"] = "1"  # one is counted; no trial trains on it
    ray.init(
        address="local",
        num_cpus=8,
        num_gpus=1,
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
    )
    yield ray
    ray.shutdown()

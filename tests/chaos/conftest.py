"""Faults for real: run by ``make chaos``, kept out of ``make test``."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.chaos)


@pytest.fixture(scope="package")
def ray_here():
    """One local Ray for the tests of this folder that need no cluster of their own."""
    import ray

    from sweepft.launch.cluster import set_environment

    set_environment()
    ray.init(num_cpus=8, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    yield ray
    ray.shutdown()
